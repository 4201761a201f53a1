"""The file with a queue's limits: planted, damaged, removed, and closed by a handler."""

from __future__ import annotations

import os
import struct
from dataclasses import replace
from pathlib import Path

import pytest

from framework.engine.spool.engine import SpoolEngine
from framework.model.errors import EngineUnavailable
from framework.model.limits import Breaker, Rate
from tests.support.settling import ack

from .world import JOBS, LETTERS, broker, claim, job

TWO = replace(JOBS, max_running=2)
FUTURE = b"LIM1" + bytes(4) + struct.pack("<ddd", 1e12, 0.0, 0.0)
BURST = replace(JOBS, rate=Rate(3, "h"), breaker=Breaker(hold=3600))


def stocked(root: Path, options: object = TWO) -> SpoolEngine:
    mine = broker(root, options, LETTERS)  # type: ignore[arg-type]
    mine.enqueue([job(f"{n}") for n in range(9)])
    return mine


def test_a_queue_without_limits_has_no_file(tmp_path: Path) -> None:
    mine = stocked(tmp_path, JOBS)
    ack(mine, claim(mine))
    assert not (tmp_path / "jobs" / "limits").exists()


def test_the_file_is_made_at_the_start_so_that_a_full_disk_stops_no_claim(tmp_path: Path) -> None:
    mine = broker(tmp_path, BURST, LETTERS)
    assert (tmp_path / "jobs" / "limits").stat().st_size == 32
    mine.close()


@pytest.mark.parametrize("garbage", [b"", b"x", b"\xff" * 100, b"LIM1" + bytes(28), b"\0" * 10_000, FUTURE])
def test_garbage_in_the_file_is_as_a_new_file(tmp_path: Path, garbage: bytes) -> None:
    (tmp_path / "jobs").mkdir(mode=0o700, parents=True)
    os.chmod(tmp_path, 0o700)
    (tmp_path / "jobs" / "limits").write_bytes(garbage)
    mine = stocked(tmp_path, BURST)
    assert len(mine.claim(["jobs"], limit=9, wait=0)) == 1
    assert not mine.stats("jobs").held
    mine.hold("jobs", 60)
    assert mine.stats("jobs").held


@pytest.mark.parametrize("planted", ["directory", "symlink", "fifo"])
def test_what_stands_in_place_of_the_file_is_named(tmp_path: Path, planted: str) -> None:
    mine, path = stocked(tmp_path), tmp_path / "jobs" / "limits"
    path.unlink()
    if planted == "directory":
        path.mkdir()
    elif planted == "symlink":
        path.symlink_to(tmp_path / "elsewhere")
    else:
        os.mkfifo(path)
    if planted == "fifo":
        mine.claim(["jobs"], limit=9, wait=0)  # locks of a FIFO work like those of any file
    else:
        with pytest.raises(EngineUnavailable, match=r"claiming from 'jobs'|jobs/limits"):
            mine.claim(["jobs"], limit=9, wait=0)
    assert not (tmp_path / "elsewhere").exists()


def test_a_removed_file_is_made_anew_and_counts_what_this_process_has(tmp_path: Path) -> None:
    mine = stocked(tmp_path)
    (lease,) = mine.claim(["jobs"], limit=1, wait=0)
    (tmp_path / "jobs" / "limits").unlink()
    assert len(mine.claim(["jobs"], limit=9, wait=0)) == 1
    other = broker(tmp_path, TWO, LETTERS)
    assert other.claim(["jobs"], limit=9, wait=0) == []
    ack(mine, [lease])
    assert len(other.claim(["jobs"], limit=9, wait=0)) == 1


def test_a_handler_that_closes_descriptors_does_not_break_the_limit(tmp_path: Path) -> None:
    mine = stocked(tmp_path)
    leases = mine.claim(["jobs"], limit=1, wait=0)
    os.close(mine._spool.parts("jobs").limits._fd)
    with open(os.devnull, "rb"):  # takes the number
        leases += mine.claim(["jobs"], limit=9, wait=0)
        assert len(leases) == 2
        assert mine.claim(["jobs"], limit=9, wait=0) == []
    ack(mine, leases)
    assert len(mine.claim(["jobs"], limit=9, wait=0)) == 2


def test_a_forked_child_keeps_no_share_of_its_parent(tmp_path: Path) -> None:
    mine = stocked(tmp_path)
    leases = mine.claim(["jobs"], limit=9, wait=0)
    assert len(leases) == 2
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(write)
        os.read(read, 1)  # until the parent has looked
        os._exit(0)
    try:
        ack(mine, leases)
        mine.close()
        assert len(broker(tmp_path, TWO, LETTERS).claim(["jobs"], limit=9, wait=0)) == 2
    finally:
        os.close(write)
        os.waitpid(child, 0)
        os.close(read)
