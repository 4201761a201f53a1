"""One damaged place stops neither its queue nor the others: a bucket, a minute, a claimer, a lock, a state.

An injected EBADMSG stands for a block or an inode of ext4 whose checksum is wrong, EPERM for `chattr +i`.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from framework.engine.spool.claim import setbacks

from .seam import Seam
from .world import broker, claim, dead_owner, files, ids, job, pass_time, settle_orphan


class Damage:
    """Entries below some paths fail with an error, whatever is asked of them."""

    def __init__(self, root: Path, error: int, *calls: str) -> None:
        self.root = root
        self.error = error
        self.calls = calls
        self.paths: list[str] = []
        self.tried = 0
        self.seam = Seam()
        self.seam.arm(self._hook)

    def at(self, path: Path) -> None:
        self.paths.append(str(path.relative_to(self.root)))

    def _hook(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], real: Callable[..., Any]) -> Any:
        path = str(args[0])
        if name == "listdir":
            path = os.path.relpath(os.readlink(f"/proc/self/fd/{args[0]}"), self.root)
        if name in self.calls and any(path == p or path.startswith(p + "/") for p in self.paths):
            self.tried += 1
            raise OSError(self.error, os.strerror(self.error), args[0])
        return real(*args, **kwargs)


def immutable(root: Path) -> Damage:
    """`chattr +i` on a directory: nothing leaves it, and it stays."""
    return Damage(root, errno.EPERM, "rename", "unlink", "rmdir")


@pytest.fixture
def in_threes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setbacks, "IN_A_ROW", 3, raising=False)
    monkeypatch.setattr(setbacks, "MOST", 10)


def old_minute(root: Path) -> Path:
    path = root / "jobs" / "delayed" / f"{int(time.time() // 60) - 5:011d}"
    path.mkdir()
    return path


@pytest.mark.usefixtures("in_threes")
def test_a_bucket_out_of_which_nothing_moves_lets_the_others_by(root: Path) -> None:
    """Regression: from the thousandth file on no job of the queue was claimed, on any worker."""
    stuck = immutable(root)
    mine = broker(root, calls=stuck.seam)
    mine.enqueue([job(f"n{n}") for n in range(12)])
    mine.enqueue([job("later")])
    bucket = files(root, "jobs/ready/*/*")[0].parent
    aside = root / "jobs" / "ready" / "0000000000"
    bucket.rename(aside)
    stuck.at(aside)
    mine.enqueue([job("good")])
    seen = [entry for _ in range(10) for entry in ids(claim(mine))]
    assert "good" in seen
    assert str(aside) in mine.stuck()
    assert stuck.tried <= 20, "the directory is left alone, not each file tried"
    mine.close()


@pytest.mark.usefixtures("in_threes")
def test_a_minute_out_of_which_nothing_moves_lets_the_others_by(root: Path) -> None:
    """Regression: from the thousandth file on nothing of the queue became due any more."""
    stuck = immutable(root)
    mine = broker(root, calls=stuck.seam)
    minute = old_minute(root)
    stuck.at(minute)
    mine.enqueue([job(f"n{n}", delay=60) for n in range(15)])
    pass_time(mine, 61)
    for path in files(root, "jobs/delayed/*/*"):
        path.rename(minute / path.name)
    mine.enqueue([job("good", delay=90)])
    pass_time(mine, 60)
    for _ in range(8):
        mine.maintain()
    assert [entry for _ in range(3) for entry in ids(claim(mine))] == ["good"]
    mine.close()


def test_an_empty_minute_that_stays_keeps_no_job_waiting(root: Path) -> None:
    """Regression: `chattr +i` on it, and nothing of the queue became due any more."""
    stuck = immutable(root)
    mine = broker(root, calls=stuck.seam)
    stuck.at(old_minute(root))
    mine.enqueue([job("a", delay=0.5)])
    pass_time(mine, 1)
    assert ids(claim(mine)) == ["a"]
    mine.close()


def test_an_empty_batch_that_stays_keeps_no_job_waiting(root: Path) -> None:
    stuck = immutable(root)
    mine = broker(root, calls=stuck.seam)
    batch = root / "jobs" / "ready" / f"{0:020d}.e672c630.1.{1:012x},20"
    batch.mkdir()
    stuck.at(batch)
    mine.enqueue([job("a")])
    assert ids(claim(mine)) == ["a"]
    mine.close()


@pytest.mark.parametrize("place", ["ready/0000000001", "delayed/00000000001", "claimed/w", "dead", "bad", "ids/aa"])
def test_a_directory_that_cannot_be_read_is_said_and_stops_nothing(root: Path, place: str) -> None:
    """Regression: a claim, a look at the depth and a pass of maintenance failed as a whole, again and again."""
    damage = Damage(root, errno.EBADMSG, "listdir")
    mine = broker(root, calls=damage.seam)
    where = root / "jobs" / place
    where.mkdir(exist_ok=True)
    (where / "something").touch()
    damage.at(where)
    mine.enqueue([job("a"), job("b", delay=0.5)])
    pass_time(mine, 1)
    for orphan in mine.rescue():
        settle_orphan(mine, orphan)
    for _ in range(300):  # ids are looked at one directory in each call
        mine.maintain()
        if str(where) in mine.stuck():
            break
    assert mine.stats("jobs").ready == 2
    assert str(where) in mine.stuck()
    assert sorted(ids(claim(mine))) == ["a", "b"]
    mine.close()


@pytest.mark.parametrize("place", ["ready/0000000001", "claimed/w", "claimed/w.lock", "ids/aa", "doorbell"])
def test_a_spool_with_a_damaged_entry_can_be_opened(root: Path, place: str) -> None:
    """Regression: exit code 3 at every start, for one inode."""
    broker(root).close()
    damage = Damage(root, errno.EBADMSG, "stat", "listdir", "open", "mkfifo")
    where = root / "jobs" / place
    where.mkdir(exist_ok=True) if place != "doorbell" else where.unlink()
    damage.at(where)
    for clock in root.glob("clock.*"):
        clock.unlink()  # the first start of a boot looks everywhere
    mine = broker(root, calls=damage.seam)
    mine.enqueue([job("a")])
    mine.maintain()
    assert ids(claim(mine)) == ["a"]
    mine.close()


def test_a_job_whose_inode_is_damaged_lets_the_others_by(root: Path) -> None:
    """Regression: the look whether it is gone failed, and with it every claim."""
    damage = Damage(root, errno.EBADMSG, "stat", "rename", "open")
    mine = broker(root, calls=damage.seam)
    mine.enqueue([job("a"), job("b"), job("c")])
    bad = files(root, "jobs/ready/*/*")[0]
    damage.at(bad)
    assert [entry for _ in range(3) for entry in ids(claim(mine))] == ["b", "c"]
    assert str(bad) in mine.stuck()
    mine.close()


@pytest.mark.parametrize("plant", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("/etc/passwd")])
def test_claims_behind_something_planted_as_their_lock_are_rescued(root: Path, plant: Callable[[Path], None]) -> None:
    """Regression: nobody rescued them, and only of a pipe something was said."""

    def live(mine: Any) -> None:
        mine.enqueue([job("a")])
        claim(mine)

    dead_owner(root, live)
    (lock,) = (root / "jobs" / "claimed").glob("*.lock")
    lock.unlink()
    plant(lock)
    mine = broker(root)
    assert list(mine.rescue()) == []
    (orphan,) = mine.rescue()
    settle_orphan(mine, orphan)
    assert ids(claim(mine)) == ["a"]
    assert mine.stats("jobs").bad == 1
    mine.close()


def test_a_directory_in_the_place_of_a_clock_is_left_and_another_serves(root: Path) -> None:
    """Regression: no process of the boot could open the spool, exit code 3."""
    first = broker(root)
    first.close()
    (clock,) = root.glob("clock.*")
    clock.unlink()
    clock.mkdir()
    second, third = broker(root), broker(root)
    second.enqueue([job("a")])
    assert {path.name for path in root.glob("clock.*")} == {clock.name, f"{clock.name}.1"}
    assert ids(claim(third)) == ["a"]
    assert [note for note in second.notes if clock.name in note]
    for one in (second, third):
        one.close()


@pytest.mark.parametrize("error", [errno.EBADMSG, errno.EACCES, errno.EIO])
def test_a_clock_that_cannot_be_read_is_replaced_by_one_for_all(root: Path, error: int) -> None:
    """Regression: no process of the boot could open the spool, exit code 3."""
    mine = broker(root)
    mine.enqueue([job("a")])
    (clock,) = root.glob("clock.*")
    damage = Damage(root, error, "open", "unlink", "rename")
    damage.at(clock)
    first, second = broker(root, calls=damage.seam), broker(root, calls=damage.seam)
    second.enqueue([job("b")])
    assert {path.name for path in root.glob("clock.*")} == {clock.name, f"{clock.name}.1"}
    assert first._spool.opened()[1].offset == second._spool.opened()[1].offset
    assert ids(claim(first)) == ["a", "b"]
    assert [note for note in first.notes if clock.name in note]
    for one in (mine, first, second):
        one.close()
