"""A file that cannot be moved keeps no other waiting, is said by name, and moves once it can.

An injected EPERM stands for `chattr +i`, which tests/process plays on a real file system.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from framework.engine.spool.claim import setbacks
from framework.engine.spool.claim.setbacks import Setbacks
from framework.model.options import QueueOptions
from tests.support.processes import wait_until

from .seam import Seam
from .world import JOBS, LETTERS, broker, claim, dead_owner, files, heal, ids, job, pass_time, settle_orphan


class Stone:
    """Files with a name that nothing moves: every call that would take them out of their directory fails."""

    def __init__(self, seam: Seam) -> None:
        self.names: set[str] = set()
        self.hit = 0
        seam.arm(self._hook)

    def _hook(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], real: Callable[..., Any]) -> Any:
        if name in ("rename", "unlink", "rmdir") and os.path.basename(str(args[0]))[:20] in self.names:
            self.hit += 1
            raise OSError(errno.EPERM, os.strerror(errno.EPERM), args[0])
        return real(*args, **kwargs)

    def turn(self, path: Path) -> None:
        """The file of this path moves no more, whatever its name becomes."""
        self.names.add(path.name[:20])

    def soften(self) -> None:
        self.names.clear()


@pytest.fixture
def stone(seam: Seam) -> Stone:
    return Stone(seam)


def first_file(root: Path, state: str) -> Path:
    """The oldest job file of a state."""
    return files(root, f"jobs/{state}/*/*")[0]


def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next try of a file that failed is at once."""
    monkeypatch.setattr(setbacks, "FIRST", 0.0)


def test_a_waiting_job_that_cannot_be_claimed_lets_the_others_by(
    root: Path, seam: Seam, stone: Stone, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = broker(root, calls=seam)
    mine.enqueue([job(f"n{n}") for n in range(40)])
    for path in files(root, "jobs/ready/*/*")[:30]:
        stone.turn(path)
    seen: list[str] = []
    for _ in range(10):
        seen += ids(claim(mine))
    assert seen == [f"n{n}" for n in range(30, 40)]
    assert len(mine.stuck()) == 30
    no_waiting(monkeypatch)
    stone.soften()
    for path in list(mine._spool.parts("jobs").setbacks._by_path.values()):
        path.retry_at = 0.0
    again: list[str] = []
    assert wait_until(lambda: again.extend(ids(claim(mine))) or len(again) == 30, 30), "once the listing is renewed"
    assert {*again} == {f"n{n}" for n in range(30)}
    assert mine.stuck() == {}
    mine.close()


def test_a_due_job_that_cannot_be_promoted_lets_the_others_by(root: Path, seam: Seam, stone: Stone) -> None:
    mine = broker(root, calls=seam)
    mine.enqueue([job("a", delay=60), job("b", delay=60)])
    stuck = first_file(root, "delayed")
    pass_time(mine, 61)
    stone.turn(stuck)
    assert mine.maintain()
    assert ids(claim(mine)) == ["b"]
    assert mine.stuck() == {str(stuck): os.strerror(errno.EPERM)}
    stone.soften()
    mine.maintain()
    assert ids(claim(mine)) == ["a"]
    assert mine.stuck() == {}
    mine.close()


def test_a_job_that_cannot_expire_lets_the_others_by(root: Path, seam: Seam, stone: Stone) -> None:
    mine = broker(root, calls=seam)
    mine.enqueue([job("a", ttl=0.001), job("b", ttl=0.001), job("c", ttl=0.001)])
    pass_time(mine, 1)
    stone.turn(first_file(root, "ready"))
    assert mine.maintain()
    assert (mine.stats("jobs").ready, mine.stats("letters").ready + mine.stats("letters").dead) == (1, 2)
    stone.soften()
    mine.maintain()
    assert mine.stats("jobs").ready == 0
    assert mine.stuck() == {}
    mine.close()


def test_an_expired_job_that_sticks_half_way_is_found_again(root: Path, seam: Seam) -> None:
    """Claimed by maintenance, which claims nothing else: without the look into its own directory it stays there."""
    mine = broker(root, calls=seam)
    mine.enqueue([job("a", ttl=0.001), job("b", ttl=0.001)])
    pass_time(mine, 1)
    failed: list[str] = []

    def no_letters(name: str, args: tuple[Any, ...], kwargs: dict[str, Any], real: Callable[..., Any]) -> Any:
        if name == "rename" and "/claimed/" in str(args[0]) and not failed:
            failed.append(str(args[0]))
            raise OSError(errno.EIO, "injected", args[0])
        return real(*args, **kwargs)

    seam.arm(no_letters)
    mine.maintain()
    assert failed
    assert mine.stats("jobs").in_flight == 1
    mine.enqueue([job("c", ttl=0.001)])
    pass_time(mine, 1)
    mine.maintain()
    assert (mine.stats("jobs").in_flight, mine.stats("jobs").ready) == (0, 0)
    mine.close()


@pytest.mark.parametrize("call", ["pwrite", "syncfs"])
def test_expired_jobs_whose_records_cannot_be_stored_stay_claimed_and_are_found_again(
    root: Path, seam: Seam, call: str
) -> None:
    mine = broker(root, calls=seam)
    mine.enqueue([job("a", ttl=0.001), job("b", ttl=0.001)])
    pass_time(mine, 1)
    times = iter([True])

    def fail(name: str, args: tuple[Any, ...], kwargs: dict[str, Any], real: Callable[..., Any]) -> Any:
        if name == call and next(times, False):
            raise OSError(errno.EIO, "injected")
        return real(*args, **kwargs)

    seam.arm(fail)
    mine.maintain()
    seam.disarm()
    mine.enqueue([job("c", ttl=0.001)])
    pass_time(mine, 1)
    mine.maintain()
    stats = mine.stats("jobs")
    assert (stats.ready, stats.in_flight) == (0, 0)
    letters = [view for state in ("ready", "dead") for view in mine.browse("letters", state)]  # type: ignore[arg-type]
    assert sorted(view.job.id for view in letters) == ["a", "b", "c"]
    assert all(view.job.history[-1].reason == "expired" for view in letters)
    mine.close()


def test_many_expired_jobs_share_their_flushes(root: Path, seam: Seam) -> None:
    """Two flushes each, a disk that takes 25 ms for one, 3,000 jobs: maintenance was killed as stuck."""
    mine = broker(root, calls=seam)
    mine.enqueue([job(f"n{n}", ttl=0.001) for n in range(100)])
    pass_time(mine, 1)
    seam.arm(lambda name, args, kwargs, real: real(*args, **kwargs))
    seam.names.clear()
    mine.maintain()
    assert mine.stats("jobs").ready == 0
    assert sum("sync" in name for name in seam.names) < 10
    mine.close()


def test_a_dead_owner_that_cannot_be_settled_keeps_no_other_waiting(root: Path, seam: Seam) -> None:
    """Its directory cannot be read; the second owner's is, in the same call."""
    for name in ("a", "b"):
        dead_owner(root, lambda b, name=name: (b.enqueue([job(name)]), claim(b)))  # type: ignore[misc]
    owners = sorted(path for path in (root / "jobs" / "claimed").iterdir() if path.is_dir())
    mine = broker(root, calls=seam)

    def unreadable(name: str, args: tuple[Any, ...], kwargs: dict[str, Any], real: Callable[..., Any]) -> Any:
        if name == "open" and str(args[0]).endswith(owners[0].name):
            raise OSError(errno.EIO, "injected", args[0])
        return real(*args, **kwargs)

    seam.arm(unreadable)
    (orphan,) = mine.rescue()
    settle_orphan(mine, orphan)
    assert mine.rescue() == []
    seam.disarm()
    mine.close()
    assert heal(root).stats("jobs").in_flight == 0


def test_a_disk_that_refuses_everything_is_not_taken_for_single_files(root: Path, seam: Seam) -> None:
    mine = broker(root, calls=seam)
    mine.enqueue([job("a", delay=0.5), job("b", delay=0.5)])
    pass_time(mine, 1)

    def read_only(name: str, args: tuple[Any, ...], kwargs: dict[str, Any], real: Callable[..., Any]) -> Any:
        if name == "rename":
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), args[0])
        return real(*args, **kwargs)

    seam.arm(read_only)
    with pytest.raises(Exception, match="Read-only file system: remount"):
        mine.maintain()
    assert mine.stuck() == {}
    seam.disarm()
    mine.close()


