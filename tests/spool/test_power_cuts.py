"""Real power cuts: a loop-mounted ext4 image is copied while it is in use, and the copy is mounted.

What the kernel had not written to the image when it was copied is gone, as in a cut. The controls leave a sync out and
must lose; if they stop losing, these tests prove nothing any more.
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from framework.model.errors import EnqueueFailed
from tests.support.settling import bury, retry

from .seam import Seam
from .world import JOBS, LETTERS, body, broker, census, claim, failure, heal, job, one

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: mounts an image")
QUEUES = (JOBS, LETTERS)


class Machine:
    """A disk in a file, mounted until the power is cut."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._image = place / "disk"
        self._mounts: list[Path] = []
        self._cuts = 0
        with self._image.open("wb") as file:
            file.truncate(16 << 20)
        subprocess.run(["mkfs.ext4", "-q", "-F", "-b", "1024", "-J", "size=1", self._image], check=True)
        self.disk = self._mount(self._image, place / "mnt")
        self.root = self.disk / "spool"

    def _mount(self, image: Path, where: Path) -> Path:
        where.mkdir()
        # no commit of its own within the test: only what is synced is certain
        command = ["mount", "-o", "loop,commit=600", image, where]
        if subprocess.run(command, capture_output=True).returncode:
            pytest.skip("no loop mounts here")
        self._mounts.append(where)
        return where

    def cut(self) -> Path:
        """The disk as it would be after a cut at this moment; where its copy will be mounted."""
        self._cuts += 1
        copy = self._place / f"cut{self._cuts}"
        subprocess.run(["cp", "--sparse=always", self._image, copy], check=True)
        return copy

    def restart(self, copy: Path) -> Path:
        """Mounts what a cut left (the journal is replayed); the spool's root."""
        return self._mount(copy, copy.with_suffix(".mnt")) / "spool"

    def stop(self) -> None:
        for where in reversed(self._mounts):
            subprocess.run(["umount", "--lazy", where], check=True)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    if shutil.which("mkfs.ext4") is None:
        pytest.skip("no mkfs.ext4")
    made = Machine(tmp_path)
    yield made
    made.stop()


def cut_at_every_call(machine: Machine, seam: Seam, act: Callable[[], Any]) -> list[tuple[str, Path]]:
    """Copies of the disk before each call that changes something, and one after the act returned."""
    cuts: list[tuple[str, Path]] = []
    reading = ("fstat", "stat", "fstatvfs", "pread", "read", "listdir", "close", "flock")

    def hook(name: str, args: tuple[Any, ...], kwargs: dict[str, Any], real: Callable[..., Any]) -> Any:
        if name not in reading:
            cuts.append((f"before {name}", machine.cut()))
        return real(*args, **kwargs)

    seam.arm(hook)
    act()
    seam.disarm()
    cuts.append(("returned", machine.cut()))
    return cuts


def skip(name: str, when: Callable[[tuple[Any, ...]], bool]) -> Callable[..., Any]:
    """A hook that leaves calls out and says that they worked."""

    def hook(called: str, args: tuple[Any, ...], kwargs: dict[str, Any], real: Callable[..., Any]) -> Any:
        return None if called == name and when(args) else real(*args, **kwargs)

    return hook


def is_file(args: tuple[Any, ...]) -> bool:
    return os.path.isfile(f"/proc/self/fd/{args[0]}")


def test_this_disk_is_proven(machine: Machine) -> None:
    mine = broker(machine.root, *QUEUES)
    assert mine.notes == []
    assert mine.features.durable == "power"
    mine.close()


@pytest.mark.parametrize("chosen", [False, True], ids=["plain", "chosen id"])
def test_an_acknowledged_job_survives(machine: Machine, chosen: bool) -> None:
    """Whole and once, or not at all while it was not acknowledged; and what was there before is there."""
    seam = Seam()
    mine = broker(machine.root, *QUEUES, calls=seam)
    mine.enqueue([job("before")])
    cuts = cut_at_every_call(machine, seam, lambda: mine.enqueue([job("n", chosen=chosen)]))
    assert len(cuts) >= 5
    for when, copy in cuts:
        fresh = heal(machine.restart(copy), *QUEUES)
        found = census(fresh)
        assert found["before"] == 1, when
        assert found["n"] == 1 or (when != "returned" and found["n"] == 0), when
        assert next(lease.job.payload for lease in claim(fresh)) == body("before")
        fresh.enqueue([job("n", chosen=chosen)])
        assert fresh.stats("jobs").bad == 0
        fresh.close()
    mine.close()


