"""The rollback of enqueues that fail, and the errors that tell the caller so.

*Not queued* is raised only once the removal is durable. Otherwise a power cut could bring back a job that its caller
has given up.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NoReturn

from framework.engine.spool.disk.disk import FULL, Disk
from framework.engine.spool.disk.layout import QueueDir
from framework.engine.spool.enqueue.draft import Draft, close
from framework.engine.spool.enqueue.limits import Limits
from framework.engine.spool.segments.file import Busy
from framework.model.errors import EnqueueFailed, EnqueueUncertain, QueueFull
from framework.model.job import Job, JobId


class Undo:
    """The rollback for the producers of one queue in one process."""

    def __init__(self, disk: Disk, queue: QueueDir, limits: Limits) -> None:
        self._disk = disk
        self._queue = queue
        self._limits = limits

    @contextmanager
    def before_publishing(self, drafts: Sequence[Draft], job: Job, done: Sequence[str]) -> Iterator[None]:
        """Wrap the steps before the rename: where one fails, roll back and raise *not queued*.

        Raises the EnqueueErrors.
        """
        try:
            yield
        except QueueFull as error:
            raise QueueFull(str(error), enqueued=done) from None
        except (OSError, ValueError) as error:
            self.not_queued(drafts, job, error, done)

    def uncertain(self, job: Job, error: Exception, done: Sequence[str], *, behind: int = 0) -> NoReturn:
        """Raise *uncertain*: the publication failed at an unknown point.

        Args:
            behind: number of further jobs that were stored with this one.
        """
        which = f"job {job.id!r}" + (f" and the {behind} behind it" if behind else "")
        raise EnqueueUncertain(
            f"{which} may or may not be queued on {self._queue.name!r}: {error}", job_id=job.id, enqueued=done
        ) from error

    def give_up(self, drafts: Sequence[Draft]) -> None:
        """Remove, if possible, the temp files behind an uncertain job: its error says that those are not queued."""
        with contextlib.suppress(OSError):
            self._remove(drafts)

    def take_back_excess(self, drafts: Sequence[Draft], done: list[JobId]) -> None:
        """Take back the last jobs where the queue is over its limit after all; a job that is gone was claimed.

        Raises QueueFull, EnqueueUncertain.
        """
        excess = self._excess()
        taken: list[Draft] = []
        try:
            for draft in reversed(drafts[-excess:] if excess else ()):
                if self._disk.unlink(draft.path):
                    taken.append(draft)
                    self._unlink_id(draft)
            for directory in {os.path.dirname(draft.path) for draft in taken}:
                self._disk.sync_removal(directory)
        except OSError as error:
            _forget([*(one.job.id for one in taken), draft.job.id], done)
            raise EnqueueUncertain(
                f"job {draft.job.id!r} is one too many for {self._queue.name!r} and cannot be taken back: {error}",
                job_id=draft.job.id,
                enqueued=done,
            ) from error
        self._are_too_many([draft.job.id for draft in taken], done)

    def take_back_records(
        self, jobs: Mapping[int, Job], take_back: Callable[[int], list[int]], done: list[JobId]
    ) -> None:
        """Take back the last jobs of a segment, as `take_back_excess`; jobs that are gone were claimed.

        Args:
            jobs: the jobs by their indexes in the segment.
            take_back: takes back up to so many jobs, and returns their indexes.
        """
        if not (excess := self._excess()):
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

    def _excess(self) -> int:
        try:
            return self._limits.excess()
        except OSError:
            return 0  # the jobs are queued: a failed count is no reason for an error

    def _are_too_many(self, taken: Sequence[str], done: list[JobId]) -> None:
        """Raise QueueFull where jobs were taken back."""
        if taken:
            _forget(taken, done)
            limit = self._queue.options.max_length
            raise QueueFull(f"queue {self._queue.name!r} is full, max_length is {limit}", enqueued=done)

    def not_queued(self, drafts: Sequence[Draft], job: Job, error: Exception, done: Sequence[str]) -> NoReturn:
        """Remove the temp files durably, before any rename, then raise *not queued*; *uncertain* where that fails."""
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        try:
            self._remove(drafts)
        except OSError as again:
            raise EnqueueUncertain(
                f"job {job.id!r} may come back: {reason}, then its removal failed: {again.strerror}",
                job_id=job.id,
                enqueued=done,
            ) from error
        finally:
            close(self._disk, drafts)
        message = f"job {job.id!r} was not queued on {self._queue.name!r}: {reason}"
        if isinstance(error, OSError) and error.errno in FULL:
            raise QueueFull(message, enqueued=done) from error
        raise EnqueueFailed(message, enqueued=done) from error

    def _remove(self, drafts: Sequence[Draft]) -> None:
        """Remove temp files durably. Raises OSError.

        The truncation shows recovery an incomplete file where the unlink fails.
        """
        if not drafts:
            return
        for draft in drafts:
            if draft.fd >= 0:
                with contextlib.suppress(OSError):
                    self._disk.calls.ftruncate(draft.fd, 0)
        for draft in drafts:
            self._disk.unlink(draft.path)
            self._unlink_id(draft)
        self._disk.sync_removal(f"{self._queue.base}/tmp")

    def _unlink_id(self, draft: Draft) -> None:
        if draft.entry is not None:
            self._disk.unlink(draft.entry)


def _forget(ids: Sequence[str], done: list[JobId]) -> None:
    gone = set(ids)
    done[:] = [job_id for job_id in done if job_id not in gone]
