"""The job that runs in the current context: log lines of a handler and of the libraries it calls carry its ids."""

from __future__ import annotations

from contextvars import ContextVar

from framework.model.job import Lease

running: ContextVar[Lease | None] = ContextVar("framework_job", default=None)


def current_job() -> dict[str, object] | None:
    """Return queue, job_id and attempt of the running job; None if no job runs in this context."""
    lease = running.get()
    return None if lease is None else keys_of(lease)


def keys_of(lease: Lease) -> dict[str, object]:
    """Return the keys that every log line about an attempt has."""
    return {"queue": lease.queue, "job_id": lease.job.id, "attempt": lease.attempt}
