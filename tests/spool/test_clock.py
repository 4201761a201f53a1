"""Stamps: later than all before, across processes, steps of the wall clock and reboots."""

from __future__ import annotations

import errno
import threading
from pathlib import Path

import pytest

from framework.engine.calls import Calls
from framework.engine.spool.disk import clock, layout
from framework.engine.spool.disk.disk import Disk

from . import world
from .seam import Seam, before
from .world import claim, ids, job


@pytest.fixture
def disk(root: Path) -> Disk:
    return layout.open_root(root, Calls(), power=True)


def test_stamps_grow_whatever_the_clock_does(disk: Disk) -> None:
    times = iter([100, 100, 50, 200, 10])
    here = clock.Clock(1000, boottime=lambda: next(times))
    stamps = [here.stamp() for _ in range(5)]
    assert stamps == sorted(set(stamps))
    assert all(len(stamp) == 20 for stamp in stamps)


def test_threads_never_share_a_stamp() -> None:
    here = clock.Clock(0)
    made: list[str] = []
    threads = [threading.Thread(target=lambda: made.extend(here.stamp() for _ in range(500))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(made)) == 2000


def test_all_processes_of_a_boot_share_the_offset(disk: Disk) -> None:
    first = clock.load(disk, boot="b", wall=lambda: 5000.0, boottime=lambda: 10)
    second = clock.load(disk, boot="b", wall=lambda: 9999.0, boottime=lambda: 20)
    assert first.offset == second.offset == 5000 * 10**9 - 10


def test_the_first_writer_of_the_offset_wins(root: Path, disk: Disk) -> None:
    """Two processes come at the same time: the second one's link fails, and it takes the first one's offset.

    Verified: with rename instead of link the two go on with different offsets.
    """
    seam = Seam()
    late = Disk(seam, disk.fd, power=True)  # type: ignore[arg-type]
    early: list[clock.Clock] = []
    seam.arm(before("link", lambda: early.append(clock.load(disk, boot="b", wall=lambda: 1.0))))
    assert clock.load(late, boot="b", wall=lambda: 2.0).offset == early[0].offset
    assert [path.name for path in root.iterdir()] == ["clock.b"]


def test_a_full_table_of_descriptors_makes_no_second_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Regression: the boot had another name then, and its jobs another order."""

    def full(*_: object, **__: object) -> str:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(Path, "read_text", full)
    with pytest.raises(OSError, match="Too many open files"):
        clock.boot_id()


@pytest.mark.parametrize("content", [b"", b"12", b"\xff\xfe", b"1 2\n", b"soon\n"])
def test_a_torn_offset_is_made_again(root: Path, disk: Disk, content: bytes) -> None:
    (root / "clock.b").write_bytes(content)
    made = clock.load(disk, boot="b", wall=lambda: 7.0, boottime=lambda: 0)
    assert made.offset == 7 * 10**9
    assert clock.load(disk, boot="b").offset == made.offset


def test_no_stored_stamp_lies_in_the_future_after_a_reboot(root: Path) -> None:
    """The wall clock was a day ahead in the last boot, and jobs in every state were stamped by it.

    Verified: with the offset from the wall clock alone, the claims find nothing.
    """
    first = world.broker(root)
    first.close()
    (here,) = root.glob("clock.*")
    ahead = int(here.read_text()) + 86_400 * 10**9
    here.write_text(f"{ahead}\n")
    first = world.broker(root)
    first.enqueue([job("a"), job("b"), job("d", delay=3600)])
    claim(first, limit=1)
    first.close()
    here.rename(root / "clock.last-boot")

    second = world.heal(root)  # what was claimed is given back
    assert ids(claim(second)) == ["a", "b"]
    second.enqueue([job("c")])
    assert ids(claim(second)) == ["c"]
    names = [path.name for path in world.files(root, "jobs/**/0*,*")]
    assert len(names) == 4
    second.close()


@pytest.mark.parametrize("state", ["tmp", "dead", "bad", "ready/0000000001", "claimed/w", "delayed/00000000001"])
def test_the_newest_stamp_is_found_in_every_state(disk: Disk, root: Path, state: str) -> None:
    place = root / "jobs" / state
    place.mkdir(parents=True)
    (place / "00000000000000000077.e672c630.1.aabbccddeeff,0.0").write_bytes(b"")
    (place / "99999999999999999999-foreign").write_bytes(b"")
    assert clock.newest_stamp(disk) == 77
