"""The job that runs in the current context: log lines of a handler and of the libraries it calls carry its ids."""

from __future__ import annotations

from contextvars import ContextVar, Token

from framework.job import Lease

running: ContextVar[Lease | None] = ContextVar("framework_job", default=None)


def current_job() -> dict[str, object] | None:
    """queue, job_id and attempt of the running job, or None."""
    lease = running.get()
    return None if lease is None else keys_of(lease)


def keys_of(lease: Lease) -> dict[str, object]:
    """What every line about an attempt says."""
    return {"queue": lease.queue, "job_id": lease.job.id, "attempt": lease.attempt}


class JobScope:
    """Names the job while it lasts. What its handler binds to structlog's context variables ends with it all the same:
    every run has a context of its own."""

    __slots__ = ("_lease", "_token")

    def __init__(self, lease: Lease) -> None:
        self._lease = lease

    def __enter__(self) -> JobScope:
        self._token: Token[Lease | None] = running.set(self._lease)
        return self

    def __exit__(self, *_: object) -> None:
        running.reset(self._token)
