"""The directory, or a part of it, goes away under processes that live long: they find the new one, or say so."""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path

import pytest

from framework.engine.spool.claim.notifier import Listener
from framework.model.errors import EngineUnavailable, EnqueueFailed
from tests.support.settling import ack, bury, retry

from .world import broker, census, claim, failure, ids, job, often, one

PARTS = ["", "tmp", "ready", "claimed", "delayed", "ids", "dead"]


def _move(root: Path) -> None:
    root.rename(root.with_name("old"))


def _replace(root: Path) -> None:
    """By one whose inode may have the number of the old one."""
    shutil.rmtree(root)
    broker(root).close()


@pytest.mark.parametrize("how", [_move, shutil.rmtree, _replace])
def test_a_producer_opens_anew_what_is_at_its_path(root: Path, how: object) -> None:
    """Verified: without it, jobs go to the directory that was moved, or every enqueue fails for ever."""
    mine = broker(root)
    mine.enqueue([job("before")])
    how(root)  # type: ignore[operator]
    mine.enqueue([job("a")])
    mine.enqueue([job("b", chosen=True), job("c", delay=3600)])
    other = broker(root)
    assert census(other) == {"a": 1, "b": 1, "c": 1}
    mine.close()
    other.close()


def test_a_producer_does_not_go_on_with_a_segment_in_a_directory_that_is_gone(root: Path) -> None:
    mine = often(broker(root))
    mine.enqueue([job("before")])
    for name in ("a", "b"):
        shutil.rmtree(root / "jobs" / "segments")
        mine.enqueue([job(name)])
    assert census(mine) == {"b": 1}
    mine.close()


def test_what_is_claimed_is_settled_where_it_is(root: Path) -> None:
    """A worker goes on in a directory that was moved, and enqueues there, too. Verified: else its claims are lost."""
    mine = broker(root)
    mine.enqueue([job("a"), job("b"), job("c")])
    leases = claim(mine)
    _move(root)
    mine.enqueue([job("d")])
    ack(mine, leases[:1])
    retry(mine, leases[1], delay=3600, failure=failure(leases[1]))
    mine.release(leases[2:])
    mine.close()
    moved = broker(root.with_name("old"))
    assert census(moved) == {"b": 1, "c": 1, "d": 1}
    moved.close()
    assert not root.exists()


def test_an_error_in_a_directory_that_is_gone_says_so(root: Path) -> None:
    mine = broker(root)
    mine.enqueue([job("a")])
    leases = claim(mine)
    shutil.rmtree(root)
    with pytest.raises(EngineUnavailable, match="was moved, removed or mounted over: maintenance failed"):
        mine.maintain()
    with pytest.raises(EnqueueFailed, match="No such file"):
        mine.enqueue([job("b")])
    assert len(leases) == 1


def test_what_cannot_be_opened_anew_is_not_queued(root: Path) -> None:
    mine = broker(root)
    _move(root)
    root.write_text("in the way")
    with pytest.raises(EnqueueFailed, match="not queued: spool"):
        mine.enqueue([job("a")])
    root.unlink()
    mine.enqueue([job("b")])
    assert census(broker(root)) == {"b": 1}
    mine.close()


@pytest.mark.parametrize("part", PARTS)
def test_a_part_that_was_removed_is_made_anew(root: Path, part: str) -> None:
    """Under a producer, a worker and maintenance that all have it open.

    Verified: where each only goes on, enqueues fail for ever, or claims do, or nothing is promoted.
    """
    producer, worker, keeper = broker(root), broker(root), broker(root)
    producer.enqueue([job("before", delay=3600)])
    assert claim(worker) == []
    keeper.maintain()
    shutil.rmtree(root / "jobs" / part)
    for number in range(2):
        producer.enqueue([job(f"a{number}"), job(f"b{number}")])
        producer.enqueue([job(f"c{number}", chosen=True), job(f"d{number}", delay=3600)])
        often(producer)
    leases = claim(worker) + claim(worker)
    assert len(leases) == 6
    retry(worker, leases[0], delay=3600, failure=failure(leases[0]))
    bury(worker, leases[1], failure=failure(leases[1]))
    ack(worker, leases[2:])
    with suppress(EngineUnavailable):  # says so, where something still was missing
        keeper.maintain()
    keeper.maintain()
    assert keeper.stats("jobs").delayed == 3 + (part not in ("", "delayed"))
    assert one(worker, "letters").job.id == leases[1].job.id
    for spool in (producer, worker, keeper):
        spool.close()


def test_what_was_removed_under_maintenance_is_said_once(root: Path) -> None:
    """And the notifier with it: without one, a worker would learn of a job a second late.

    Verified: where the notifier is kept, its FIFO is one that nobody has.
    """
    keeper, worker = broker(root), broker(root)
    assert claim(worker) == []
    notifier = worker._spool.parts("jobs").notifier
    listen = Listener(worker._spool.waker)
    listen([notifier], 0)
    shutil.rmtree(root / "jobs")
    with pytest.raises(EngineUnavailable, match="directories of queue 'jobs' were removed: they are made anew"):
        keeper.maintain()
    assert keeper.maintain()
    keeper.enqueue([job("a")])
    assert listen([notifier], 0) == (False, [notifier])
    assert ids(claim(worker)) == ["a"]
    keeper.close()
    worker.close()
