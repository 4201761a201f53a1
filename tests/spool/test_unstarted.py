"""Claims that ended with their owner, before the job had begun: when that is held against the job."""

from __future__ import annotations

from pathlib import Path

from framework.engine.spool.engine import SpoolEngine
from framework.engine.spool.format import history
from tests.support.settling import retry

from .world import dead_owner, failure, job, one


def died_with_it(spool: SpoolEngine, root: Path) -> int:
    """A process claims the job and dies before it starts, and it is rescued: how often that has happened now."""
    dead_owner(root, lambda mine: one(mine))
    (orphan,) = spool.rescue()
    count = spool.unaccounted(orphan.lease)
    spool.release([orphan.lease])
    return count


def test_each_death_before_the_start_counts_until_one_is_accounted_for(spool: SpoolEngine, root: Path) -> None:
    """Ledgers that a power cut lost must not let a poison job go on for ever."""
    spool.enqueue([job("a")])
    assert [died_with_it(spool, root) for _ in range(4)] == [1, 2, 3, 4]
    retry(spool, one(spool), delay=0, failure=failure())
    assert died_with_it(spool, root) == 4, "the retry accounts for one"


def test_a_release_takes_the_deaths_before_it_off(spool: SpoolEngine, root: Path) -> None:
    """Regression: sixty snoozes, and a neighbour that killed the worker before it had begun the job."""
    spool.enqueue([job("a")])
    for _ in range(60):
        spool.release([one(spool)])
    for _ in range(4):
        assert died_with_it(spool, root) == 1
        spool.release([one(spool)])


def test_a_delivery_is_counted_once_however_many_rescuers_die_over_it(spool: SpoolEngine, root: Path) -> None:
    spool.enqueue([job("a")])
    dead_owner(root, lambda mine: one(mine))
    for _ in range(4):
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
    assert died_with_it(spool, root) == 1
