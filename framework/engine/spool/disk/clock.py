"""The clock that makes the stamps of file names, and the wall clock.

A stamp is CLOCK_BOOTTIME plus an offset that all processes of this boot share, so a step of the wall clock reorders
nothing. The offset is chosen so that no stamp stored before this boot is in the future. Otherwise, after the wall clock
was set back, stored jobs would wait until the clock had passed their stamps, because only names stamped before a
listing are consumed.

Known limit: a time namespace shifts CLOCK_BOOTTIME but not the boot id, so processes in different time namespaces do
not share one order of jobs.
"""

from __future__ import annotations

import errno
import os
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path

from framework.engine import flocks
from framework.engine.spool.claim.setbacks import OF_ONE_FILE
from framework.engine.spool.disk.disk import TOO_MANY_FILES, Disk
from framework.engine.spool.format import names

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_LENGTH = 20
HORIZON = 100 * 365 * 86_400_000_000_000  # nanoseconds: a stamp further ahead of the clock is not genuine
MOST_DAMAGED = 3  # files of one boot
_LATEST = 10**_LENGTH - 1 - HORIZON
_OFFSET = re.compile(rb"(-?\d{1,20})\n", re.ASCII)


def boottime_ns() -> int:
    """Return nanoseconds since boot, suspend included (macOS has only a clock that stops during suspend)."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic_ns()


def boot_id() -> str:
    """Return the id of this boot; where the system has none, one made of the minute of the boot. Raises OSError.

    A full table of descriptors raises instead: with a second id there would be two clocks.
    """
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError as error:
        if error.errno in TOO_MANY_FILES:
            raise
        return f"minute-{round((time.time() - time.monotonic()) / 60)}"


class Clock:
    """The source of stamps and of wall-clock time in one process.

    Args:
        offset: nanoseconds from boot time to stamp time.
        wall: returns seconds since the epoch.
        boottime: returns nanoseconds since boot.

    Attributes:
        damaged: which offset file cannot be read, why, and which file replaces it; empty: none is damaged.
    """

    damaged = ""

    def __init__(
        self, offset: int, *, wall: Callable[[], float] = time.time, boottime: Callable[[], int] = boottime_ns
    ) -> None:
        self.offset = offset
        self.wall = wall
        self.boottime = boottime
        self._last = 0
        flocks.in_child(self)
        self.after_fork()

    def after_fork(self) -> None:
        """Make a new lock: another thread of the parent may have held the old one."""
        self._lock = threading.RLock()  # a signal handler may enqueue on top of a thread that holds it

    def now(self) -> int:
        """Return stamp time in nanoseconds."""
        return self.offset + self.boottime()

    def stamp(self, count: int = 1) -> str:
        """Return a stamp of 20 digits, later than every stamp that this process made before.

        Args:
            count: how many stamps are taken: this one, and those of the next numbers.
        """
        with self._lock:
            first = max(self.now(), self._last + 1)
            self._last = first + count - 1
        return f"{first:0{_LENGTH}d}"

    def text(self) -> str:
        """Return the current time in the form of a stamp, for comparisons."""
        return f"{self.now():0{_LENGTH}d}"

    def micros(self) -> int:
        """Return the wall clock in microseconds since the epoch, as in names."""
        return names.micros(self.wall())


def load(
    disk: Disk,
    *,
    boot: str | None = None,
    wall: Callable[[], float] = time.time,
    boottime: Callable[[], int] = boottime_ns,
) -> Clock:
    """Return the clock of this root in this boot; the first process sets the offset. Raises OSError.

    A damaged offset file stays where it is, and the next one of the boot's file names is used.
    """
    first, damaged = f"clock.{boot or boot_id()}", ""
    for number in range(MOST_DAMAGED + 1):
        path = f"{first}.{number}" if number else first
        try:
            offset = _stored(disk, path, boottime)
            if offset is None:
                now = round(wall() * 1e9)
                newest = newest_stamp(disk, until=now + HORIZON)
                offset = _publish(disk, path, max(now, newest + 1) - boottime(), boottime)
        except OSError as error:
            if error.errno not in (*OF_ONE_FILE, errno.EISDIR) or number == MOST_DAMAGED:
                raise
            damaged = f"{path} cannot be used ({error.strerror}): {first}.{number + 1} is in its place"
        else:
            here = Clock(offset, wall=wall, boottime=boottime)
            here.damaged = damaged
            return here
    raise AssertionError("the last try returns or raises")


def _stored(disk: Disk, path: str, boottime: Callable[[], int]) -> int | None:
    data = disk.read_small(path)
    if data is None:
        return None
    found = _OFFSET.fullmatch(data)
    offset = None if found is None else int(found[1])
    # With an offset out of this range stamps would not fit into names: the file is torn or foreign.
    return offset if offset is not None and 0 <= offset + boottime() <= _LATEST else None


def _publish(disk: Disk, path: str, offset: int, boottime: Callable[[], int]) -> int:
    """Write the offset to a temp file, then link it into place: the first writer wins. Return the offset in force.

    Nothing is synced: a power cut ends this boot, and the next boot has a clock of its own.
    """
    temp = f".clock.{os.urandom(6).hex()}"
    disk.write_new(temp, f"{offset}\n".encode(), sync=False)
    try:
        if not disk.link(temp, path):
            theirs = _stored(disk, path, boottime)
            if theirs is not None:
                return theirs
            disk.rename(temp, path)  # the file there has no valid offset: it is torn or foreign
        return offset
    finally:
        disk.unlink(temp)


def newest_stamp(disk: Disk, *, until: int = _LATEST) -> int:
    """Return the newest stamp of any job in any state; 0: there is none. Raises OSError.

    This looks at every name, once a boot, and skips damaged directories. A stamp after `until` is ignored: it would
    move all later stamps out of range.
    """
    last, newest = f"{until:0{_LENGTH}d}", ""
    for queue in disk.listdir("."):
        for state in ("tmp", "dead", "bad", "segments", "ready", "claimed", "delayed"):
            for entry in _entries(disk, f"{queue}/{state}"):
                deeper = state in ("ready", "claimed", "delayed") or names.BATCH.fullmatch(entry)
                found = (entry, *(_entries(disk, f"{queue}/{state}/{entry}") if deeper else ()))
                newest = max([newest, *(stamp for stamp in map(_stamp, found) if stamp <= last)])
    return int(newest or 0)


def _stamp(entry: str) -> str:
    """Return the last stamp in the name of a job, a segment or a batch; empty: it is the name of something else."""
    if names.parse(entry) or names.BATCH.fullmatch(entry):
        return entry[:_LENGTH]
    segment = names.segment(entry)
    return "" if segment is None else segment.last_stamp


def _entries(disk: Disk, directory: str) -> list[str]:
    try:
        return disk.listdir(directory)
    except OSError as error:
        if error.errno not in OF_ONE_FILE:
            raise
        return []