def test_each_failure_waits_longer_for_the_next_try() -> None:
    now = [100.0]
    found = Setbacks(clock=lambda: now[0])
    error = OSError(errno.EPERM, "x")
    waits = []
    for _ in range(10):
        found.add("p", error)
        began = now[0]
        while found.waits("p"):
            now[0] += 0.25
        waits.append(now[0] - began)
    assert waits == [0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]
    assert found.reasons(lambda path: True) == {"p": "x"}
    assert found.reasons(lambda path: False) == {}


def test_a_disk_on_which_too_many_files_fail_is_broken_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setbacks, "MOST", 2)
    monkeypatch.setattr(setbacks, "MOST_DIRECTORIES", 0)
    found = Setbacks()
    found.add("a", OSError(errno.EIO, "x"))
    found.add("b", OSError(errno.EIO, "x"))
    found.add("a", OSError(errno.EIO, "x"))
    with pytest.raises(OSError, match="x"):
        found.add("c", OSError(errno.EIO, "x"))


# --- a pass in parts --------------------------------------------------------------------------------------------------


def test_a_call_without_time_goes_on_where_the_last_one_stopped(root: Path) -> None:
    """Every step has its turn however long the others take; all is done in the end."""
    mine = broker(root, JOBS, QueueOptions("more"), LETTERS)
    mine.enqueue([job(f"n{n}", ttl=0.001) for n in range(600)])
    mine.enqueue([job("late", queue="more", delay=0.5)])
    pass_time(mine, 1)
    calls = 0
    while not mine.maintain(seconds=1e-6):
        calls += 1
        assert calls < 1000
    assert calls > 10
    assert mine.stats("jobs").ready == 0
    assert mine.stats("more").ready == 1
    mine.close()
