"""Every error that the framework raises on purpose. The message is the lesson: what, where, the way out."""

from __future__ import annotations

import traceback
from collections.abc import Sequence

from framework.model.job import JobId, Lease


class WorkerError(Exception):
    """Base of the framework's own errors; `exit_code` is what the `worker` command ends with."""

    exit_code = 1


class DeclarationError(WorkerError):
    """A queue or handler is declared wrongly; raised at import, names file and line."""

    exit_code = 2


class UsageError(WorkerError):
    """The command line or a module name is wrong."""

    exit_code = 2


class SettingsError(WorkerError):
    """A setting is wrong; names the variable."""

    exit_code = 2


class EngineError(WorkerError):
    """The engine said no in a way that waiting will not mend (unsafe root, wrong owner, network file system)."""

    exit_code = 3


class EngineUnavailable(EngineError):
    """The engine cannot do it now (disk full, I/O error, too many files, connection lost): try again later.

    Attributes:
        unsettled: leases of a settling call that are not settled: those that failed, and those that are lost. The
            others of the call are settled. Empty: it is not known which, perhaps none is settled.
    """

    def __init__(self, message: str = "", *, unsettled: Sequence[Lease] = ()) -> None:
        super().__init__(message)
        self.unsettled = tuple(unsettled)


class LeaseLost(WorkerError):
    """Other owners have these jobs now, or they are settled; raised after all other leases of the call were settled."""

    def __init__(self, leases: Sequence[Lease]) -> None:
        self.leases = tuple(leases)
        self.job_ids = tuple(lease.job.id for lease in leases)
        super().__init__(f"the claim was lost: {', '.join(self.job_ids)}")


def answer(error: Exception) -> EngineUnavailable | LeaseLost:
    """Return what the error of an engine's verb means to its caller.

    What an engine raises beyond its contract, a bug or a driver's surprise, is an outage like any other: no reason to
    end a process and what runs there. Raises the WorkerErrors that waiting does not mend.
    """
    if isinstance(error, (EngineUnavailable, LeaseLost)):
        return error
    if isinstance(error, WorkerError):
        raise error
    place = traceback.extract_tb(error.__traceback__, limit=-1)
    where = f" ({place[0].filename}:{place[0].lineno})" if place else ""
    found = EngineUnavailable(f"{type(error).__name__}: {error}{where}")
    found.__cause__ = error
    return found


class EnqueueError(WorkerError):
    """Not queued, unless it is `EnqueueUncertain`.

    Attributes:
        enqueued: ids that *were* queued before the error; only `enqueue_many` can leave some.
    """

    def __init__(self, message: str, *, enqueued: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.enqueued: Sequence[str] = tuple(enqueued)


class QueueFull(EnqueueError):
    """The queue holds `max_length` jobs, or the disk has no room for another; nothing was queued."""


class PayloadTooLarge(EnqueueError):
    """The encoded payload exceeds `max_payload_bytes`; nothing was queued."""


class InvalidPayload(EnqueueError):
    """The payload does not fit the queue's payload type, or would reach the handler changed; nothing was queued."""


class InvalidArgument(EnqueueError, ValueError):
    """Another argument of an enqueue is wrong (delay, run_at, job_id, on_conflict); nothing was queued."""


class Duplicate(EnqueueError):
    """A job of this id exists already; nothing was queued. Only `on_conflict="raise"` asks for it.

    Attributes:
        job_id: the id of the job that exists.
    """

    def __init__(self, message: str, *, job_id: JobId) -> None:
        super().__init__(message)
        self.job_id = job_id


class EnqueueFailed(EnqueueError):
    """The engine could not store the job; nothing was queued."""


class EnqueueUncertain(EnqueueError):
    """The job may or may not be queued. From `enqueue_many`: `job_id` and those behind it.

    Enqueue again with this `job_id`: harmless if the caller chose it, else the job may run twice.
    """

    def __init__(self, message: str, *, job_id: str, enqueued: Sequence[str] = ()) -> None:
        super().__init__(message, enqueued=enqueued)
        self.job_id = JobId(job_id)
