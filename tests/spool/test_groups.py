"""The order of groups on the spool, whatever is killed and whatever lies there."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from framework.engine.spool.format import names
from tests.support.settling import ack, retry

from .group_cases import GROUP, GROUP_CASES, QUEUES, again, claimed, waiting
from .seam import Seam, kill_at, pass_on
from .stage import Case
from .world import JOBS, STRICT, broker, claim, failure, files, ids, in_segments, job, one, settle_orphan


@pytest.mark.parametrize(
    "case", [case for case in GROUP_CASES if case.prepare in (claimed, again)], ids=lambda c: c.name
)
def test_a_kill_at_any_call_keeps_the_order_of_the_group(case: Case, root: Path) -> None:
    """Until the first job of the group has ended, no other process gets the second one; afterwards one does.

    Verified: without `order.waits_again`, or where the mark is made behind the move, cases of this test fail.
    """
    for number in range(400):
        place = root / str(number)
        child = os.fork()
        if child == 0:
            try:
                seam = Seam()
                stage = case.stage(place, seam)
                seam.arm(kill_at(number))
                case.act(stage)
            finally:
                os._exit(0)
        _, status = os.waitpid(child, 0)
        _assert_order_is_kept(place)
        if not os.WIFSIGNALED(status):
            return
        assert os.WTERMSIG(status) == signal.SIGKILL
    pytest.fail("the operation never ends")


def _assert_order_is_kept(place: Path) -> None:
    fresh = broker(place, *QUEUES)
    try:
        for _ in range(4):
            ended = _has_ended(place)
            got = claim(fresh)
            assert all(lease.job.id == "a" for lease in got) or ended, f"{ids(got)}, while a waits or runs"
            if not got:
                fresh.maintain()
                for orphan in fresh.rescue():
                    settle_orphan(fresh, orphan)
            for lease in got:
                ack(fresh, [lease])
            if "b" in ids(got):
                return
        assert [view.job.id for view in fresh.browse("jobs", "delayed")] == ["a"]
    finally:
        fresh.close()


def _has_ended(place: Path) -> bool:
    there = [
        path for path in files(place, "jobs/[rcd]*/*/*") if path.parent.parent.name in ("ready", "claimed", "delayed")
    ]
    return len(there) < 2


def test_the_kernel_s_locks_do_not_outlive_a_claimer(root: Path) -> None:
    """A process that is killed in the midst of a claim keeps no other from claiming."""
    mine = broker(root, *QUEUES)
    mine.enqueue([job("a", group=GROUP), job("b", group="umbrella")])
    for number in range(60):
        child = os.fork()
        if child == 0:
            try:
                seam = Seam()
                dying = broker(root, *QUEUES, calls=seam)
                seam.arm(kill_at(number))
                claim(dying, limit=1)
            finally:
                os._exit(0)
        _, status = os.waitpid(child, 0)
        for orphan in mine.rescue():
            mine.release([orphan.lease])
        leases = claim(mine)
        assert sorted(ids(leases)) == ["a", "b"], f"killed at change {number}"
        mine.release(leases)
        if not os.WIFSIGNALED(status):
            return
    pytest.fail("the claim never ends")


def test_an_old_mark_is_removed_by_maintenance(root: Path) -> None:
    mine = broker(root, *QUEUES)
    mine.enqueue([job("a", group=GROUP)])
    (path,) = files(root, "jobs/ready/*/*")
    mark = root / "jobs" / "groups" / names.group_of(path.name)
    mark.symlink_to("00000000000000000001.00000000.1.000000000000")
    assert claim(mine) == []
    mine.maintain()
    assert not mark.is_symlink()
    assert ids(claim(mine)) == ["a"]


def test_a_retry_that_cannot_be_read_any_more_lets_its_group_go_on(root: Path) -> None:
    mine = broker(root, *QUEUES)
    mine.enqueue([job("a", group=GROUP), job("b", group=GROUP)])
    lease = one(mine)
    retry(mine, lease, delay=0, failure=failure(lease))
    mine.maintain()
    for path in files(root, "jobs/ready/*/*"):
        if path.name.startswith(f"{lease.token.name.stem},"):
            path.write_bytes(b"damaged")
    assert ids(claim(mine) + claim(mine)) == ["b"]
    assert len(files(root, "jobs/bad/*")) == 1
    assert files(root, "jobs/groups/*") == []


def test_a_mark_that_is_no_link_keeps_nothing_waiting(root: Path) -> None:
    mine = broker(root, *QUEUES)
    mine.enqueue([job("a", group=GROUP)])
    (path,) = files(root, "jobs/ready/*/*")
    (root / "jobs" / "groups" / names.group_of(path.name)).write_bytes(b"")
    (lease,) = claim(mine)
    retry(mine, lease, delay=0, failure=failure(lease))
    assert ids(claim(mine)) == ["a"]


def test_a_retry_keeps_its_mark_until_it_has_ended(root: Path) -> None:
    mine = broker(root, *QUEUES)
    mine.enqueue([job("a", group=GROUP), job("b", group=GROUP)])
    lease = one(mine)
    retry(mine, lease, delay=0, failure=failure(lease))
    marks = root / "jobs" / "groups"
    assert [os.readlink(mark) for mark in marks.iterdir()] == [lease.token.name.stem]
    mine.maintain()
    lease = one(mine)
    assert lease.job.id == "a"
    mine.maintain()
    assert len(list(marks.iterdir())) == 1
    ack(mine, [lease])
    assert list(marks.iterdir()) == []


def test_jobs_of_groups_have_files_of_their_own_and_others_do_not(root: Path) -> None:
    mine = in_segments(broker(root, replace(JOBS, grouped=True)))
    mine.enqueue([job(f"g{n}", group=f"g{n % 3}") for n in range(12)])
    mine.enqueue([job(f"p{n}") for n in range(12)])
    assert len(files(root, "jobs/ready/*/*")) == 12
    assert len(files(root, "jobs/segments/*")) == 1
    got = ids(claim(mine) + claim(mine))
    assert sorted(got) == sorted([*(f"g{n}" for n in range(12)), *(f"p{n}" for n in range(12))])


def test_a_job_that_was_moved_by_hand_is_found(root: Path) -> None:
    mine = broker(root, *QUEUES)
    mine.enqueue([job("a", group=GROUP)])
    (path,) = files(root, "jobs/ready/*/*")
    (other := path.parent.parent / "0123456789").mkdir(0o700)
    path.rename(other / path.name)
    assert ids(claim(mine)) == ["a"]


def test_a_stopped_claimer_delays_the_others_and_loses_nothing(root: Path) -> None:
    """Another process claims while one holds the lock: it gives up after a moment, and says when to try again."""
    mine, other = broker(root, STRICT), broker(root, STRICT)
    mine.enqueue([job("a", group=GROUP)])
    with mine._spool.parts("jobs").limits.alone() as alone:
        assert alone
        assert claim(other) == []
        assert 0 < other._spool.parts("jobs").limits.wait < 1
    assert ids(claim(other)) == ["a"]


def test_a_cancelled_retry_and_a_discarded_one_leave_no_mark(root: Path) -> None:
    for number, act in enumerate(("cancel", "discard")):
        place = root / str(number)
        seam = Seam()
        seam.arm(pass_on)
        stage = Case("", waiting, lambda _: None, queues=QUEUES).stage(place, seam)
        getattr(stage.broker, act)(stage.held)
        assert list((place / "jobs" / "groups").iterdir()) == []
        assert ids(claim(stage.broker)) == ["b"]
        stage.broker.close()
