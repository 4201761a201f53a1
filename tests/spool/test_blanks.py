"""Prepared files: one flush a job, and nothing that a new file promises is given up."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from framework.brokers.spool import SpoolBroker
from framework.errors import EnqueueFailed
from framework.spool import blanks, names

from .seam import Seam, fail_calls, pass_on
from .world import broker, census, claim, files, heal, ids, in_child, job

Warm = tuple[SpoolBroker, Seam]


@pytest.fixture
def warm(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Warm]:
    """A producer that has enqueued one by one, often enough to have prepared files."""
    monkeypatch.setattr(blanks, "WORTH", 2)
    seam = Seam()
    mine = broker(root, calls=seam)
    for number in range(2):
        mine.enqueue([job(f"warm{number}")])
    assert len(drafts(root)) == blanks.BATCH
    yield mine, seam
    mine.close()


def drafts(root: Path) -> list[Path]:
    return files(root, "**/tmp/*")


def names_of(seam: Seam, act: Any) -> list[str]:
    seam.arm(pass_on)
    act()
    seam.disarm()
    return [name for name in seam.names if name not in ("stat", "fstat", "fstatvfs")]


def test_one_flush_and_no_new_file(root: Path, warm: Warm) -> None:
    """Verified: without `fdatasync` the list is shorter, and the model of the disk loses the job."""
    mine, seam = warm
    assert names_of(seam, lambda: mine.enqueue([job("n")])) == ["pwrite", "fdatasync", "rename", "close"]
    assert ids(claim(mine)) == ["warm0", "warm1", "n"]
    assert len(drafts(root)) == blanks.BATCH - 1


def test_who_uses_the_last_one_up_prepares_the_next_when_its_job_is_on_its_way(root: Path, warm: Warm) -> None:
    mine, seam = warm
    for number in range(blanks.BATCH - 1):
        mine.enqueue([job(f"n{number}")])
    assert len(drafts(root)) == 1
    calls = names_of(seam, lambda: mine.enqueue([job("last")]))
    assert (calls.count("syncfs"), calls.count("fsync"), calls.count("fdatasync")) == (1, 0, 1)
    assert calls.index("fdatasync") < calls.index("rename") < calls.index("open")
    assert len(drafts(root)) == blanks.BATCH
    assert len(claim(mine)) == blanks.BATCH + 2


@pytest.mark.parametrize("call", ["open", "write", "syncfs"])
def test_where_none_can_be_prepared_the_job_is_queued_all_the_same(root: Path, warm: Warm, call: str) -> None:
    mine, seam = warm
    for number in range(blanks.BATCH - 1):
        mine.enqueue([job(f"n{number}")])
    seam.arm(fail_calls(errno.EIO, call))
    mine.enqueue([job("last")])
    seam.disarm()
    assert drafts(root) == []
    mine.enqueue([job("alone")])
    assert ids(claim(mine))[-2:] == ["last", "alone"]


def test_rarely_used_producers_prepare_nothing(root: Path) -> None:
    mine = broker(root)
    for number in range(blanks.WORTH - 1):
        mine.enqueue([job(f"n{number}")])
    assert drafts(root) == []
    mine.close()


def test_delay_and_lifetime_are_in_the_name_as_ever(root: Path, warm: Warm) -> None:
    mine, seam = warm
    now = time.time()
    calls = names_of(seam, lambda: mine.enqueue([job("late", delay=60, ttl=30.0)]))
    assert "fdatasync" in calls
    (path,) = files(root, "**/delayed/*/*")
    name = names.parse(path.name)
    assert name is not None
    assert name.not_before is not None
    assert name.expires is not None
    assert (name.expires - name.not_before, name.not_before >= round((now + 60) * 1e6)) == (30_000_000, True)


@pytest.mark.parametrize("last", ["pwrite", "fdatasync"])
def test_a_producer_that_dies_leaves_its_job_and_no_litter(
    root: Path, monkeypatch: pytest.MonkeyPatch, last: str
) -> None:
    """What is whole in tmp is promoted, with the delay and lifetime of the job; the zeros are removed.

    Verified: with the name in tmp instead of the job's own the delayed job comes at once.
    """
    monkeypatch.setattr(blanks, "WORTH", 1)

    def die() -> None:
        seam = Seam()
        mine = broker(root, calls=seam)
        mine.enqueue([job("first")])

        def hook(name: str, args: tuple[Any, ...], kwargs: dict[str, Any], real: Any) -> Any:
            result = real(*args, **kwargs)
            if name == last:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        seam.arm(hook)
        mine.enqueue([job("n", delay=60)])

    in_child(die)
    after = heal(root)
    assert drafts(root) == []
    assert census(after) == {"first": 1, "n": 1}
    assert len(files(root, "**/delayed/*/*")) == 1
    after.close()


def test_where_the_flush_fails_the_job_is_not_queued_and_gone(root: Path, warm: Warm) -> None:
    mine, seam = warm
    seam.arm(fail_calls(errno.EIO, "fdatasync", times=1))
    with pytest.raises(EnqueueFailed):
        mine.enqueue([job("n")])
    seam.disarm()
    mine.enqueue([job("m")])
    assert len(drafts(root)) == blanks.BATCH - 2
    after = heal(root)
    assert "n" not in census(after)
    after.close()


def test_a_full_disk_prepares_nothing_and_refuses_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blanks, "WORTH", 1)
    seam = Seam()
    mine = broker(root, calls=seam)
    writes: list[int] = []

    def hook(name: str, args: tuple[Any, ...], kwargs: dict[str, Any], real: Any) -> Any:
        if name == "write":
            writes.append(1)
            if len(writes) > 4:
                raise OSError(errno.ENOSPC, "No space left on device")
        return real(*args, **kwargs)

    seam.arm(hook)
    mine.enqueue([job("n")])
    seam.disarm()
    assert drafts(root) == []
    assert ids(claim(mine)) == ["n"]
    mine.close()


def test_a_job_longer_than_a_page_gets_a_file_of_its_own(root: Path, warm: Warm) -> None:
    mine, seam = warm
    big = job("big", payload=b'"' + b"x" * blanks.PAGE + b'"')
    assert "fdatasync" not in names_of(seam, lambda: mine.enqueue([big]))
    assert [len(lease.job.payload) for lease in claim(mine)][-1] == blanks.PAGE + 2


def test_a_forked_child_does_not_write_into_its_parents_files(root: Path, warm: Warm) -> None:
    """Verified: without `after_fork`, and without the look at the inode, one job is lost."""
    mine, _ = warm
    in_child(lambda: mine.enqueue([job("child")]))
    mine.enqueue([job("parent")])
    after = heal(root)
    assert census(after) == {"warm0": 1, "warm1": 1, "child": 1, "parent": 1}
    after.close()


def test_a_number_that_is_somebody_elses_file_by_now_is_not_written(root: Path, warm: Warm, tmp_path: Path) -> None:
    """A service closes all descriptors and opens its own. Verified: without the look at the inode it is damaged."""
    mine, _ = warm
    theirs = tmp_path / "theirs"
    theirs.write_bytes(bytes(blanks.PAGE))
    blank = mine._spool._parts["jobs"].enqueue._blanks._ready[-1]
    other = os.open(theirs, os.O_RDWR)
    os.dup2(other, blank.fd)
    try:
        mine.enqueue([job("n")])
        assert theirs.read_bytes() == bytes(blanks.PAGE)
        assert "n" in ids(claim(mine))
    finally:
        os.close(other)
        os.close(blank.fd)


def test_closing_removes_them(root: Path, warm: Warm) -> None:
    mine, _ = warm
    mine.close()
    assert drafts(root) == []


def test_without_power_durability_there_are_none(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blanks, "WORTH", 1)
    mine = broker(root, durability="process")
    mine.enqueue([job("n")])
    mine.enqueue([job("m")])
    assert drafts(root) == []
    mine.close()
