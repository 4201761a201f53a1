"""Every error that the framework raises on purpose. Each message says what is wrong, where, and how to correct it."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence

from framework.model.job import JobId, Lease


class WorkerError(Exception):
    """The base class of the framework's errors; `exit_code` is the exit code of the `worker` command."""

    exit_code = 1


class DeclarationError(WorkerError):
    """A queue or handler is declared wrongly. Raised at import; the message names file and line."""

    exit_code = 2


class UsageError(WorkerError):
    """The command line or a module name is wrong."""

    exit_code = 2


class SettingsError(WorkerError):
    """A setting is wrong; the message names the variable."""

    exit_code = 2


class EngineError(WorkerError):
    """The engine refuses, and waiting does not help (unsafe root, wrong owner, network file system)."""

    exit_code = 3


class EngineUnavailable(EngineError):
    """The engine cannot do it now (disk full, I/O error, too many files, connection lost): try again later.

    Attributes:
        unsettled: the leases of a `settle` call that are not settled, because they failed or were lost; the others
            are settled. Empty: it is unknown which are settled, perhaps none.
    """

    def __init__(self, message: str = "", *, unsettled: Sequence[Lease] = ()) -> None:
        super().__init__(message)
        self.unsettled = tuple(unsettled)


class LeaseLost(WorkerError):
    """These jobs have other owners now, or are settled. Raised after all other leases of the call were settled."""

    def __init__(self, leases: Sequence[Lease]) -> None:
        self.leases = tuple(leases)
        self.job_ids = tuple(lease.job.id for lease in leases)
        super().__init__(f"the claim was lost: {', '.join(self.job_ids)}")


def answer(error: Exception) -> EngineUnavailable | LeaseLost:
    """Return the error that the caller of an engine handles, made from an error that one of its verbs raised.

    An error that is not in the contract (a bug, an unexpected error of a driver) counts as an outage: it must not end
    the process and its jobs. Raises WorkerErrors that waiting does not help as they are.
    """
    if isinstance(error, (EngineUnavailable, LeaseLost)):
        return error
    if isinstance(error, WorkerError):
        raise error
    frames = traceback.extract_tb(error.__traceback__, limit=-1)
    where = f" ({frames[0].filename}:{frames[0].lineno})" if frames else ""
    found = EngineUnavailable(f"{type(error).__name__}: {error}{where}")
    found.__cause__ = error
    return found


class EnqueueError(WorkerError):
    """The base class of errors of an enqueue: the job is not queued, except after `EnqueueUncertain`.

    Attributes:
        enqueued: ids of jobs that *were* queued before the error; only `enqueue_many` can leave some.
    """

    def __init__(self, message: str, *, enqueued: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.enqueued: Sequence[str] = tuple(enqueued)


class QueueFull(EnqueueError):
    """The queue holds `max_length` jobs, or the disk has no room for another job; nothing was queued.

    Attributes:
        depth: ready and delayed jobs, up to a second ago; None: unknown.
        oldest_age: seconds for which the oldest ready job has waited; None: unknown.
        retry_after: seconds after which another try is sensible, as for HTTP's `Retry-After`.
    """

    depth: int | None = None
    oldest_age: float | None = None
    retry_after: float = 1.0


class PayloadTooLarge(EnqueueError):
    """The encoded payload exceeds `max_payload_bytes`; nothing was queued."""


class InvalidPayload(EnqueueError):
    """The payload does not fit the queue's payload type, or would reach the handler changed; nothing was queued."""


class InvalidArgument(EnqueueError, ValueError):
    """An argument other than the payload is wrong (delay, run_at, job_id, on_conflict); nothing was queued."""

    exit_code = 2


class Duplicate(EnqueueError):
    """A job of this id, or with this unique key, exists already; it was not queued again.

    Raised only with `on_conflict="raise"`. `enqueue_many` has queued the others of its part: `enqueued` lists the ids
    of all, and those that existed before have `duplicate` set.

    Attributes:
        job_id: the id of the job that exists.
    """

    def __init__(self, message: str, *, job_id: JobId) -> None:
        super().__init__(message)
        self.job_id = job_id


class EnqueueFailed(EnqueueError):
    """The engine could not store the job; nothing was queued."""


class EnqueueUncertain(EnqueueError):
    """The job may or may not be queued. After `enqueue_many` this applies to `job_id` and all jobs behind it.

    Enqueueing again with this `job_id` is harmless if the caller chose it; otherwise the job may run twice.
    """

    def __init__(self, message: str, *, job_id: str, enqueued: Sequence[str] = ()) -> None:
        super().__init__(message, enqueued=enqueued)
        self.job_id = JobId(job_id)


def caller_location() -> str:
    """Return `file.py:line` of the nearest frame outside framework, typing and contextlib."""
    frame = sys._getframe(1)
    while frame.f_back and str(frame.f_globals.get("__name__")).split(".")[0] in ("framework", "typing", "contextlib"):
        frame = frame.f_back
    return location(frame.f_code.co_filename, frame.f_lineno)


def location(filename: str, line: int) -> str:
    """Return `file.py:line`, with a relative path if the file is below the working directory."""
    return f"{filename.removeprefix(os.getcwd() + os.sep)}:{line}"
