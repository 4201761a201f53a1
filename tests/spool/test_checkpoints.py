"""The checkpoint in a job's file: torn and foreign slots, a full disk, and versions that know no checkpoints."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from framework.engine.spool.engine import SpoolEngine
from framework.engine.spool.format import checkpoints, job_file
from framework.model.errors import EngineUnavailable, LeaseLost
from framework.model.job import Lease
from tests.support.settling import retry

from .older import play
from .seam import Seam, kill_at, pass_on
from .world import broker, dead_owner, failure, files, job, one

BOTH = checkpoints.SIZE // 2


def claimed(root: Path) -> Path:
    (path,) = files(root, "jobs/claimed/*/*")
    return path


def slots_of(path: Path) -> tuple[bytes, int]:
    data = path.read_bytes()
    return data, job_file.layout(data).slots_at + checkpoints.AT


def again(spool: SpoolEngine, lease: Lease) -> Lease:
    """The lease of the next attempt."""
    spool.release([lease])
    return one(spool)


def test_a_job_that_saves_nothing_has_no_room_for_it(spool: SpoolEngine, root: Path) -> None:
    spool.enqueue([job("a")])
    retry(spool, one(spool), delay=0, failure=failure())
    lease = one(spool)
    data, at = slots_of(claimed(root))
    assert len(data) < at
    spool.save(lease, "1")
    assert len(slots_of(claimed(root))[0]) > at


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("at", [0, 5, 9, 13, 20, 25])
def test_a_damaged_slot_leaves_the_one_before(spool: SpoolEngine, root: Path, count: int, at: int) -> None:
    spool.enqueue([job("a")])
    lease = one(spool)
    for number in range(count):
        spool.save(lease, f'"state {number}"')
    data, start = slots_of(path := claimed(root))
    where = start + (count - 1) % 2 * BOTH + at
    path.write_bytes(data[:where] + bytes([data[where] ^ 0xFF]) + data[where + 1 :])
    lease = again(spool, lease)
    assert lease.job.extras.saved == (f'"state {count - 2}"' if count > 1 else None)
    spool.save(lease, '"next"')
    assert again(spool, lease).job.extras.saved == '"next"'


@pytest.mark.parametrize("garbage", [b"\xff" * checkpoints.SIZE, bytes(checkpoints.SIZE), b"CKP1", os.urandom(99_999)])
def test_garbage_in_both_slots_is_no_checkpoint(spool: SpoolEngine, root: Path, garbage: bytes) -> None:
    spool.enqueue([job("a")])
    lease = one(spool)
    spool.save(lease, "1")
    data, start = slots_of(path := claimed(root))
    path.write_bytes(data[:start] + garbage)
    lease = again(spool, lease)
    assert lease.job.extras.saved is None
    spool.save(lease, "2")
    assert again(spool, lease).job.extras.saved == "2"


@pytest.mark.parametrize("chosen", [False, True])
def test_a_kill_within_the_write_leaves_the_old_one(spool: SpoolEngine, root: Path, chosen: bool) -> None:
    """Half of the new slot is there."""
    spool.enqueue([job("a", chosen=chosen)])
    lease = one(spool)
    spool.save(lease, '"old"')
    spool.release([lease])

    def die(mine: SpoolEngine) -> None:
        lease, seam = one(mine), Seam()
        mine._spool._disk.calls = seam  # type: ignore[union-attr, assignment]
        seam.arm(kill_at(0, torn=True))
        mine.save(lease, '"new"')

    dead_owner(root, die)
    (orphan,) = spool.rescue()
    assert orphan.lease.job.extras.saved == '"old"'


def short(name: str, args: tuple[Any, ...], kwargs: dict[str, Any], real: Any) -> Any:
    """The disk is full in the middle of a write."""
    if name != "pwrite":
        return real(*args, **kwargs)
    fd, data, at = args
    return real(fd, data[: len(data) // 2], at)


def refused(name: str, args: tuple[Any, ...], kwargs: dict[str, Any], real: Any) -> Any:
    if name == "fsync":
        raise OSError(errno.EIO, "injected")
    return real(*args, **kwargs)


@pytest.mark.parametrize("hook", [short, refused])
def test_a_full_disk_is_told_and_the_job_is_unharmed(root: Path, hook: Any) -> None:
    seam = Seam()
    spool = broker(root, calls=seam)
    spool.enqueue([job("a")])
    lease = one(spool)
    spool.save(lease, "1")
    seam.arm(hook)
    with pytest.raises(EngineUnavailable, match="the checkpoint of 'a'"):
        spool.save(lease, "2")
    seam.disarm()
    lease = again(spool, lease)
    assert lease.job.extras.saved in ("1", "2")
    spool.save(lease, "3")
    assert again(spool, lease).job.extras.saved == "3"
    spool.close()


def test_an_owner_whose_directory_is_gone_has_lost_the_job(spool: SpoolEngine, root: Path) -> None:
    spool.enqueue([job("a")])
    lease = one(spool)
    claimed(root).unlink()
    with pytest.raises(LeaseLost):
        spool.save(lease, "1")


def test_jobs_without_one_are_claimed_with_the_same_calls_as_ever(root: Path) -> None:
    seam = Seam()
    spool = broker(root, calls=seam)
    spool.enqueue([job("a"), job("b")])
    reads: list[int] = []
    for saves in (False, True):
        lease = one(spool)
        if saves:
            spool.save(lease, "1")
        retry(spool, lease, delay=0, failure=failure(lease))
        seam.arm(pass_on)
        lease = one(spool)
        seam.disarm()
        reads.append(sum(name in ("pread", "fstat") for name in seam.names))
        spool.release([lease], delay=3600)
    assert reads[0] < reads[1]
    spool.close()


ATTEMPT = """
(lease,) = mine.claim("jobs", limit=1, wait=0)
mine.retry(lease, delay=0, failure=Failure(1, "error", "x", queue="jobs", delivery=lease.delivery))
(lease,) = mine.claim("jobs", limit=1, wait=0)
mine.bury(lease, failure=Failure(2, "error", "x", queue="jobs", delivery=lease.delivery))
"""


def test_a_version_that_knows_no_checkpoints_runs_the_job_and_keeps_what_it_has(root: Path, older: Path) -> None:
    mine = broker(root)
    mine.enqueue([job("a")])
    lease = one(mine)
    mine.save(lease, '{"page":7}')
    mine.release([lease])
    play(older, root, ATTEMPT)
    (lease,) = mine.claim(["letters"], limit=1, wait=5)
    assert lease.job.extras.saved == '{"page":7}'
    assert len(lease.job.history) == 2
    mine.close()
