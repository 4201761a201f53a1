"""The limits of an enqueue: the queue's length and the room on the disk. Only a job's first enqueue is ever refused."""

from __future__ import annotations

import contextlib
import threading
import time

from framework.engine import flocks
from framework.engine.spool.disk.clock import Clock
from framework.engine.spool.disk.disk import Disk
from framework.engine.spool.disk.layout import QueueDir
from framework.engine.spool.upkeep.counts import Counts, read_depth
from framework.model.errors import QueueFull

RATE = 50_000  # jobs per second that all producers together can hardly exceed: so fast a count becomes outdated
CROWD = 64  # producers that may count at the same moment, and then each store a job
DEPTH_FRESH = 2_500_000_000  # nanoseconds for which a published depth is used
_ROOM = 1 << 20  # bytes that stay free, for attempt records and directories
_MAX_FIGURE_AGE = 3600.0


class Limits:
    """The limits of one queue, as the producers of this process check them."""

    def __init__(self, disk: Disk, queue: QueueDir, clock: Clock) -> None:
        self._disk = disk
        self._queue = queue
        self._clock = clock
        self._counts = Counts(disk, queue)
        self._count = 0
        self._taken = -_MAX_FIGURE_AGE
        self._pushed = 0
        flocks.in_child(self)
        self.after_fork()

    def after_fork(self) -> None:
        """Make a new lock: another thread of the parent may have held the old one."""
        # Held while counting: the threads that wait need the same count. Reentrant for signal handlers.
        self._lock = threading.RLock()

    def admit(self, jobs: int, size: int) -> bool:
        """Admit so many jobs; return whether to count again after the rename. Raises QueueFull, OSError.

        Args:
            jobs: how many. size: size of all their files in bytes.
        """
        self._check_room(jobs, size)
        limit = self._queue.options.max_length
        if limit is None:
            return False
        with self._lock:
            if not self._sure(limit - jobs):
                self._read_depth()
            near = not self._sure(limit - jobs)
            if near:
                self._recount()
                if self._count >= limit:
                    raise QueueFull(f"queue {self._queue.name!r} holds {self._count} jobs, max_length is {limit}")
                near = not self._sure(limit - jobs)
            self._pushed += jobs
        return near

    def near(self, jobs: int) -> bool:
        """Return whether other producers may have admitted too many jobs while we wrote these.

        They cannot see jobs before these are in place, so the later producer counts again.
        """
        limit = self._queue.options.max_length
        with self._lock:
            return limit is not None and not self._sure(limit - jobs)

    def excess(self) -> int:
        """Return by how many jobs the queue is over its limit now; 0: it is not, or they cannot be counted."""
        limit = self._queue.options.max_length
        if limit is None:
            return 0
        with self._lock, contextlib.suppress(OSError):  # the jobs are queued: a failed count is no reason for an error
            self._recount()
            return max(0, self._count - limit)
        return 0

    def _sure(self, limit: int) -> bool:
        age = time.monotonic() - self._taken
        return limit - self._count - self._pushed > RATE * age + CROWD

    def _recount(self) -> None:
        self._taken, self._pushed = time.monotonic(), 0
        self._count = self._counts.ready().count + self._counts.delayed().count

    def _read_depth(self) -> None:
        found = read_depth(self._disk, self._queue)
        if found is None:
            return
        count, stamp = found
        age = self._clock.now() - stamp
        taken = time.monotonic() - age / 1e9
        if 0 <= age < DEPTH_FRESH and taken > self._taken:
            # Our own pushes since then are in the rate already. To keep them counts some twice, which is safe.
            self._count, self._taken = count, taken

    def _check_room(self, jobs: int, size: int) -> None:
        free = self._disk.calls.fstatvfs(self._disk.fd)
        blocks = free.f_frsize or 1
        needed = size + jobs * blocks + min(_ROOM, free.f_blocks * blocks // 64)
        if free.f_bavail * blocks < needed:
            raise QueueFull(
                f"the disk of queue {self._queue.name!r} has {free.f_bavail * blocks} bytes left: free some"
            )
        if free.f_files and free.f_favail < jobs + 4:
            raise QueueFull(f"the disk of queue {self._queue.name!r} has {free.f_favail} inodes left: free some")
