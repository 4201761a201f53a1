"""The hooks `around` and `aaround` of a service: what is open while a handler runs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Any

from framework.model.handling import Running
from framework.model.job import Lease
from framework.service.app import WorkerApp
from framework.worker.interrupts.interrupt import invoke

Call = Callable[..., Any]


class Around:
    """The hooks of one app. They are entered and left within the run, and so within its deadlines.

    A sync handler is called by an `invoke` of its own: an interruption is raised only in frames above it, never in what
    the hook does before and after the handler.

    Args:
        app: the app whose hooks are called.
    """

    def __init__(self, app: WorkerApp) -> None:
        self._app = app

    @classmethod
    def of(cls, app: WorkerApp) -> Around | None:
        """Return the hooks of an app; None: it has only those of `WorkerApp`, which do nothing."""
        own = (getattr(hook, "__func__", None) for hook in (app.around, app.aaround))
        return None if tuple(own) == (WorkerApp.around, WorkerApp.aaround) else cls(app)

    def plain(self, method: Call, check: Callable[[object], None], lease: Lease, payload: Any) -> Call:
        """Return a sync handler with the hook around it. `check` raises if its result is unfinished work."""

        def within(*arguments: Any) -> None:
            with self._around(_running(lease, payload)):
                if (result := invoke(method, *arguments)) is not None:
                    check(result)

        return within

    def awaited(self, method: Call, awaitable: Callable[[Any], Awaitable[Any]], lease: Lease, payload: Any) -> Call:
        """Return an async handler with both hooks around it. `awaitable` checks what its call returns."""

        async def within(*arguments: Any) -> Any:
            job = _running(lease, payload)
            with self._around(job):
                async with self._aaround(job):
                    return await awaitable(method(*arguments))

        return within

    def _around(self, job: Running) -> AbstractContextManager[object]:
        made = self._app.around(job)
        if not hasattr(type(made), "__exit__"):
            raise TypeError(f"{self._name('around', made)} context manager: write @contextmanager above it")
        return made

    def _aaround(self, job: Running) -> AbstractAsyncContextManager[object]:
        made = self._app.aaround(job)
        if not hasattr(type(made), "__aexit__"):
            raise TypeError(f"{self._name('aaround', made)} async context manager: write @asynccontextmanager above it")
        return made

    def _name(self, hook: str, made: object) -> str:
        return f"{type(self._app).__name__}.{hook} returned an object of type {type(made).__qualname__}, which is no"


def _running(lease: Lease, payload: Any) -> Running:
    return Running(lease.queue, lease.job.id, lease.attempt, lease.job.own_headers, payload)
