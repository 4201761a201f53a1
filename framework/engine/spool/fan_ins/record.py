"""The record of a fan-in: a file of a header and a byte for each member."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from framework.engine import flocks
from framework.engine.spool.disk.disk import Disk
from framework.engine.spool.disk.layout import QueueDir
from framework.engine.spool.format.job_file import PLANTED
from framework.model.fan_in import HOWS, NAME, Ended, How

MAGIC = b"WFANIN1\n"
_HEADER = struct.Struct("<8sq")  # the number of members; -1: the fan-in is not sealed
BEGIN = _HEADER.size  # where the bytes of the members begin
OPEN = -1
THEN, NEW = ".then", ".new"
_BYTES: Mapping[How, bytes] = dict(zip(HOWS, (b"s", b"i", b"d", b"c", b"u"), strict=True))
_BLOCK = 65_536
_FLAGS = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK


def directory(queue: QueueDir) -> str:
    """Return the directory of a queue's fan-ins."""
    return f"{queue.base}/fan-ins"


def path(queue: QueueDir, name: str) -> str:
    """Return the path of a record. Raises ValueError: that is no name of a fan-in."""
    if not NAME.fullmatch(name):
        raise ValueError(f"{name!r:.60} is no name of a fan-in")
    return f"{queue.base}/fan-ins/{name}"


def new() -> bytes:
    """Return the content of a record without members."""
    return _HEADER.pack(MAGIC, OPEN)


class Record:
    """An open record. Its methods raise OSError."""

    def __init__(self, disk: Disk, fd: int, where: str) -> None:
        self._disk = disk
        self.fd = fd
        self._where = where
        self._locked = False

    def members(self) -> int:
        """Return the number of members of a sealed fan-in, else OPEN. Raises OSError: the file is no record."""
        data = self._disk.calls.pread(self.fd, BEGIN, 0)
        members = int(_HEADER.unpack(data)[1]) if len(data) == BEGIN and data[:8] == MAGIC else OPEN - 1
        if not OPEN <= members <= self.size():
            raise OSError(errno.EIO, "it is no record of a fan-in", self._where)
        return members

    def lock(self, wait: float) -> bool:
        """Take the lock of the file, waiting so many seconds; False: another process has it."""
        self._locked = flocks.take_within(self._disk.calls, self.fd, wait)
        return self._locked

    def close(self) -> None:
        """Free the lock and close the file."""
        if self._locked:
            flocks.release(self._disk.calls, self.fd)
        flocks.drop(self._disk.calls, self.fd)
        self._disk.reserve()

    def size(self) -> int:
        """Return for how many members there is a byte."""
        return max(0, self._disk.calls.fstat(self.fd).st_size - BEGIN)

    def grow(self, members: int) -> None:
        """Add bytes durably, so that an end needs no room on the disk."""
        size = self.size()
        if members > size:
            data, at = bytes(members - size), BEGIN + size
            while data:
                done = self._disk.calls.pwrite(self.fd, data, at)
                data, at = data[done:], at + done
            self._disk.sync(self.fd)

    def seal(self, members: int) -> None:
        """Write the number of members durably."""
        self._disk.calls.pwrite(self.fd, _HEADER.pack(MAGIC, members), 0)
        self._disk.sync(self.fd)

    def end(self, ends: Mapping[int, How]) -> None:
        """Write how members have ended, durably, where that is not known yet. Numbers beyond the file are left out."""
        size, changed = self.size(), False
        for number, how in ends.items():
            if number < size and self._disk.calls.pread(self.fd, 1, BEGIN + number) == b"\0":
                self._disk.calls.pwrite(self.fd, _BYTES[how], BEGIN + number)
                changed = True
        if changed and self._disk.power:
            self._disk.calls.fdatasync(self.fd)

    def first_left(self, begin: int, members: int) -> int:
        """Return the first member from `begin` on that has not ended; `members`: there is none."""
        at = begin
        while at < members:
            data = self._disk.calls.pread(self.fd, min(_BLOCK, members - at), BEGIN + at)
            found = data.find(b"\0")
            if found >= 0 or not data:
                return at + max(0, found)
            at += len(data)
        return members

    def left(self, members: int) -> list[int]:
        """Return the numbers of the members that have not ended."""
        return [number for number, one in enumerate(self._all(members)) if not one]

    def ended(self, members: int) -> Ended:
        """Return how many of the members have ended, by how."""
        data = self._all(members)
        return Ended(**{how: data.count(byte) for how, byte in _BYTES.items()})

    def _all(self, members: int) -> bytes:
        parts, at = [], 0
        while at < members and (data := self._disk.calls.pread(self.fd, min(_BLOCK, members - at), BEGIN + at)):
            parts.append(data)
            at += len(data)
        return b"".join(parts).ljust(members, b"\0")


@contextmanager
def opened(disk: Disk, queue: QueueDir, name: str) -> Iterator[Record | None]:
    """Open a record for the length of a block; None: there is none. Raises OSError."""
    where = path(queue, name)
    try:
        found = Record(disk, flocks.keep(disk.open(where, _FLAGS)), where)
    except OSError as error:
        if error.errno != errno.ENOENT and error.errno not in PLANTED:
            raise
        yield None  # a planted link, directory or pipe is none
        return
    try:
        yield found
    finally:
        found.close()
