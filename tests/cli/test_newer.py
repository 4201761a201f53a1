"""Jobs that only a newer version of the framework can read: every command shows them, and none touches them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.spool.poison import make_newer
from tests.support.command import Cli


@pytest.fixture
def mixed(relay: Cli) -> Cli:
    """A digest and a dead letter of a newer format, a digest whose name asks for a newer version, and one of ours."""
    relay.store("deliveries", {"to": "a"}, "letter")
    relay.kill_jobs("deliveries")
    relay.store("digests", 7, "theirs")
    relay.store("digests", 8, "named")
    first, second = sorted((relay.spool / "digests" / "ready").glob("*/*"))
    make_newer(first)
    second.rename(second.with_name(f"{second.name},Gkey"))
    (letter,) = (relay.spool / "dead-letters" / "ready").glob("*/*")
    make_newer(letter)
    relay.store("digests", 9, "ours")
    return relay


def stored(cli: Cli) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in cli.spool.glob("*/ready/*/*")}


def test_queues_names_each(mixed: Cli) -> None:
    result = mixed.ok("queues", "relay")
    assert {row[0]: row[1] for row in result.rows}["digests"] == "3"
    said = result.err.splitlines()
    assert len(said) == 3
    assert "dead-letters: ready job in file" in said[0]
    assert "format 2 is newer than 1" in said[0]
    assert "bytes; its format 2 is newer than 1, which this version of the framework reads" in said[1]
    assert ",Gkey: " in said[2]
    assert "its name asks for a newer version" in said[2]
    found = {queue["queue"]: queue["newer"] for queue in mixed.ok("queues", "relay", "--json").json}
    assert [list(one) for one in found["digests"]] == [["file", "state", "since", "flaw", "place"]] * 2
    assert {Path(one["place"]) for one in found["digests"]} < set(stored(mixed))
    assert found["deliveries"] == []


def test_of_a_queue_that_nobody_declares_too(mixed: Cli) -> None:
    (mixed.spool / "digests").rename(mixed.spool / "retired")
    assert mixed.ok("queues", "relay").err.count("retired: ready job in file") == 2


def test_dead_list_and_show_have_what_is_known(mixed: Cli) -> None:
    (row,) = mixed.ok("dead", "list", "relay").rows
    assert (row[1], row[2], row[3]) == ("dead-letters", "dead-letters", "dead")
    assert "format 2 is newer than 1" in row[-1]
    assert "unread    " in mixed.ok("dead", "show", "relay", row[0]).out


@pytest.mark.parametrize("verb", [("replay", "--all"), ("discard", "--all", "--yes")])
def test_no_verb_touches_them(mixed: Cli, verb: tuple[str, ...]) -> None:
    before = stored(mixed)
    result = mixed.run("dead", verb[0], "relay", *verb[1:])
    assert result.code == 1
    assert "use that version's command" in result.err
    assert stored(mixed) == before