def test_many_survive_by_one_sync(machine: Machine) -> None:
    mine = broker(machine.root, *QUEUES)
    names = {f"n{number}" for number in range(40)}
    mine.enqueue([job(name) for name in sorted(names)])
    fresh = heal(machine.restart(machine.cut()), *QUEUES)
    assert dict(census(fresh)) == dict.fromkeys(names, 1)
    fresh.close()
    mine.close()


def test_control_without_fsync_the_job_is_lost(machine: Machine) -> None:
    broker(machine.root, *QUEUES).close()
    os.sync()
    mine = broker(machine.root, *QUEUES, durability="process")
    mine.enqueue([job("n")])
    fresh = heal(machine.restart(machine.cut()), *QUEUES)
    assert census(fresh)["n"] == 0
    fresh.close()
    mine.close()


def test_jobs_that_were_running_are_there(machine: Machine) -> None:
    """Claimed, retried, released: a cut may undo any of it, and loses none."""
    mine = broker(machine.root, *QUEUES)
    mine.enqueue([job(f"n{number}") for number in range(12)])
    leases = claim(mine, limit=9)
    for lease in leases[:3]:
        retry(mine, lease, delay=0, failure=failure(lease))
    mine.release(leases[3:6])
    os.sync()
    later = claim(mine, limit=2)
    retry(mine, later[0], delay=60, failure=failure(later[0]))
    fresh = heal(machine.restart(machine.cut()), *QUEUES)
    assert dict(census(fresh)) == {f"n{number}": 1 for number in range(12)}
    fresh.close()
    mine.close()


def test_a_dead_letter_has_its_last_record(machine: Machine) -> None:
    """Wherever the cut leaves the job: if it is a letter, it says why."""
    seam = Seam()
    mine = broker(machine.root, *QUEUES, calls=seam)
    mine.enqueue([job("a")])
    lease = one(mine)
    cuts = cut_at_every_call(machine, seam, lambda: bury(mine, lease, failure=failure(lease, message="why")))
    for when, copy in cuts:
        fresh = heal(machine.restart(copy), *QUEUES)
        assert census(fresh)["a"] == 1, when
        letters = [*fresh.browse("letters", "ready")]
        assert letters or when != "returned"
        for letter in letters:
            assert [f.message for f in letter.job.history] == ["why"], when
        fresh.close()
    mine.close()


def test_control_without_the_fsync_of_the_record_it_is_lost(machine: Machine) -> None:
    seam = Seam()
    mine = broker(machine.root, *QUEUES, calls=seam)
    mine.enqueue([job("a")])
    lease = one(mine)
    seam.arm(skip("fsync", is_file))
    bury(mine, lease, failure=failure(lease, message="why"))
    seam.disarm()
    fresh = heal(machine.restart(machine.cut()), *QUEUES)
    (letter,) = fresh.browse("letters", "ready")
    assert letter.job.history == ()
    fresh.close()
    mine.close()


def enqueue_in_vain(mine: Any, seam: Seam, *, sync_removal: bool) -> None:
    """The fsync of the file works and then reports EIO; the removal's fsync is left out for the control."""

    def hook(name: str, args: tuple[Any, ...], kwargs: dict[str, Any], real: Callable[..., Any]) -> Any:
        if name == "fsync" and is_file(args):
            real(*args, **kwargs)
            raise OSError(errno.EIO, "injected")
        if name == "fsync" and not sync_removal:
            return None
        return real(*args, **kwargs)

    seam.arm(hook)
    with pytest.raises(EnqueueFailed):
        mine.enqueue([job("n")])
    seam.disarm()


@pytest.mark.parametrize("sync_removal", [True, False], ids=["ours", "control"])
def test_what_was_not_queued_does_not_come_back(machine: Machine, sync_removal: bool) -> None:
    """Without the fsync of tmp after the unlink, it does."""
    seam = Seam()
    mine = broker(machine.root, *QUEUES, calls=seam)
    mine.enqueue([job("before")])
    enqueue_in_vain(mine, seam, sync_removal=sync_removal)
    fresh = heal(machine.restart(machine.cut()), *QUEUES)
    assert census(fresh)["before"] == 1
    assert census(fresh)["n"] == (0 if sync_removal else 1)
    fresh.close()
    mine.close()
