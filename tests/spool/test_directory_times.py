"""A directory is listed again only when its time has moved, and no file system's times can hide a job for good."""

from __future__ import annotations

import os
import random
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from framework.engine.spool.claim import listing
from framework.engine.spool.claim.listing import COARSE, FULL_LOOK, RACY, Names
from tests.support.settling import retry

from .seam import Seam
from .world import broker, claim, failure, ids, job, one

SECOND = 1_000_000_000
# Each returns the time that a change gets, in nanoseconds, from the seconds that have passed
CLOCKS = {
    "a tick of 10 ms": lambda now: int(now * 100) * 10_000_000 + 123_457,
    "whole seconds": lambda now: int(now) * SECOND,
    "two seconds": lambda now: int(now / 2) * 2 * SECOND,
    "a server whose clock is behind": lambda now: int(now - 7200) * SECOND,
    "a server whose clock is ahead": lambda now: int(now * 100 + 720_000) * 10_000_000 + 1,
}


class Directory:
    """Stands for a disk with one directory, whose times come from a clock of its own."""

    def __init__(self, clock: Any) -> None:
        self.now = 100_000.0
        self.clock = clock
        self.names: list[str] = []
        self.changed_at = clock(self.now)
        self.listed = 0
        self.queues = 1

    def add(self) -> None:
        self.names.append(f"n{len(self.names)}")
        self.changed_at = self.clock(self.now)

    def stat(self, path: str) -> Any:
        return SimpleNamespace(st_ino=1, st_mtime_ns=self.changed_at)

    def listdir(self, path: str) -> list[str]:
        self.listed += 1
        return list(self.names)


@pytest.fixture
def directory(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Directory:
    made = Directory(CLOCKS[request.param])
    monkeypatch.setattr(listing, "time", SimpleNamespace(monotonic=lambda: made.now))
    return made


@pytest.mark.parametrize("directory", CLOCKS, indirect=True)
@pytest.mark.parametrize("seed", range(5))
def test_a_change_within_a_tick_of_any_clock_is_seen(directory: Directory, seed: int) -> None:
    """Changes and looks at random moments; once the clock has moved on, nothing is missing and nothing is listed.

    Verified by the mutation gate: with RACY or COARSE of 0 a name stays out.
    """
    chance, names = random.Random(seed), Names(directory, "jobs")  # type: ignore[arg-type]
    for _ in range(40):
        for _ in range(chance.choice((1, 1, 2, 5))):
            directory.add()
            directory.now += chance.choice((0.0, 0.001, 0.004, 0.06, 0.3, 0.7))
            names()
        directory.now += COARSE + chance.random()
        assert names() == sorted(directory.names)
        listed = directory.listed
        directory.now += 0.1
        assert names() is names()
        assert directory.listed == listed


@pytest.mark.parametrize("directory", ["whole seconds"], indirect=True)
def test_a_full_look_finds_what_no_time_shows(directory: Directory) -> None:
    """The clock is set back into the very second of the last change, or a network file system keeps old attributes.

    Verified by the mutation gate: without the full look the second name is never seen.
    """
    names = Names(directory, "jobs")  # type: ignore[arg-type]
    directory.add()
    for _ in range(3):
        directory.now += COARSE
        names()
    directory.names.append("unseen")
    assert "unseen" not in names()
    directory.now += FULL_LOOK
    assert "unseen" in names()


@pytest.mark.parametrize("directory", ["a tick of 10 ms"], indirect=True)
def test_full_looks_at_much_take_little_of_the_time(directory: Directory) -> None:
    """A listing takes 0.1 s, and there are ten such directories."""
    quick = directory.listdir

    def slow(path: str) -> list[str]:
        directory.now += 0.1
        return quick(path)

    directory.listdir = slow  # type: ignore[method-assign]
    names = Names(directory, "jobs")  # type: ignore[arg-type]
    began = directory.now
    while directory.now < began + 500:
        names(peers=10)
        directory.now += 1
    assert directory.listed <= 2 + 10


def test_another_directory_of_the_same_time_is_listed(root: Path) -> None:
    """Somebody has removed it and made it again within the tick."""
    mine = broker(root)
    inside = Names(mine._spool._disk, "jobs/tmp")  # type: ignore[arg-type]
    place = root / "jobs" / "tmp"
    os.utime(place, ns=(1, 1))
    inside()
    time.sleep(RACY)
    assert inside() == []
    place.rename(root / "old")
    place.mkdir()
    (place / "new").touch()
    os.utime(place, ns=(1, 1))
    assert inside() == ["new"]
    mine.close()


def test_an_unchanged_bucket_is_not_listed_again(root: Path) -> None:
    seam = Seam()
    mine = broker(root, calls=seam)
    mine.enqueue([job("a")])
    claim(mine)
    for bucket in (root / "jobs" / "ready").iterdir():
        os.utime(bucket, ns=(1, 1))
    claim(mine)
    time.sleep(RACY)
    claim(mine)
    listed: list[str] = []

    def hook(name: str, args: tuple[Any, ...], kwargs: dict[str, Any], real: Any) -> Any:
        if name == "listdir":
            listed.append(os.readlink(f"/proc/self/fd/{args[0]}"))
        return real(*args, **kwargs)

    seam.arm(hook)
    for _ in range(5):
        claim(mine)
    assert listed == []
    mine.close()


@pytest.fixture
def coarse(tmp_path: Path) -> Iterator[Path]:
    """A root on ext4 with inodes of 128 bytes: its times are whole seconds."""
    if os.geteuid() != 0:
        pytest.skip("needs root: mounts an image")
    image, where = tmp_path / "image", tmp_path / "mnt"
    where.mkdir()
    with image.open("wb") as file:
        file.truncate(16 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-I", "128", image], check=True, capture_output=True)
    if subprocess.run(["mount", "-o", "loop", image, where], capture_output=True).returncode:
        pytest.skip("no loop mounts here")
    try:
        yield where / "spool"
    finally:
        subprocess.run(["umount", "--lazy", where], check=True)  # a test that failed has descriptors there


def _begin_a_second() -> None:
    time.sleep(1 - time.time() % 1)


@pytest.mark.root
def test_times_of_whole_seconds_hide_nothing(coarse: Path) -> None:
    """Jobs, retries, counts and the drafts of dead producers, each changed after a look in the same second.

    Verified: with a listing that is trusted after 50 ms, "b" stays in ready/ and in delayed/.
    """
    mine, other = broker(coarse), broker(coarse)
    _begin_a_second()
    other.enqueue([job("a")])
    leases = claim(mine)
    assert ids(leases) == ["a"]
    other.enqueue([job("b")])
    time.sleep(2 * RACY)
    leases += claim(mine)
    assert ids(leases) == ["a", "b"]
    _begin_a_second()
    retry(mine, leases[0], delay=0.01, failure=failure(leases[0]))
    time.sleep(2 * RACY)
    assert mine.stats("jobs").delayed == 1
    again = one(other)
    retry(mine, leases[1], delay=0.01, failure=failure(leases[1]))
    time.sleep(2 * RACY)
    assert mine.stats("jobs").delayed == 1
    other.maintain()
    assert ids([again, one(other)]) == ["a", "b"]
    mine.close()
    other.close()
