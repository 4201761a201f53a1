"""The job that runs in the current context: log lines of a handler and of the libraries it calls carry its ids."""

from __future__ import annotations

from contextvars import ContextVar, Token
from typing import Any

import structlog.contextvars as bound

from framework.job import Lease

_current: ContextVar[dict[str, object] | None] = ContextVar("framework_job", default=None)


def current_job() -> dict[str, object] | None:
    """queue, job_id and attempt of the running job, or None."""
    return _current.get()


def keys_of(lease: Lease) -> dict[str, object]:
    """What every line about an attempt says."""
    return {"queue": lease.queue, "job_id": lease.job.id, "attempt": lease.attempt}


class JobScope:
    """Names the job while it lasts. What its handler binds to structlog's context variables ends with it: a sync worker
    runs all jobs in one context, and a leaked binding would mark all later ones."""

    __slots__ = ("_before", "_lease", "_token")

    def __init__(self, lease: Lease) -> None:
        self._lease = lease
        self._token: Token[dict[str, object] | None] | None = None
        self._before: dict[str, Any] = {}

    def __enter__(self) -> JobScope:
        self._before = bound.get_contextvars()
        self._token = _current.set(keys_of(self._lease))
        return self

    def __exit__(self, *_: object) -> None:
        now = bound.get_contextvars()
        if now.keys() != self._before.keys() or any(now[key] is not self._before[key] for key in now):
            bound.clear_contextvars()
            bound.bind_contextvars(**self._before)
        if self._token is not None:
            _current.reset(self._token)
            self._token = None
