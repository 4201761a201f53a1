"""`worker bad`: list, show, restore, discard."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.command import Cli


@pytest.fixture
def bad(relay: Cli) -> Cli:
    """Two damaged jobs, one of which had a chosen id, and one of a queue that no service declares."""
    for queue, payload, job_id in (("digests", 7, "one"), ("digests", 8, "two"), ("deliveries", {"to": "a"}, "three")):
        relay.store(queue, payload, job_id)
    for queue in ("digests", "deliveries"):
        for path in (relay.spool / queue / "ready").glob("*/*"):
            damage(path)
        assert relay.kill_jobs(queue) == []
    (relay.spool / "deliveries").rename(relay.spool / "retired")
    return relay


def damage(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b'"headers":', b'"h\x1b[31ms":'))


def repair(path: Path, *, anew: bool = False) -> None:
    """As a person does: in place, or by an editor that writes a new file."""
    data = path.read_bytes().replace(b'"h\x1b[31ms":', b'"headers":')
    if anew:
        path.unlink()
    path.write_bytes(data)
    path.chmod(0o600)


def listed(cli: Cli, *args: str) -> list[dict[str, str]]:
    found: list[dict[str, str]] = cli.ok("bad", "list", "relay", "--json", *args).json
    return found


def test_list(bad: Cli) -> None:
    found = listed(bad)
    assert [list(row) for row in found] == [["file", "queue", "since", "flaw", "place", "after"]] * 3
    assert [row["queue"] for row in found] == ["digests", "digests", "retired"]
    assert {row["flaw"] for row in found} == {"checksum of the content"}
    assert all(Path(row["place"]).is_file() for row in found)
    assert [row["queue"] for row in listed(bad, "--queue", "retired")] == ["retired"]
    assert len(listed(bad, "--queue", "daily_digests", "--limit", "1")) == 1
    assert bad.run("bad", "list", "relay", "--queue", "digest").code == 2
    result = bad.ok("bad", "list", "relay")
    assert result.out.splitlines()[0] == "file\tqueue\tsince\tflaw"
    assert result.rows[2] == [found[2]["file"], "retired", found[2]["since"], "checksum of the content"]


def test_show(bad: Cli) -> None:
    (one, _, _) = listed(bad)
    shown = bad.ok("bad", "show", "relay", one["file"]).out
    assert f"place   {one['place']}\n" in shown
    assert "flaw    checksum of the content\n" in shown
    assert r"\x89WSPOOL" in shown
    assert "\x1b" not in shown
    found = bad.ok("bad", "show", "relay", one["file"], "--json").json
    assert '"id":"one"' in found["start"]
    assert bad.run("bad", "show", "relay", "nobody").error == "there is no bad file 'nobody': see `worker bad list`"


@pytest.mark.parametrize("anew", [False, True])
def test_what_was_repaired_runs_again_and_what_was_not_stays(bad: Cli, anew: bool) -> None:
    one, two, three = listed(bad)
    repair(Path(one["place"]), anew=anew)
    assert listed(bad)[0]["flaw"] == ""
    assert "none: it can be read now" in bad.ok("bad", "show", "relay", one["file"]).out
    result = bad.run("bad", "restore", "relay", "--all")
    assert (result.code, result.out) == (1, "restored 1 bad file\n")
    assert result.err.splitlines() == [
        f"worker: warning: {row['file']} cannot be read: checksum of the content" for row in (two, three)
    ]
    assert [row["file"] for row in listed(bad)] == [two["file"], three["file"]]
    bad.store("digests", 7, "one")  # its id is taken again
    assert bad.kill_jobs("digests") == ["one"]
    assert bad.ok("dead", "show", "relay", "one", "--json").json["payload"] == 7


def test_a_job_whose_id_is_taken_by_now_is_not_restored(bad: Cli) -> None:
    one, *_ = listed(bad)
    place = Path(one["place"])
    data = place.read_bytes()
    place.unlink()
    bad.store("digests", 9, "one")
    place.write_bytes(data)
    repair(place)
    result = bad.run("bad", "restore", "relay", one["file"])
    assert (result.code, result.out) == (1, "restored 0 bad files\n")
    assert "is job 'one', and another job has that id" in result.err
    assert place.is_file()


def test_a_file_of_any_name_gets_a_jobs_name(bad: Cli) -> None:
    one, *_ = listed(bad)
    copy = Path(one["place"]).with_name("from the backup.job")
    Path(one["place"]).rename(copy)
    repair(copy)
    bad.ok("bad", "restore", "relay", copy.name)
    assert bad.kill_jobs("digests") == ["one"]


def test_a_planted_thing_is_listed_and_stays(bad: Cli) -> None:
    place = bad.spool / "digests" / "bad"
    (place / "a directory").mkdir()
    (place / "a link").symlink_to("/etc/passwd")
    flaws = {row["file"]: row["flaw"] for row in listed(bad)}
    assert flaws["a directory"] == flaws["a link"] == "not a regular file"
    result = bad.run("bad", "restore", "relay", "a directory", "a link")
    assert (result.code, result.out) == (1, "restored 0 bad files\n")
    assert "root:" not in json.dumps(bad.ok("bad", "show", "relay", "a link", "--json").json)


def test_what_cannot_be_deleted_keeps_nothing_else(bad: Cli) -> None:
    place = bad.spool / "digests" / "bad" / "0 directory"
    place.mkdir()
    result = bad.run("bad", "discard", "relay", "--all", "--yes")
    assert (result.code, result.out) == (1, "deleted 3 bad files\n")
    assert result.err == (f"worker: warning: 0 directory stays: spool {place}: job '0 directory': Is a directory\n")
    assert [row["file"] for row in listed(bad)] == ["0 directory"]


def test_discard(bad: Cli) -> None:
    one, two, _ = listed(bad)
    asked = bad.run("bad", "discard", "relay", one["file"])
    assert (asked.code, asked.error) == (2, "nothing was deleted: not a terminal: pass --yes to confirm")
    assert bad.run("bad", "discard", "relay", one["file"], "nobody", "--yes").code == 1
    assert len(listed(bad)) == 3
    shown = bad.terminal("bad", "discard", "relay", one["file"], typed="n\n", when="Delete 1 bad file for ever?")
    assert shown.code == 1
    assert bad.ok("bad", "discard", "relay", one["file"], "--yes").out == "deleted 1 bad file\n"
    assert listed(bad)[0]["file"] == two["file"]
    bad.store("digests", 1, "one")  # its id is free
    assert bad.kill_jobs("digests") == ["one"]
    assert bad.ok("bad", "discard", "relay", "--all", "--yes").out == "deleted 2 bad files\n"
    assert listed(bad) == []
    assert bad.run("bad", "discard", "relay", "--yes").error == "give the names of bad files, or --all"
