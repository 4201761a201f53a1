"""Open segments: jobs that come one by one, or few at a time, are appended to one segment, which is open for a while.

    1  the records are written behind the existing ones by one pwrite, and flushed: no name and no size changes, and all
       blocks were written before, so the journal has nothing to commit
    2  their words, *vacant* until then, become free, which shows all these jobs to workers

An open segment begins like any other, with the first jobs, and has room for more. Its writer keeps the file's `flock`
as a sign of life. The writer closes the segment when it is full, when it has been open for a quarter of a second, or
when a job is stored elsewhere that later jobs must not overtake. Words that are still vacant become *done* then. When
the writer is dead, maintenance does this; see `mending.adopt`.
"""

from __future__ import annotations

import contextlib
import errno
import threading
import time
from collections import deque
from collections.abc import Sequence

from framework.engine import flocks
from framework.engine.spool.disk.disk import Disk
from framework.engine.spool.enqueue.temp_files import TempFile
from framework.engine.spool.format import names
from framework.engine.spool.segments import file
from framework.engine.spool.segments import format as bytes_of
from framework.engine.spool.segments import words as word
from framework.model.job import Job

AGE = 0.25  # seconds that a segment is open; its stamp is at most this much older than a job that joins it
WORTH = 8  # calls within a second, from which on a segment is opened
TOGETHER = 64  # most jobs of one call that are appended; more get a segment of their own
FEWEST, MOST_BYTES = 16, 1 << 18  # slots of the first open segment; bytes that one has room for
MOST_KEPT = 128  # locked descriptors of this process for all queues together: the limit of open files may be low


class Doubt(Exception):
    """An error: jobs may or may not be stored."""


class Open:
    """A segment that this process has open for more jobs, with the offset of the next one.

    Attributes:
        path: its path, relative to the root. used: how many jobs are in it.
        retired: this process has since stored jobs elsewhere that later jobs must not overtake.
    """

    def __init__(self, disk: Disk, temp: TempFile, used: int, end: int, size: int, *, age: float) -> None:
        self._disk, self.path, self._fd = disk, temp.path, temp.fd
        self._name, self.used, self._end, self._size = file.name_at(temp.path), used, end, size
        self._until = time.monotonic() + age
        found = disk.calls.fstat(temp.fd)
        self._file = found.st_dev, found.st_ino
        self.retired = False

    def is_over(self) -> bool:
        """Return whether it must be closed."""
        return self.retired or time.monotonic() >= self._until

    def is_ours(self) -> bool:
        """Return whether the descriptor still is this file, and the file still has a name."""
        try:
            found = self._disk.calls.fstat(self._fd)
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == self._file and found.st_nlink > 0

    def takes(self, jobs: Sequence[Job]) -> bytes | None:
        """Return the records of these jobs for this segment; None: it cannot take them. Raises ValueError."""
        if self.is_over() or self.used + len(jobs) > self._name.jobs or not self.is_ours():
            return None
        first = min((job.eligible_at + job.ttl for job in jobs if job.ttl is not None), default=None)
        if first is not None and (self._name.expires is None or names.micros(first) < self._name.expires):
            return None  # the segment's name says when its first job expires, and cannot change
        records = bytes_of.records(jobs, self.used)
        return records if self._end + len(records) <= self._size else None

    def append(self, records: bytes, jobs: int) -> int:
        """Store so many jobs; return the index of the first. Raises Doubt, OSError: none is stored."""
        calls, first = self._disk.calls, self.used
        try:
            self._write(records, self._end)
        except OSError:
            self._withdraw(len(records))
            raise
        try:
            if self._disk.power:
                calls.fdatasync(self._fd)
            if not self.is_ours():
                raise OSError(errno.ENOENT, "the segment was removed or closed by another process", self.path)
            self.used, self._end = first + jobs, self._end + len(records)  # they are durable: `close` keeps them
            self._write(word.pack([word.free(0)] * jobs), bytes_of.WORDS_AT + word.SIZE * first)
        except OSError as error:
            raise Doubt(str(error)) from error
        return first

    def _withdraw(self, size: int) -> None:
        """Take back, durably, records whose write failed. Raises Doubt."""
        try:
            self._write(bytes(size), self._end)
            self._say_done()
            if self._disk.power:
                self._disk.calls.fdatasync(self._fd)
        except OSError as error:
            raise Doubt(f"what was written of it cannot be taken back: {error}") from error

    def _write(self, data: bytes, at: int) -> None:
        if self._disk.calls.pwrite(self._fd, data, at) != len(data):
            raise OSError(errno.EIO, "written in part", self.path)

    def _say_done(self) -> None:
        if vacant := self._name.jobs - self.used:
            self._write(word.pack([word.DONE] * vacant), bytes_of.WORDS_AT + word.SIZE * self.used)

    def close(self) -> None:
        """Close the segment for further jobs. Where a step fails, maintenance does it once the lock is free."""
        with contextlib.suppress(OSError):
            if not flocks.is_still(self._disk.calls, self._fd, self._file):
                flocks.forget(self._fd)
                return
            self._say_done()
            size = word.SIZE * self._name.jobs
            if all(map(word.is_settled, word.unpack(self._disk.calls.pread(self._fd, size, bytes_of.WORDS_AT)))):
                self._disk.unlink(self.path)
        flocks.drop(self._disk.calls, self._fd)


