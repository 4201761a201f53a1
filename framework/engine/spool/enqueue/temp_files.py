"""Temp files: files in tmp that become job files or segments. The `flock` on one shows that its writer lives.

This module also rolls back enqueues that fail, and raises the errors that tell the caller so. *Not queued* is raised
only once the removal is durable. Otherwise a power cut could bring back a job that its caller has given up.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NoReturn

from framework.engine import flocks
from framework.engine.spool.disk.disk import FULL, Disk
from framework.engine.spool.disk.layout import QueueDir
from framework.engine.spool.format.names import Name, SegmentName
from framework.engine.spool.segments.file import Busy
from framework.model.errors import EnqueueFailed, EnqueueUncertain, QueueFull
from framework.model.job import Job, JobId

CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Gone(Exception):
    """An error: a temp file vanished before its rename, removed by something outside the protocol."""


@dataclass(slots=True)
class TempFile:
    """A temp file that this process writes and then publishes.

    Attributes:
        job: the job in it, or the first one. name: its name in tmp.
        path: where it is now, relative to the root.
        fd: descriptor, open and locked; -1: closed.
        entry: the link of its chosen id or unique key; None: not linked.
    """

    job: Job
    name: Name | SegmentName
    path: str
    fd: int = -1
    entry: str | None = None


def create(disk: Disk, queue: QueueDir, job: Job, name_for: Callable[[Job], Name | SegmentName]) -> TempFile:
    """Make an empty locked file in tmp. Raises OSError.

    Args:
        name_for: makes a name that was never used before.
    """
    while True:
        name = name_for(job)
        path = queue.path("tmp", name)
        try:
            fd = flocks.keep(disk.calls.open(path, CREATE, 0o600, dir_fd=disk.fd))
        except FileNotFoundError:  # the queue's directory was removed while this producer was running
            if not disk.mkdir(f"{queue.base}/tmp"):
                raise
            continue
        try:
            # A recovery that sees the file between open and flock takes its writer for dead, and unlinks the file.
            if flocks.take(disk.calls, fd) and disk.calls.fstat(fd).st_nlink > 0:
                return TempFile(job, name, path, fd)
        except OSError:
            with contextlib.suppress(OSError):
                disk.unlink(path)
            flocks.drop(disk.calls, fd)
            raise
        flocks.drop(disk.calls, fd)


def rename_into_place(disk: Disk, source: str, target: str) -> None:
    """Rename a temp file, mostly in one call, as a new target has no twin. Raises OSError, Gone."""
    try:
        disk.rename(source, target)
    except FileNotFoundError:  # a new bucket, mostly
        if not disk.move(source, target):
            raise Gone(f"{source} vanished before its rename") from None


def close(disk: Disk, files: Sequence[TempFile]) -> None:
    """Close temp files, which frees their locks. Idempotent."""
    for file in files:
        if file.fd >= 0:
            flocks.drop(disk.calls, file.fd)
            file.fd = -1


class Rollback:
    """The rollback for the producers of one queue in one process."""

    def __init__(self, disk: Disk, queue: QueueDir) -> None:
        self._disk = disk
        self._queue = queue

    @contextmanager
    def before_publishing(self, files: Sequence[TempFile], job: Job, done: Sequence[str]) -> Iterator[None]:
        """Wrap the steps before the rename: where one fails, roll back and raise *not queued*.

        Raises the EnqueueErrors.
        """
        try:
            yield
        except QueueFull as error:
            raise QueueFull(str(error), enqueued=done) from None
        except (OSError, ValueError) as error:
            self.not_queued(files, job, error, done)

    def not_queued(self, files: Sequence[TempFile], job: Job, error: Exception, done: Sequence[str]) -> NoReturn:
        """Remove the temp files durably, before any rename, then raise *not queued*; *uncertain* where that fails."""
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        try:
            self.remove(files)
        except OSError as again:
            raise EnqueueUncertain(
                f"job {job.id!r} may come back: {reason}, then its removal failed: {again.strerror}",
                job_id=job.id,
                enqueued=done,
            ) from error
        finally:
            close(self._disk, files)
        message = f"job {job.id!r} was not queued on {self._queue.name!r}: {reason}"
        if isinstance(error, OSError) and error.errno in FULL:
            raise QueueFull(message, enqueued=done) from error
        raise EnqueueFailed(message, enqueued=done) from error

    def uncertain(
        self, job: Job, error: Exception, done: Sequence[str], *, behind: int = 0, unused: Sequence[TempFile] = ()
    ) -> NoReturn:
        """Raise *uncertain*: the publication failed at an unknown point.

        Args:
            behind: number of further jobs that were stored with this one.
            unused: temp files behind it, removed if possible: the error says that their jobs are not queued.
        """
        with contextlib.suppress(OSError):
            self.remove(unused)
        which = f"job {job.id!r}" + (f" and the {behind} behind it" if behind else "")
        raise EnqueueUncertain(
            f"{which} may or may not be queued on {self._queue.name!r}: {error}", job_id=job.id, enqueued=done
        ) from error

    def take_back(self, files: Sequence[TempFile], excess: int, done: list[JobId]) -> None:
        """Take back the last jobs, where they are more than the queue takes; a job that is gone was claimed.

        Raises QueueFull, EnqueueUncertain.
        """
        taken: list[TempFile] = []
        try:
            for file in reversed(files[-excess:] if excess else ()):
                if self._disk.unlink(file.path):
                    taken.append(file)
                    self._unlink_id(file)
            for directory in {os.path.dirname(file.path) for file in taken}:
                self._disk.sync_removal(directory)
        except OSError as error:
            _forget([*(one.job.id for one in taken), file.job.id], done)
            raise EnqueueUncertain(
                f"job {file.job.id!r} is one too many for {self._queue.name!r} and cannot be taken back: {error}",
                job_id=file.job.id,
                enqueued=done,
            ) from error
        self._are_too_many([file.job.id for file in taken], done)

    def take_back_records(
        self, jobs: Mapping[int, Job], take_back: Callable[[int], list[int]], excess: int, done: list[JobId]
    ) -> None:
        """Take back the last jobs of a segment, as `take_back`; jobs that are gone were claimed.

        Args:
            jobs: the jobs by their indexes in the segment.
            take_back: takes back up to so many jobs, and returns their indexes.
        """
        if not excess:
            return
        try:
            taken = [jobs[index].id for index in take_back(excess)]
        except FileNotFoundError:
            return
        except (OSError, Busy, ValueError) as error:
            gone = [job.id for job in jobs.values()]
            _forget(gone, done)
            raise EnqueueUncertain(
                f"job {gone[0]!r} and the {len(jobs) - 1} behind it are too many for {self._queue.name!r} "
                f"and cannot be taken back: {error}",
                job_id=gone[0],
                enqueued=done,
            ) from error
        self._are_too_many(taken, done)

    def _are_too_many(self, taken: Sequence[str], done: list[JobId]) -> None:
        """Raise QueueFull where jobs were taken back."""
        if taken:
            _forget(taken, done)
            limit = self._queue.options.max_length
            raise QueueFull(f"queue {self._queue.name!r} is full, max_length is {limit}", enqueued=done)

    def remove(self, files: Sequence[TempFile]) -> None:
        """Remove temp files durably. Raises OSError.

        The truncation shows recovery an incomplete file where the unlink fails.
        """
        if not files:
            return
        for file in files:
            if file.fd >= 0:
                with contextlib.suppress(OSError):
                    self._disk.calls.ftruncate(file.fd, 0)
        for file in files:
            self._disk.unlink(file.path)
            self._unlink_id(file)
        self._disk.sync_removal(f"{self._queue.base}/tmp")

    def _unlink_id(self, file: TempFile) -> None:
        if file.entry is not None:
            self._disk.unlink(file.entry)


def _forget(ids: Sequence[str], done: list[JobId]) -> None:
    gone = set(ids)
    done[:] = [job_id for job_id in done if job_id not in gone]
