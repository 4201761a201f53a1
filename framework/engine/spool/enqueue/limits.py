"""How many jobs a queue may hold, and whether the disk has room. Only a first enqueue is ever refused."""

from __future__ import annotations

import threading
import time

from framework.engine.spool.disk import flocks
from framework.engine.spool.disk.clock import Clock
from framework.engine.spool.disk.disk import Disk
from framework.engine.spool.disk.layout import QueueDir
from framework.engine.spool.upkeep.counts import Counts
from framework.model.errors import QueueFull

RATE = 50_000  # jobs per second that all producers together can hardly exceed: how fast a count ages
CROWD = 64  # producers that may count at the same moment, and then each store a job
DEPTH_FRESH = 2_500_000_000  # nanoseconds that a published depth is of use
_ROOM = 1 << 20  # bytes that stay free, for attempt records and directories
_MAX_FIGURE_AGE = 3600.0


class Limits:
    """The length limit of one queue, as this process's producers keep it."""

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
        """The lock may have been held by another thread."""
        # Held while counting: the threads that wait want the same figure. A signal handler may come on top of it.
        self._lock = threading.RLock()

    def admit(self, jobs: int, size: int) -> bool:
        """Lets so many jobs in; True: count again after the rename. Raises QueueFull, OSError.

        Args:
            jobs: how many. size: of all their files in bytes.
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
        """Whether others may have let in too many while we wrote as many as `jobs`: they cannot see a batch before it
        is in its place, so who comes later counts again."""
        limit = self._queue.options.max_length
        with self._lock:
            return limit is not None and not self._sure(limit - jobs)

    def excess(self) -> int:
        """How many jobs too many there are now. Raises OSError."""
        limit = self._queue.options.max_length
        if limit is None:
            return 0
        with self._lock:
            self._recount()
            return max(0, self._count - limit)

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
            # own pushes since then are in the rate already; keeping them would count some twice, the safe way round
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


def read_depth(disk: Disk, queue: QueueDir) -> tuple[int, int] | None:
    """(ready and delayed jobs, stamp time in ns) as maintenance published it last; None: never. Raises OSError."""
    fields = (disk.read_small(queue.depth, 200) or b"").split()
    if len(fields) != 3 or not all(f.isdigit() for f in fields):
        return None
    return int(fields[0]) + int(fields[1]), int(fields[2])
