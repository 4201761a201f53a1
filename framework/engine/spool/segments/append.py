"""Jobs that come one by one, or few at a time, go behind each other into one segment, which stays open for a while.

    1  the records are written behind those that are there, by one pwrite, and flushed: no name and no size changes, and
       all blocks were written before, so the journal has nothing to commit
    2  their words, *vacant* until then, say that they are free: that shows them all

A segment begins as any other, with the first jobs and with room for more. Its writer keeps the file's `flock` as a sign
of life, and closes the segment when it is full, when it has been open for a quarter of a second, and when a job is
stored elsewhere that must not be overtaken by what comes later: the words that are still vacant say *done* then. When
the writer is dead, maintenance does that; see `mending.adopt`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import time
from collections import deque
from collections.abc import Sequence

from framework.engine.spool.disk import flocks
from framework.engine.spool.disk.disk import Disk
from framework.engine.spool.enqueue.draft import Draft
from framework.engine.spool.format import names
from framework.engine.spool.segments import file
from framework.engine.spool.segments import format as bytes_of
from framework.engine.spool.segments import words as word
from framework.model.job import Job

AGE = 0.25  # seconds that a segment is open: so old its stamp may be when a job joins it
WORTH = 8  # calls within a second, from which on a segment is opened
TOGETHER = 64  # jobs of one call; more get a segment of their own
FEWEST, MOST_BYTES = 16, 1 << 18  # slots of the first one; bytes that one has room for
MOST_KEPT = 128  # locked descriptors of this process, all queues together: a process may have few


class Doubt(Exception):
    """Jobs may or may not be stored."""


class Open:
    """A segment that this process has open for more jobs, and the place of the next one."""

    def __init__(self, disk: Disk, draft: Draft, used: int, end: int, size: int, *, age: float) -> None:
        name = names.segment(os.path.basename(draft.path))
        assert name is not None
        self._disk, self._path, self._fd = disk, draft.path, draft.fd
        self._name, self._used, self._end, self._size = name, used, end, size
        self._until = time.monotonic() + age
        found = disk.calls.fstat(draft.fd)
        self._file = found.st_dev, found.st_ino
        self.retired = False  # others of this process have stored jobs since, which none may overtake

    @property
    def used(self) -> int:
        """Return how many jobs are in it."""
        return self._used

    @property
    def path(self) -> str:
        """Return where it lies, relative to the root."""
        return self._path

    def is_over(self) -> bool:
        """Return whether it is to be closed."""
        return self.retired or time.monotonic() >= self._until

    def is_ours(self) -> bool:
        """Return whether the descriptor is this file, and the file has a name."""
        try:
            found = self._disk.calls.fstat(self._fd)
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == self._file and found.st_nlink > 0

    def takes(self, jobs: Sequence[Job]) -> bytes | None:
        """Return the records of these jobs as they would be here; None: here is no room. Raises ValueError."""
        if self.is_over() or self._used + len(jobs) > self._name.jobs or not self.is_ours():
            return None
        first = min((job.eligible_at + job.ttl for job in jobs if job.ttl is not None), default=None)
        if first is not None and (self._name.expires is None or names.micros(first) < self._name.expires):
            return None  # its name says when its first job expires
        records = bytes_of.records(jobs, self._used)
        return records if self._end + len(records) <= self._size else None

    def append(self, records: bytes, jobs: int) -> int:
        """Store so many jobs; return the index of the first. Raises OSError: none is stored, and Doubt."""
        calls, first = self._disk.calls, self._used
        try:
            self._write(records, self._end)
        except OSError:
            self._withdraw(len(records))
            raise
        try:
            if self._disk.power:
                calls.fdatasync(self._fd)
            if not self.is_ours():
                raise OSError(errno.ENOENT, "somebody has removed the segment, or closed it", self._path)
            self._used, self._end = first + jobs, self._end + len(records)  # durable: `close` leaves them alone
            self._write(word.pack([word.free(0)] * jobs), bytes_of.WORDS_AT + word.SIZE * first)
        except OSError as error:
            raise Doubt(str(error)) from error
        return first

    def _withdraw(self, size: int) -> None:
        """Take back what was not flushed. Raises Doubt."""
        try:
            self._write(bytes(size), self._end)
            self._say_done()
            if self._disk.power:
                self._disk.calls.fdatasync(self._fd)
        except OSError as error:
            raise Doubt(f"what was written of it cannot be taken back: {error}") from error

    def _write(self, data: bytes, at: int) -> None:
        if self._disk.calls.pwrite(self._fd, data, at) != len(data):
            raise OSError(errno.EIO, "written in part", self._path)

    def _say_done(self) -> None:
        if vacant := self._name.jobs - self._used:
            self._write(word.pack([word.DONE] * vacant), bytes_of.WORDS_AT + word.SIZE * self._used)

    def close(self) -> None:
        """No further job comes. Whatever fails here, maintenance does once the lock is gone."""
        with contextlib.suppress(OSError):
            if not flocks.is_still(self._disk.calls, self._fd, self._file):
                flocks.forget(self._fd)
                return
            self._say_done()
            size = word.SIZE * self._name.jobs
            if all(map(word.is_settled, word.unpack(self._disk.calls.pread(self._fd, size, bytes_of.WORDS_AT)))):
                self._disk.unlink(self._path)
        flocks.drop(self._disk.calls, self._fd)


class Appender:
    """The open segment of one queue in one process, if there is one. Any thread may call, and signal handlers on top.

    One thread at a time is inside; nobody waits for it: a job that comes meanwhile gets a file of its own.

    Attributes:
        segment: it. age: seconds that it is open.
    """

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._times = deque[float](maxlen=WORTH)  # monotonic, of the last calls
        self._slots = FEWEST
        self.age = AGE
        self.after_fork()
        flocks.in_child(self)

    def after_fork(self) -> None:
        """The segment is the parent's; its descriptor is closed here already."""
        self._lock = threading.Lock()
        self._others = self._entered = object()  # another one whenever jobs are stored elsewhere
        self.segment: Open | None = None

    def is_worth(self, jobs: Sequence[Job]) -> bool:
        """Return whether jobs that come together are to be put behind others, as such calls are many.

        On btrfs an overwritten page moves, which is as dear as a new file. Where only whole files can be locked, claims
        would wait for the writer's lock.
        """
        times = self._times  # another thread may begin a new one
        times.append(now := time.monotonic())
        often = len(times) == WORTH and now - times[0] <= 1.0
        if not often or len(jobs) > TOGETHER or self._disk.forgetful or file.OFD is None:
            return False
        if self.segment is None and flocks.kept() > MOST_KEPT:
            return False
        return sum(len(job.payload) for job in jobs) * FEWEST <= MOST_BYTES * len(jobs)

    def enter(self) -> bool:
        """Return whether this thread may write now; then it calls `leave`."""
        inside = self._lock.acquire(blocking=False)
        if inside:
            self._entered = self._others
        return inside

    def leave(self) -> None:
        """Let others write."""
        try:
            if self.segment is not None and self.segment.retired:
                self.close()
        finally:
            self._lock.release()

    def slots(self, jobs: Sequence[Job]) -> int:
        """Return how many jobs the next segment has room for; these are the first."""
        size = sum(len(job.payload) for job in jobs) // len(jobs) + bytes_of.ROOM
        fits = max(len(jobs), MOST_BYTES // size)
        wanted = next((n for n in (FEWEST, 4 * FEWEST) if n >= max(self._slots, 4 * len(jobs))), bytes_of.MOST)
        return min(wanted, fits)

    def begin(self, segment: Open) -> None:
        """Put what comes next behind the first jobs of this one. By the thread that is inside."""
        self.segment = segment
        if self._others is not self._entered:  # since it has its stamp, perhaps
            segment.retired = True
        if not _closer.watch(self):
            self.close()

    def close(self) -> None:
        """Close the segment. By the thread that is inside."""
        segment, self.segment = self.segment, None
        if segment is not None:
            self._slots = 4 * segment.used
            segment.close()

    def retire(self, *, forget: bool = False) -> None:
        """Let no job join the segment any more: one that keeps an order with them was stored elsewhere.

        Args:
            forget: such jobs come between the others, for which it is not worth to open a segment again soon.
        """
        if forget:
            self._times = deque(maxlen=WORTH)
        self._others = object()
        segment = self.segment
        if segment is not None:
            segment.retired = True
            self.tick()

    def tick(self) -> bool:
        """Close a segment that is to be closed; return whether one is open still."""
        segment = self.segment
        if segment is not None and segment.is_over() and self.enter():
            try:
                if self.segment is segment:
                    self.close()
            finally:
                self._lock.release()
        return self.segment is not None


class Closer:
    """A thread that closes segments in time when no further job comes; one a process, while segments are open."""

    def __init__(self) -> None:
        self.after_fork()
        flocks.in_child(self)

    def after_fork(self) -> None:
        """In a forked child: no thread is there."""
        self._lock = threading.RLock()  # a signal handler may come on top
        self._open: set[Appender] = set()
        self._thread: threading.Thread | None = None

    def watch(self, appender: Appender) -> bool:
        """Close its segment in time; False: no thread can be had."""
        with self._lock:
            self._open.add(appender)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="enqueue-closer", daemon=True)
                try:
                    self._thread.start()
                except RuntimeError:  # the process has as many as it may, or ends
                    self._thread = None
        return self._thread is not None

    def _run(self) -> None:
        while True:
            time.sleep(AGE)
            for appender in list(self._open):
                appender.tick()
            with self._lock:  # not while it closes segments, which the disk may hold up
                self._open = {appender for appender in self._open if appender.segment is not None}
                if not self._open:
                    self._thread = None
                    return


_closer = Closer()
