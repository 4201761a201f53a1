"""Lists of a store of which the system refuses to show a part: a directory of another user, a bad sector."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.command import TIMEOUT, WORKER, Cli, Result

PLAIN = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"]  # a root that the rights of files bind, too
pytestmark = pytest.mark.skipif(
    os.geteuid() == 0 and shutil.which("setpriv") is None, reason="root reads everything, and there is no setpriv"
)


@pytest.fixture
def dead(relay: Cli) -> Cli:
    """Dead letters in two buckets of the dead-letter queue, and one on a queue without; a bad file of each queue."""
    for name in ("one", "two"):
        relay.store("deliveries", {"to": name, "weight": None}, name)
    relay.kill_jobs("deliveries")
    first = min((relay.spool / "dead-letters" / "ready").glob("[0-9]*/*"))
    older = first.parent.with_name(f"{int(first.parent.name) - 1:010}")
    older.mkdir()
    first.rename(older / first.name)
    relay.store("digests", 7, "seven")
    relay.kill_jobs("digests")
    for queue in ("deliveries", "digests"):
        (relay.spool / queue / "bad").mkdir(exist_ok=True)
        (relay.spool / queue / "bad" / f"x{queue}").write_bytes(b"?")
    return relay


def run(cli: Cli, *args: str) -> Result:
    command = [*(PLAIN if os.geteuid() == 0 else []), WORKER, *args]
    done = subprocess.run(command, capture_output=True, cwd=cli.home, env=cli.environ, timeout=TIMEOUT, text=True)
    return Result(done.returncode, done.stdout, done.stderr)


def letters(spool: Path) -> Path:
    return min((spool / "dead-letters" / "ready").glob("[0-9]*"))


CASES: dict[str, tuple[Callable[[Path], Path], set[str], set[str]]] = {
    "a bucket": (letters, {"two", "seven"}, {"xdeliveries", "xdigests"}),
    "a letter": (lambda spool: next(letters(spool).iterdir()), {"two", "seven"}, {"xdeliveries", "xdigests"}),
    "a state": (lambda spool: spool / "digests" / "dead", {"one", "two"}, {"xdeliveries", "xdigests"}),
    "bad files": (lambda spool: spool / "digests" / "bad", {"one", "two", "seven"}, {"xdeliveries"}),
    "a queue": (lambda spool: spool / "digests", {"one", "two"}, {"xdeliveries"}),
}


@pytest.mark.parametrize("case", CASES)
def test_a_list_shows_the_rest_and_names_what_is_refused(case: str, dead: Cli) -> None:
    """Regression: the whole command failed."""
    find, there, bad = CASES[case]
    path = find(dead.spool)
    path.chmod(0)
    try:
        for command, expected in (("dead", there), ("bad", bad)):
            result = run(dead, command, "list", "relay")
            assert {row[0] for row in result.rows} == expected, result
            refused = [line for line in result.err.splitlines() if "permission denied" in line.lower()]
            everything = {"dead": {"one", "two", "seven"}, "bad": {"xdeliveries", "xdigests"}}[command]
            assert (result.code, bool(refused)) == ((1, True) if expected != everything else (0, False)), result
            assert len(set(refused)) == len(refused) <= 2  # of a whole queue also that it may be undeclared
            assert all(str(path.relative_to(dead.spool)) in line for line in refused), result
    finally:
        path.chmod(0o700)


def test_what_can_be_seen_can_be_acted_on(dead: Cli) -> None:
    bucket = letters(dead.spool)
    bucket.chmod(0)
    try:
        assert run(dead, "dead", "replay", "relay", "two").code == 0
        result = run(dead, "dead", "show", "relay", "one")
        assert result.error == "there is no dead letter 'one': see `worker dead list`"
        assert "Permission denied" in result.err
        result = run(dead, "dead", "discard", "relay", "--all", "--yes")
        assert (result.code, result.out) == (1, "deleted 1 dead letter\n")
    finally:
        bucket.chmod(0o700)
    assert [row["id"] for row in dead.ok("dead", "list", "relay", "--json").json] == ["one"]
