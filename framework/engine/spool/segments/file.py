"""A segment that this process has open: its words, its records, and its claim lock.

The claim lock is a lock on one byte, owned by the open file (OFD). No process owns it, so another thread's probe on its
own descriptor does not free it; and the kernel frees it when a claiming process is killed. Systems without such locks
lock the whole file.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from framework.engine import flocks
from framework.engine.spool.disk.disk import Disk
from framework.engine.spool.format import job_file, names
from framework.engine.spool.segments import format as bytes_of
from framework.engine.spool.segments import words as word
from framework.model.job import Job

if TYPE_CHECKING:
    from framework.engine.spool.segments.open import Segments

WAIT = 0.002  # seconds for the claim lock, which is held for microseconds: a stopped holder must not stop others
CLAIMS = 0  # the locked byte
OFD = flocks.OFD
_OPEN = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK
_LIKELY = 2048  # bytes to read for each record, at a guess


class Busy(Exception):
    """An error: another process has held the claim lock for too long, because it is stopped or its disk hangs."""


def name_at(path: str) -> names.SegmentName:
    """Return the parsed name of the segment at a path."""
    name = names.segment(os.path.basename(path))
    assert name is not None, path
    return name


class Segment:
    """An open segment, also for the length of a `with` block. Not thread-safe: `Segments` has a lock.

    Attributes:
        path: path relative to the root. entry: file name. name: the parsed file name.
        fd: descriptor, which forked children close. file: device and inode. inode: the inode alone.
        head: the content of its head.
        claimed: indexes of the jobs that are leases of this process.
        store: the `Segments` that it belongs to; None: it is open for a look only.
    """

    __slots__ = (
        "_data", "_disk", "_offsets", "claimed", "entry", "fd", "file", "head", "inode", "name", "path", "store",
    )  # fmt: skip

    def __init__(self, disk: Disk, path: str, store: Segments | None = None) -> None:
        """Open the file. Raises Damaged, Newer, OSError."""
        self._disk, self.path, self.entry, self.store = disk, path, os.path.basename(path), store
        self.name = name_at(path)
        self.claimed: set[int] = set()
        self.file = -1, -1
        self._data: bytes = b""
        self._offsets: list[int] = []
        try:
            self.fd = flocks.keep(self._opened())
        except OSError as error:
            if error.errno in job_file.PLANTED:
                raise job_file.Planted from None
            raise
        try:
            found = disk.calls.fstat(self.fd)
            self.file, self.inode = (found.st_dev, found.st_ino), found.st_ino
            if not stat.S_ISREG(found.st_mode):
                raise job_file.Planted
            self.head = bytes_of.head(disk.calls.pread(self.fd, bytes_of.WORDS_AT, 0))
            if self.head.jobs != self.name.jobs or found.st_size < self.head.data_at:
                raise job_file.Damaged(f"{self.head.jobs} jobs in {found.st_size} bytes: not what its name says")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Segment:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file. Idempotent."""
        fd, self.fd = self.fd, -1
        if fd < 0:
            return
        with contextlib.suppress(OSError):
            if not flocks.is_still(self._disk.calls, fd, self.file):
                flocks.forget(fd)
                return
        flocks.drop(self._disk.calls, fd)
        self._disk.reserve()

    def _opened(self) -> int:
        """Return a descriptor; one that stays open does not use up the spare descriptor. Raises OSError."""
        if self.store is None:
            return self._disk.open(self.path, _OPEN)
        return self._disk.calls.open(self.path, _OPEN | os.O_CLOEXEC, 0o600, dir_fd=self._disk.fd)

    # --- words -------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Open the file again where the descriptor belongs to another file by now. Raises OSError.

        So no word is written into another file.
        """
        if self.fd < 0:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF), self.path)
        if flocks.is_still(self._disk.calls, self.fd, self.file):
            return
        flocks.forget(self.fd)
        self.fd = flocks.keep(self._opened())
        if not flocks.is_still(self._disk.calls, self.fd, self.file):
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), self.path)

    def words(self) -> list[int]:
        """Return all words as they are now. Raises OSError."""
        self.check()
        return word.unpack(self._disk.calls.pread(self.fd, word.SIZE * self.head.jobs, bytes_of.WORDS_AT))

    def word(self, index: int) -> int:
        """Return one word. Raises OSError."""
        found = word.unpack(self._disk.calls.pread(self.fd, word.SIZE, bytes_of.WORDS_AT + word.SIZE * index))
        if not found:
            raise OSError(errno.EIO, "it is shorter than it was", self.path)
        return found[0]

    def write(self, index: int, *values: int) -> None:
        """Write words, beginning at an index. Raises OSError."""
        data = word.pack(list(values))
        if self._disk.calls.pwrite(self.fd, data, bytes_of.WORDS_AT + word.SIZE * index) != len(data):
            raise OSError(errno.EIO, "a word was written in part", self.path)

    def write_all(self, changed: dict[int, int]) -> None:
        """Write words by index, adjacent ones in one call. Raises OSError: some may be written."""
        run: list[int] = []
        begin = 0
        for index in sorted(changed):
            if run and index == begin + len(run):
                run.append(changed[index])
                continue
            if run:
                self.write(begin, *run)
            begin, run = index, [changed[index]]
        if run:
            self.write(begin, *run)

    def flush(self) -> None:
        """Make the words durable. Raises OSError."""
        if self._disk.power:
            self._disk.calls.fdatasync(self.fd)

    def is_done(self) -> bool:
        """Return whether every job is settled. Raises OSError."""
        return all(map(word.is_settled, self.words()))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the claim lock for the length of a block. Raises Busy, OSError."""
        until = time.monotonic() + WAIT
        while not self._lock(fcntl.F_WRLCK, fcntl.LOCK_EX):
            if time.monotonic() > until:
                raise Busy(self.path)
            time.sleep(0.00005)
        try:
            yield
        finally:
            self._lock(fcntl.F_UNLCK, fcntl.LOCK_UN)

    def _lock(self, kind: int, whole: int) -> bool:
        if OFD is not None:
            return flocks.set_byte(self._disk.calls, self.fd, kind, CLAIMS)
        try:
            self._disk.calls.flock(self.fd, whole | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                return False
            raise
        return True

    # --- records -----------------------------------------------------------------------------------------------

    def job(self, index: int) -> Job:
        """Return the job with this index. Raises Damaged, OSError."""
        if index >= len(self._offsets):
            self.load(index + 1)
        return bytes_of.decode(self._data, self._offsets[index], self.head.queue)

    def holds(self, data: bytes) -> bool:
        """Return whether the records contain these bytes: a cheap test for an id. Raises OSError."""
        return data in self._disk.calls.pread(self.fd, self.head.size - self.head.data_at, self.head.data_at)

    def record(self, index: int) -> bytes:
        """Return the bytes of a record, up to the next record that is found, for a file in bad/. Raises OSError."""
        self.load(self.head.jobs)
        begin = self._offsets[index]
        later = [at for at in self._offsets[index + 1 :] if at >= 0]
        before = [at for at in self._offsets[:index] if at >= 0]
        if begin < 0:
            begin = before[-1] if before else 0
        return self._data[begin : later[0] if later else None]

    def whole(self) -> list[bool]:
        """Return for each index whether its record is as it was written. Raises OSError."""
        self.load(self.head.jobs)
        return [bytes_of.is_whole(self._data, at) for at in self._offsets]

    def load(self, upto: int) -> None:
        """Read the records below an index, each only once, because they never change. Raises OSError."""
        known, upto = len(self._offsets), upto if self.head.grows else self.head.jobs
        if known >= upto:
            return
        last = self._offsets[-1] if known else -1
        if last >= 0 and upto < self.head.jobs:  # read only new records; if one is damaged, read all again
            at = bytes_of.end(self._data, last)
            more = self._disk.calls.pread(self.fd, (upto - known) * _LIKELY, self.head.data_at + at)
            found = bytes_of.walk(data := self._data[:at] + more, upto, known, at)[known:]
            if -1 not in found:
                self._data, self._offsets = data, self._offsets + found
                return
        self._data = self._disk.calls.pread(self.fd, self.head.size - self.head.data_at, self.head.data_at)
        self._offsets = bytes_of.walk(self._data, upto)
