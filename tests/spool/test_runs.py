"""Run records."""

from __future__ import annotations

from pathlib import Path

import pytest

from framework.brokers.spool import SpoolBroker
from framework.job import RunRecord
from framework.outcome import Kind, Outcome
from framework.spool import runs
from framework.spool.names import parse
from tests.settling import retry

from . import world
from .world import body, claim, failure, ids, job, one, run

NAME = parse("01795544352185812362.e672c630." + "f" * 16 + ".aabbccddeeff,0.0")
assert NAME is not None
STARTED = runs.Started(NAME.stem, RunRecord(3, 7, 2, 1000.5, "ab" * 16, "cd" * 8, True))


@pytest.mark.parametrize(
    "started",
    [
        STARTED,
        STARTED.with_outcome("dead_lettered", 1.5),
        runs.Started(NAME.stem, RunRecord(0, 1, 1, 0.0)),
    ],
)
def test_a_record_comes_back_from_256_bytes(started: runs.Started) -> None:
    data = runs.encode(started)
    assert len(data) == runs.ROW
    assert runs.decode(data) == started


def test_a_torn_record_is_none() -> None:
    """It is one run or the other, or none: never a mixture, which would charge a job for another's run."""
    old, new = runs.encode(STARTED), runs.encode(runs.Started("0" * 50, RunRecord(3, 8, 1, 2000.0)))
    for cut in range(1, 200):
        assert runs.decode(new[:cut] + old[cut:]) in (None, runs.decode(new), runs.decode(old))
    assert runs.decode(bytes(runs.ROW)) is None


def test_every_outcome_has_room() -> None:
    for kind in Kind:
        found = runs.decode(runs.encode(STARTED.with_outcome(kind.value, 0)))
        assert found is not None
        assert Kind(found.outcome) == kind


def test_the_lock_file_is_allocated_before_it_is_used(root: Path) -> None:
    """A full disk must not keep a job from starting, nor a sparse file from being what it seems.

    Verified: with ftruncate in fallocate's place the file has no blocks.
    """
    options = world.QueueOptions("wide", concurrency=100)
    broker = world.broker(root, options)
    assert claim(broker, "wide") == []
    (lock,) = (root / "wide" / "claimed").glob("*.lock")
    assert lock.stat().st_size >= 101 * runs.ROW
    assert lock.stat().st_blocks * 512 >= lock.stat().st_size
    broker.close()


def test_what_a_row_held_before_is_replaced(spool: SpoolBroker, root: Path) -> None:
    def live(mine: SpoolBroker) -> None:
        mine.enqueue([job("a"), job("b")])
        first, second = claim(mine)
        mine.start(first, run(first))
        mine.start(second, run(second))

    world.dead_owner(root, live)
    found = {r.lease.job.id: r.run for r in spool.rescue()}
    assert found["a"] is None
    assert found["b"] is not None


def test_a_record_of_an_earlier_delivery_says_nothing(spool: SpoolBroker, root: Path) -> None:
    """The job was started, released, claimed again: the second claim has not started.

    Verified: matching by name alone charges it.
    """

    def live(mine: SpoolBroker) -> None:
        mine.enqueue([job("a")])
        lease = one(mine)
        mine.start(lease, run(lease))
        mine.release([lease])
        one(mine)

    world.dead_owner(root, live)
    (orphan,) = spool.rescue()
    assert orphan.lease.delivery == 2
    assert orphan.run is None


def test_a_reported_failure_reaches_the_rescuer_and_is_stored_once(spool: SpoolBroker, root: Path) -> None:
    def live(mine: SpoolBroker) -> None:
        mine.enqueue([job("a")])
        lease = one(mine)
        mine.start(lease, run(lease))
        mine.reported(lease, Outcome(Kind.RETRIED, 0.0, failure(lease, message="told")))

    world.dead_owner(root, live)
    (orphan,) = spool.rescue()
    assert orphan.reported == Outcome(Kind.RETRIED, 0.0, failure(orphan.lease, message="told"))
    assert orphan.run == run(orphan.lease)
    assert orphan.reported is not None
    assert orphan.reported.failure is not None
    retry(spool, orphan.lease, delay=0, failure=orphan.reported.failure)
    again = one(spool)
    assert [f.message for f in again.job.history] == ["told"]
    assert again.attempt == 2


def test_a_rescuer_reports_too(spool: SpoolBroker, root: Path) -> None:
    """It emits the killed attempt's span, reports, and is killed itself: the next one finishes, and charges nothing."""

    def live(mine: SpoolBroker) -> None:
        mine.enqueue([job("a")])
        lease = one(mine)
        mine.start(lease, run(lease))

    def rescue(mine: SpoolBroker) -> None:
        (orphan,) = mine.rescue()
        mine.reported(orphan.lease, Outcome(Kind.SUCCEEDED))

    world.dead_owner(root, live)
    world.dead_owner(root, rescue)
    (orphan,) = spool.rescue()
    assert orphan.reported == Outcome(Kind.SUCCEEDED)
    assert orphan.lease.delivery == 1


def test_payloads_of_claims_are_right(spool: SpoolBroker) -> None:
    spool.enqueue([job("a"), job("b")])
    leases = claim(spool)
    assert ids(leases) == ["a", "b"]
    assert [lease.job.payload for lease in leases] == [body("a"), body("b")]
