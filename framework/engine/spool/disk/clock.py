"""The clock behind the stamps of file names, and the wall clock.

A stamp is CLOCK_BOOTTIME plus an offset that all processes of this boot share, so a step of the wall clock reorders
nothing. The offset is made so that no stamp stored before this boot lies in the future: with last boot's offset and
a wall clock that was set back, jobs would wait until the clock had passed them, for only names stamped before a
listing are consumed.

Doubt: a time namespace shifts CLOCK_BOOTTIME but not the boot id; processes in different ones order their jobs apart.
"""

from __future__ import annotations

import errno
import os
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path

from framework.engine.spool.claim.setbacks import OF_ONE_FILE
from framework.engine.spool.disk import flocks
from framework.engine.spool.disk.disk import TOO_MANY_FILES, Disk
from framework.engine.spool.format import names

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_LENGTH = 20
HORIZON = 100 * 365 * 86_400_000_000_000  # nanoseconds: a stamp further ahead of the clock is made up
MOST_DAMAGED = 3  # files of one boot
_LATEST = 10**_LENGTH - 1 - HORIZON
_OFFSET = re.compile(rb"(-?\d{1,20})\n", re.ASCII)


def boottime_ns() -> int:
    """Nanoseconds since boot, suspend included (macOS has only the clock that stops)."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic_ns()


def boot_id() -> str:
    """Names this boot; where the system does not say, the minute of the boot. Raises OSError.

    A full table of descriptors does not mean that it does not say: with another id there would be two clocks.
    """
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError as error:
        if error.errno in TOO_MANY_FILES:
            raise
        return f"minute-{round((time.time() - time.monotonic()) / 60)}"


class Clock:
    """Stamps and the wall clock.

    Args:
        offset: nanoseconds from boot time to stamp time.
        wall: seconds since the epoch.
        boottime: nanoseconds since boot.

    Attributes:
        damaged: the file of an offset that cannot be read, in whose place another was made, and why; empty: none is.
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
        """The lock may have been held by another thread."""
        self._lock = threading.RLock()  # a signal handler may enqueue on top of a thread that holds it

    def now(self) -> int:
        """Stamp time in nanoseconds."""
        return self.offset + self.boottime()

    def stamp(self) -> str:
        """Later than every stamp that this process made before: 20 digits."""
        with self._lock:
            self._last = stamp = max(self.now(), self._last + 1)
        return f"{stamp:0{_LENGTH}d}"

    def stamps(self, count: int) -> list[str]:
        """So many at once, each later than the one before."""
        with self._lock:
            first = max(self.now(), self._last + 1)
            self._last = first + count - 1
        return [f"{stamp:0{_LENGTH}d}" for stamp in range(first, first + count)]

    def text(self) -> str:
        """Now, in the form of a stamp, to compare with."""
        return f"{self.now():0{_LENGTH}d}"

    def micros(self) -> int:
        """The wall clock in microseconds since the epoch, as names have it."""
        return names.micros(self.wall())


def load(
    disk: Disk,
    *,
    boot: str | None = None,
    wall: Callable[[], float] = time.time,
    boottime: Callable[[], int] = boottime_ns,
) -> Clock:
    """Return the clock of this root in this boot; the first process that comes fixes the offset.

    A file that is damaged is left where it is, and the next of the boot's names is used. Raises OSError.
    """
    first, damaged = f"clock.{boot or boot_id()}", ""
    for number in range(MOST_DAMAGED + 1):
        path = f"{first}.{number}" if number else first
        try:
            here = Clock(_offset(disk, path, wall, boottime), wall=wall, boottime=boottime)
        except OSError as error:
            if error.errno not in (*OF_ONE_FILE, errno.EISDIR) or number == MOST_DAMAGED:
                raise
            damaged = f"{path} cannot be used ({error.strerror}): {first}.{number + 1} is in its place"
        else:
            here.damaged = damaged
            return here
    raise AssertionError("the last try returns or raises")


def _offset(disk: Disk, path: str, wall: Callable[[], float], boottime: Callable[[], int]) -> int:
    offset = _stored(disk, path, boottime)
    if offset is not None:
        return offset
    here = round(wall() * 1e9)
    newest = newest_stamp(disk, until=here + HORIZON)
    return _publish(disk, path, max(here, newest + 1) - boottime(), boottime)


def _stored(disk: Disk, path: str, boottime: Callable[[], int]) -> int | None:
    data = disk.read_small(path)
    if data is None:
        return None
    found = _OFFSET.fullmatch(data)
    offset = None if found is None else int(found[1])
    # Beyond that a stamp would not fit into a name: torn or planted
    return offset if offset is not None and 0 <= offset + boottime() <= _LATEST else None


def _publish(disk: Disk, path: str, offset: int, boottime: Callable[[], int]) -> int:
    """Writes the offset under a name of its own, then links it: the first writer wins.

    Nothing is synced: a power cut ends this boot, and the next one has a clock of its own.
    """
    draft = f".clock.{os.urandom(6).hex()}"
    fd = disk.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try:
        disk.write_all(fd, f"{offset}\n".encode())
    finally:
        disk.calls.close(fd)
    try:
        if not disk.link(draft, path):
            theirs = _stored(disk, path, boottime)
            if theirs is not None:
                return theirs
            disk.rename(draft, path)  # what stands there is no offset: a torn or planted file
        return offset
    finally:
        disk.unlink(draft)


def newest_stamp(disk: Disk, *, until: int = _LATEST) -> int:
    """The newest stamp of any job in any state; 0: there is none. Raises OSError.

    Looks at every name: once a boot, past directories that are damaged. A stamp after `until` is nobody's: it would
    move all later ones out of range.
    """
    last = f"{until:0{_LENGTH}d}"
    newest = ""
    for queue in disk.listdir("."):
        for state in ("tmp", "dead", "bad"):
            newest = max(newest, _newest(disk, f"{queue}/{state}", last))
        for batch in filter(names.BATCH.fullmatch, _entries(disk, f"{queue}/tmp")):
            newest = max(newest, _newest(disk, f"{queue}/tmp/{batch}", last))
            newest = max(newest, batch[:_LENGTH] if batch[:_LENGTH] <= last else "")
        for state in ("tmp", "segments", "bad"):
            found = filter(None, map(names.segment, _entries(disk, f"{queue}/{state}")))
            newest = max([newest, *(stamp for one in found if (stamp := one.last_stamp) <= last)])
        for state in ("ready", "claimed", "delayed"):
            for directory in _entries(disk, f"{queue}/{state}"):
                newest = max(newest, _newest(disk, f"{queue}/{state}/{directory}", last))
    return int(newest or 0)


def _newest(disk: Disk, directory: str, last: str) -> str:
    found = (name[:_LENGTH] for name in _entries(disk, directory) if names.parse(name))
    return max((stamp for stamp in found if stamp <= last), default="")


def _entries(disk: Disk, directory: str) -> list[str]:
    try:
        return disk.listdir(directory)
    except OSError as error:
        if error.errno not in OF_ONE_FILE:
            raise
        return []
