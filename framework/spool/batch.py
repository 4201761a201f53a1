"""Many jobs at once: files in a directory of their own, which one rename makes a bucket of ready/.

That saves each job a lock and a rename, and an error leaves all of a batch or nothing; of one whose writer is killed
recovery promotes what is whole. Its writer holds the lock of the directory from before the first file until after the
rename.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from framework.job import Job
from framework.spool import flocks, names
from framework.spool.clock import Clock
from framework.spool.disk import DIRECTORY, Disk
from framework.spool.draft import CREATE, Draft, place
from framework.spool.layout import QueueDir
from framework.spool.names import Name

MOST = 1024  # jobs
LEAST = 16  # jobs from which on a directory pays; a backlog of a million that came from threads lies in some 32,000


class Batch:
    """A new directory in tmp, locked. Raises OSError."""

    def __init__(self, disk: Disk, queue: QueueDir, clock: Clock) -> None:
        self._disk = disk
        self._queue = queue
        self._clock = clock
        self._fd = -1
        while self._fd < 0:
            self._name = Name(clock.stamp(), names.tails.next())
            self._path = queue.path("tmp", self._name.stem)
            self._fd = self._create()

    def _create(self) -> int:
        """Its descriptor; -1: a recoverer saw it before it was locked, and took it for a dead writer's."""
        disk = self._disk
        try:
            disk.calls.mkdir(self._path, 0o700, dir_fd=disk.fd)
        except FileNotFoundError:  # somebody has removed the queue's directory
            if not disk.mkdir(f"{self._queue.base}/tmp"):
                raise
            return -1
        fd = -1
        try:
            fd = flocks.keep(disk.calls.open(self._path, DIRECTORY, 0o600, dir_fd=disk.fd))
            if flocks.take(disk.calls, fd):
                here = disk.stat(self._path)
                if here is not None and here.st_ino == disk.calls.fstat(fd).st_ino:
                    return fd
        except FileNotFoundError:
            return -1
        except OSError:
            with contextlib.suppress(OSError):
                disk.rmdir(self._path)
            self._drop(fd)
            raise
        self._drop(fd)
        return -1

    def write(self, jobs: Sequence[Job], files: Sequence[bytes], drafts: list[Draft]) -> None:
        """A file each, under its final name, in order. Raises OSError; `drafts` has those that were begun.

        The directory gets the time of its stamp: as long as it has that, its jobs need not be counted.
        """
        calls = self._disk.calls
        stamps, tails = self._clock.stamps(len(jobs)), names.tails.many(len(jobs))
        for job, data, stamp, tail in zip(jobs, files, stamps, tails, strict=True):
            name = names.first(job, stamp, tail)
            entry = str(name)
            drafts.append(Draft(job, name, f"{self._path}/{entry}"))  # first: what is begun, is taken back
            fd = calls.open(entry, CREATE, 0o600, dir_fd=self._fd)
            try:
                self._disk.write_all(fd, data)
            finally:
                calls.close(fd)
        made_at = int(self._name.stamp)
        calls.utime(self._fd, ns=(made_at, made_at))

    def publish(self, drafts: Sequence[Draft]) -> None:
        """All are runnable after it. An error that came too late to keep them is none. Raises OSError, Gone."""
        first = min((draft.name.expires for draft in drafts if draft.name.expires is not None), default=None)
        said = f"{self._name.stem},{len(drafts)}" + ("" if first is None else f",x{first}")
        target = f"{self._queue.base}/ready/{said}"
        try:
            place(self._disk, self._path, target)
        except OSError:
            if self._disk.stat(target) is None:
                raise
        for draft in drafts:
            draft.path = f"{target}/{draft.name}"

    def close(self) -> None:
        """Lets the lock go. Idempotent."""
        self._drop(self._fd)
        self._fd = -1

    def _drop(self, fd: int) -> None:
        if fd >= 0:
            flocks.drop(self._disk.calls, fd)
