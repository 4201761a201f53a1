"""Claims that ended with their owner, before the job had begun: when that is held against the job."""

from __future__ import annotations

from pathlib import Path

from framework.engine.port import MOST_UNCHARGED
from framework.engine.spool.engine import SpoolEngine
from framework.engine.spool.format import history
from tests.settling import retry

from .world import dead_owner, failure, job, one


def died_with_it(spool: SpoolEngine, root: Path) -> bool:
    """A process claims the job and dies before it starts, and it is rescued: whether it is charged. It waits again."""
    dead_owner(root, lambda mine: one(mine))
    (orphan,) = spool.rescue()
    charged = spool.unaccounted(orphan.lease) > MOST_UNCHARGED
    spool.release([orphan.lease])
    return charged


def test_a_job_that_dies_with_its_owner_again_and_again_is_charged(spool: SpoolEngine, root: Path) -> None:
    """Ledgers that a power cut lost must not let a poison job go on for ever."""
    spool.enqueue([job("a")])
    assert [died_with_it(spool, root) for _ in range(51)] == [False] * 50 + [True]
    retry(spool, one(spool), delay=0, failure=failure())
    assert died_with_it(spool, root)


def test_a_job_that_was_released_again_and_again_is_not_charged(spool: SpoolEngine, root: Path) -> None:
    """Regression: sixty snoozes, and a neighbour that killed the worker before it had begun the job.

    Verified: without taking off what was accounted for, the last of these is charged.
    """
    spool.enqueue([job("a")])
    for _ in range(60):
        spool.release([one(spool)])
    assert not died_with_it(spool, root)
    for _ in range(55):
        spool.release([one(spool)])
        assert not died_with_it(spool, root)


def test_a_delivery_is_counted_once_however_many_rescuers_die_over_it(spool: SpoolEngine, root: Path) -> None:
    spool.enqueue([job("a")])
    dead_owner(root, lambda mine: one(mine))
    for _ in range(52):
        dead_owner(root, lambda mine: [mine.unaccounted(orphan.lease) for orphan in mine.rescue()])
    (orphan,) = spool.rescue()
    assert spool.unaccounted(orphan.lease) == 1


def test_the_count_is_no_history_and_a_torn_one_is_none(spool: SpoolEngine, root: Path) -> None:
    spool.enqueue([job("a")])
    died_with_it(spool, root)
    (path,) = (root / "jobs" / "ready").glob("*/*")
    lease = one(spool)
    assert list(lease.job.history) == []
    at = lease.token.slots_at + history.SLOTS * history.SLOT
    spool.release([lease])
    (path,) = (root / "jobs" / "ready").glob("*/*")
    with path.open("r+b") as file:
        file.seek(at)
        assert file.read(4) == b"LST1"
        file.write(b"\xff" * 12)
    assert not died_with_it(spool, root)
