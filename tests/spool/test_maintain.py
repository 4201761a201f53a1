"""Housekeeping: promoting, expiry, letters, buckets, and steps that do not stop each other."""

from __future__ import annotations

import errno
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from framework.engine.spool.engine import SpoolEngine
from framework.engine.spool.upkeep import browse, maintain
from tests.support.settling import ack, bury, rest, retry

from .seam import Seam, before, fail_calls
from .world import JOBS, LETTERS, PLAIN, broker, claim, failure, files, ids, job, one, pass_time


def test_what_is_due_promotes_and_keeps_its_place(spool: SpoolEngine) -> None:
    spool.enqueue([job("first", delay=0.5), job("far", delay=3600), job("second")])
    assert ids(claim(spool)) == ["second"]
    pass_time(spool, 0.5)
    spool.maintain()
    lease = one(spool)
    assert lease.job.id == "first"
    assert lease.eligible_at == lease.job.not_before
    assert spool.stats("jobs").delayed == 1


def test_a_worker_promotes_for_itself(spool: SpoolEngine) -> None:
    """Nobody does housekeeping: a delayed job is claimed all the same, at its time and not a poll later."""
    spool.enqueue([job("a", delay=0.05)])
    assert ids(spool.claim(["jobs"], limit=1, wait=1)) == ["a"]


def test_only_due_minutes_are_listed(root: Path) -> None:
    """Half a million entries in delayed/ took 0.3 to 0.6 s of CPU a tick.

    Verified: with every minute listed, future ones show up here.
    """
    seam = Seam()
    mine = broker(root, calls=seam)
    mine.enqueue([job(f"n{n}", delay=3600 + 60 * n) for n in range(10)])
    mine.enqueue([job("due", delay=0.5)])
    pass_time(mine, 1)
    listed: list[str] = []

    def hook(name: str, args: tuple[Any, ...], kwargs: dict[str, Any], real: Any) -> Any:
        if name == "listdir":
            listed.append(os.readlink(f"/proc/self/fd/{args[0]}"))
        return real(*args, **kwargs)

    promote = mine._spool._parts["jobs"].promote
    seam.arm(hook)
    assert promote.now()
    minutes = [path for path in listed if "/delayed/" in path]
    assert 1 <= len(minutes) <= 2
    seam.disarm()
    mine.close()


def test_somebody_else_promotes_at_the_same_time(root: Path) -> None:
    """The rename is lost, and that is no error."""
    seam = Seam()
    mine, other = broker(root, calls=seam), broker(root)
    mine.enqueue([job("a", delay=0.5), job("b", delay=0.5)])
    for each in (mine, other):
        pass_time(each, 1)
    seam.arm(before("rename", other.maintain, when=lambda args: "/delayed/" in str(args[0])))
    mine.maintain()
    seam.disarm()
    assert ids(claim(mine)) == ["a", "b"]
    mine.close()
    other.close()


def test_expiry_of_what_nobody_claims(root: Path) -> None:
    mine = broker(root)
    mine.enqueue([job("a", ttl=60), job("b", ttl=3600), job("c")])
    lease = one(mine)
    retry(mine, lease, delay=3600, failure=failure(lease))  # delayed beyond its ttl
    pass_time(mine, 61)
    mine.maintain()
    assert [view.job.id for view in mine.browse("letters", "ready")] == ["a"]
    assert ids(claim(mine)) == ["b", "c"]
    mine.close()


def test_letters_at_rest_end_with_their_ttl_and_others_stay(root: Path) -> None:
    """Deleted are letters at rest; not waiting letters, and not jobs that died on the queue itself."""
    short = replace(LETTERS, ttl=0.05)
    mine = broker(root, JOBS, short)
    mine.enqueue([job("rests", chosen=True), job("waits")])
    mine.enqueue([job("own", queue="letters")])
    for lease in claim(mine):
        bury(mine, lease, failure=failure(lease))
    for letter in claim(mine, "letters"):
        if letter.job.id == "own":
            bury(mine, letter, failure=failure(letter))
        elif letter.job.id == "rests":
            rest(mine, letter)
        else:
            mine.release([letter])
    mine.maintain()
    assert mine.stats("letters").dead == 2
    pass_time(mine, 1)
    mine.maintain()
    assert [view.job.id for view in mine.browse("letters", "dead")] == ["own"]
    assert ids(claim(mine, "letters")) == ["waits"]
    assert files(root, "jobs/ids/*/*") == []
    assert mine.counts["letters_over"] == 1
    mine.close()


def test_only_old_empty_buckets_are_removed(root: Path) -> None:
    """Verified: with buckets removed as soon as they are empty, the producer's is removed under its hands."""
    mine = broker(root)
    mine.enqueue([job("a")])
    (bucket,) = (root / "jobs" / "ready").iterdir()
    ack(mine, claim(mine))
    old = root / "jobs" / "ready" / "0100000001"
    full = root / "jobs" / "ready" / "0100000002"
    old.mkdir()
    full.mkdir()
    (full / "foreign").touch()
    mine.maintain()
    assert bucket.exists()
    assert full.exists()
    assert not old.exists()
    mine.close()


def test_one_step_that_fails_does_not_stop_the_others(root: Path) -> None:
    """tmp cannot be listed; what is due promotes due jobs, and the error is told."""
    seam = Seam()
    mine = broker(root, calls=seam)
    mine.enqueue([job("a", delay=0.5)])
    pass_time(mine, 1)
    seam.arm(fail_calls(errno.EIO, "open", when=lambda args: str(args[0]).endswith("jobs/tmp")))
    mine.maintain()
    assert list(mine.stuck()) == [str(root / "jobs" / "tmp")]
    seam.disarm()
    assert files(root, "jobs/ready/*/*") != []
    mine.close()


def test_drafts_of_killed_publishers_are_cleared(root: Path) -> None:
    mine = broker(root)
    old, new = root / "jobs" / ".depth.aaaa", root / "jobs" / ".depth.bbbb"
    old.write_text("x")
    new.write_text("x")
    past = time.time() - maintain.TEMP_KEPT - 5
    os.utime(old, (past, past))
    mine.maintain()
    assert not old.exists()
    assert new.exists()
    mine.close()


def test_an_idle_queue_counts_as_declared_longer_than_from_one_turn_to_the_next(root: Path) -> None:
    """Regression: its unchanged depth was not published again, and other services called the queue undeclared."""
    assert browse.KEPT / 1e9 > 2 * maintain.IDLE_EVERY


def test_it_may_be_done_by_anybody_at_any_time(root: Path) -> None:
    brokers = [broker(root) for _ in range(3)]
    brokers[0].enqueue([job("a"), job("b", delay=0.5), job("c", ttl=0.5)])
    for mine in brokers:
        pass_time(mine, 1)
    for _ in range(3):
        for mine in brokers:
            mine.maintain()
    assert ids(claim(brokers[1])) == ["a", "b"]
    assert ids(claim(brokers[2], "letters")) == ["c"]
    for mine in brokers:
        mine.close()


def test_a_wall_clock_that_goes_back_holds_nothing_up(root: Path) -> None:
    """The wall clock goes back an hour: nothing that is ready is held back."""
    mine = broker(root, JOBS, PLAIN, LETTERS)
    mine.enqueue([job("a")])
    here = mine._spool._clock
    assert here is not None
    real = here.wall
    here.wall = lambda: real() - 3600
    mine.enqueue([job("b")])
    lease = one(mine)
    retry(mine, lease, delay=0, failure=failure(lease))
    assert sorted(ids(claim(mine)) + ids(claim(mine))) == ["a", "b"]
    here.wall = real
    mine.close()
