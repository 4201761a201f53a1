"""Run records of the version before, which kept them in the lock files of its workers."""

from __future__ import annotations

from pathlib import Path

import pytest

from framework.engine.spool.engine import SpoolEngine
from framework.engine.spool.format import runs
from framework.engine.spool.format.names import parse
from framework.engine.spool.upkeep.rescue import Orphan, rescued
from framework.model.job import RunRecord
from framework.model.outcome import Kind

from . import world
from .world import body, claim, ids, job

NAME = parse("01795544352185812362.e672c630." + "f" * 16 + ".aabbccddeeff,0.0")
assert NAME is not None
RUN = RunRecord(3, 7, 2, 1000.5, "ab" * 16, "cd" * 8, True)
STEM = (
    "3b0000003031373935353434333532313835383132333632"
    "2e65363732633633302e666666666666666666666666666666662e616162626363646465656666"
)
# As the version before has written them.
STARTED = (
    "52554e31db44bb4d03000000070000000000000002000000010000000000000000448f400000000000000000"
    "ababababababababababababababababcdcdcdcdcdcdcdcd00000000000000000000000000000000" + STEM
)
FAILED = (
    "52554e3147c86ab203000000070000000000000002000000010000000000000000448f40000000000000f83f"
    "ababababababababababababababababcdcdcdcdcdcdcdcd646561645f6c65747465726564000000" + STEM
)
UNTRACED = (
    "52554e31a8d1c75a0000000001000000000000000100000000000000000000000000000000000000000000000000000000000000"
    "0000000000000000000000000000000000000000000000000000000000000000" + STEM
)


def row(digits: str) -> bytes:
    return bytes.fromhex(digits).ljust(runs.ROW, b"\0")


@pytest.mark.parametrize(
    ("digits", "started"),
    [
        (STARTED, runs.Started(NAME.stem, RUN)),
        (FAILED, runs.Started(NAME.stem, RUN, "dead_lettered", 1.5)),
        (UNTRACED, runs.Started(NAME.stem, RunRecord(0, 1, 1, 0.0))),
    ],
)
def test_a_record_of_the_version_before_is_read(digits: str, started: runs.Started) -> None:
    assert runs.decode(row(digits)) == started
    head = runs.head("boot", 1.0)
    assert runs.read_rows(head + bytes(runs.ROW) + row(digits)) == {(NAME.stem, started.run.delivery): started}


def test_the_version_before_has_another_word_for_archived(spool: SpoolEngine) -> None:
    spool.enqueue([job("a")])
    (lease,) = claim(spool)
    reported = rescued(Orphan(lease, "dead", runs.Started("stem", RUN, "rested"))).reported
    assert reported is not None
    assert reported.kind is Kind.ARCHIVED


def test_a_torn_record_is_none() -> None:
    """It is one run or the other, or none: never a mixture, which would charge a job for another's run."""
    old, new = row(STARTED), row(UNTRACED)
    for cut in range(1, 200):
        assert runs.decode(new[:cut] + old[cut:]) in (None, runs.decode(new), runs.decode(old))
    assert runs.decode(bytes(runs.ROW)) is None


def test_a_lock_file_of_this_version_holds_no_run(root: Path) -> None:
    mine = world.broker(root)
    mine.enqueue([job("a")])
    claim(mine)
    (lock,) = (root / "jobs" / "claimed").glob("*.lock")
    assert lock.stat().st_size == runs.ROW
    assert runs.read_rows(lock.read_bytes()) == {}
    mine.close()


def test_payloads_of_claims_are_right(spool: SpoolEngine) -> None:
    spool.enqueue([job("a"), job("b")])
    leases = claim(spool)
    assert ids(leases) == ["a", "b"]
    assert [lease.job.payload for lease in leases] == [body("a"), body("b")]