class Appender:
    """The writer of the open segment of one queue in one process. Any thread and any signal handler may call it.

    One thread at a time is inside, and no other waits for it: a job that comes meanwhile gets a file of its own.

    Attributes:
        segment: the open segment, if there is one. age: seconds that a segment is open.
    """

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._times = deque[float](maxlen=WORTH)  # monotonic times of the last calls
        self._slots = FEWEST
        self.age = AGE
        self.after_fork()
        flocks.in_child(self)

    def after_fork(self) -> None:
        """Forget the segment: it is the parent's, and its descriptor is closed here already."""
        self._lock = threading.Lock()
        self._others = self._entered = object()  # a new object whenever jobs are stored elsewhere
        self.segment: Open | None = None

    def is_worth(self, jobs: Sequence[Job]) -> bool:
        """Return whether the jobs of one call are worth appending, because such calls are frequent.

        On btrfs an overwritten page moves, which costs as much as a new file. Where only whole files can be locked,
        claims would wait for the writer's lock.
        """
        times = self._times  # another thread may replace it
        times.append(now := time.monotonic())
        often = len(times) == WORTH and now - times[0] <= 1.0
        if not often or len(jobs) > TOGETHER or self._disk.forgetful or file.OFD is None:
            return False
        if self.segment is None and flocks.kept() > MOST_KEPT:
            return False
        return sum(len(job.payload) for job in jobs) * FEWEST <= MOST_BYTES * len(jobs)

    def enter(self) -> bool:
        """Return whether this thread may write now; if so, it calls `leave` afterwards."""
        inside = self._lock.acquire(blocking=False)
        if inside:
            self._entered = self._others
        return inside

    def leave(self) -> None:
        """Let other threads write, and close a retired segment."""
        try:
            if self.segment is not None and self.segment.retired:
                self.close()
        finally:
            self._lock.release()

    def slots(self, jobs: Sequence[Job]) -> int:
        """Return how many jobs the next segment has room for, where these are the first."""
        size = sum(len(job.payload) for job in jobs) // len(jobs) + bytes_of.ROOM
        fits = max(len(jobs), MOST_BYTES // size)
        wanted = next((n for n in (FEWEST, 4 * FEWEST) if n >= max(self._slots, 4 * len(jobs))), bytes_of.MOST)
        return min(wanted, fits)

    def begin(self, segment: Open) -> None:
        """Append the next jobs to this segment. Called by the thread that is inside."""
        self.segment = segment
        if self._others is not self._entered:  # jobs were stored elsewhere, perhaps after it got its stamp
            segment.retired = True
        if not _closer.watch(self):
            self.close()

    def close(self) -> None:
        """Close the segment. Called by the thread that is inside."""
        segment, self.segment = self.segment, None
        if segment is not None:
            self._slots = 4 * segment.used
            segment.close()

    def retire(self, *, forget: bool = False) -> None:
        """Let no further job join the segment: a job was stored elsewhere, which later jobs must not overtake.

        Args:
            forget: forget the calls so far: while such jobs come in between, a new segment is not worth opening soon.
        """
        if forget:
            self._times = deque(maxlen=WORTH)
        self._others = object()
        segment = self.segment
        if segment is not None:
            segment.retired = True
            self.tick()

    def tick(self) -> bool:
        """Close a segment that must be closed; return whether one is still open."""
        segment = self.segment
        if segment is not None and segment.is_over() and self.enter():
            try:
                if self.segment is segment:
                    self.close()
            finally:
                self._lock.release()
        return self.segment is not None


class Closer:
    """A thread that closes segments in time when no further job comes. Each process has one while segments are open."""

    def __init__(self) -> None:
        self.after_fork()
        flocks.in_child(self)

    def after_fork(self) -> None:
        """Forget the parent's thread, which a forked child does not have."""
        self._lock = threading.RLock()  # reentrant for signal handlers
        self._open: set[Appender] = set()
        self._thread: threading.Thread | None = None

    def watch(self, appender: Appender) -> bool:
        """Close the appender's segment in time; False: no thread can be started."""
        with self._lock:
            self._open.add(appender)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="enqueue-closer", daemon=True)
                try:
                    self._thread.start()
                except RuntimeError:  # the process has as many threads as it may, or is ending
                    self._thread = None
        return self._thread is not None

    def _run(self) -> None:
        while True:
            time.sleep(AGE)
            for appender in list(self._open):
                appender.tick()
            with self._lock:  # not held while segments are closed, which a slow disk may delay
                self._open = {appender for appender in self._open if appender.segment is not None}
                if not self._open:
                    self._thread = None
                    return


_closer = Closer()
