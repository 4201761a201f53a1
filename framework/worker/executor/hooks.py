"""The call of the service's `on_failure`: plain or `async def`, with its errors contained and its time limited."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from concurrent.futures import Future
from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from framework.model.events import Event, HookFailed
from framework.model.handling import Context
from framework.model.job import Failure
from framework.model.text.exceptions import describe
from framework.process.forks import parent_goes_on
from framework.service.app import WorkerApp

PATIENCE = 5.0  # seconds that an `async def on_failure` may take at most
_LAG = 0.5  # further seconds, after which its thread is abandoned
_MOST_PARTS = 100  # elements of a result that are inspected


@dataclass(eq=False)
class FailureHook:
    """The hook that tells the service of failed attempts. Its error becomes an event and changes nothing for the job.

    Args:
        app: the app whose `on_failure` is called.
        emit: takes the event.
        patience: seconds that the awaitable of an async hook may take.
        swallows: errors of the hook that are caught here.
    """

    app: WorkerApp
    emit: Callable[[Event], None]
    patience: float
    swallows: tuple[type[BaseException], ...] = (BaseException,)

    def tell(self, failure: Failure, context: Context) -> None:
        """Call the hook from sync code; what an async hook returns runs in a thread with its own event loop."""
        try:
            if (made := self._call(failure, context)) is not None:
                _run_in_thread(made, self.patience)
        except self.swallows as error:
            self._failed(context, error)

    async def atell(self, failure: Failure, context: Context) -> None:
        """Call the hook on the running event loop."""
        try:
            if (made := self._call(failure, context)) is not None:
                await _run_beside(made, self.patience)
        except self.swallows as error:
            self._failed(context, error)

    def _call(self, failure: Failure, context: Context) -> Any:
        with parent_goes_on():
            # A copy, because a hook can change even a frozen record.
            made: Any = self.app.on_failure(replace(failure), context)
        return made if unfinished(made) else None

    def _failed(self, context: Context, error: BaseException) -> None:
        message, trace = describe(error)
        self.emit(HookFailed("on_failure", context.queue, context.job_id, message, trace))


def unfinished(result: object) -> str:
    """Return what kind of unfinished work a call returned, for example `a coroutine`; empty if it returned a result."""
    kind = type(result)  # isinstance() would ask the result's own __class__
    if issubclass(kind, AsyncGenerator):
        return "an async generator"
    if issubclass(kind, Awaitable):
        return "a coroutine" if hasattr(kind, "cr_code") else f"an awaitable {kind.__qualname__}"
    return "a generator" if issubclass(kind, Generator) else ""


def undone(result: object) -> str:
    """Return why the work of a handler that returned this value is not done yet; empty if it is done."""
    what = unfinished(result) or _lazy(result)
    if not what:
        return ""
    if issubclass(type(result), Future):
        return f"{what}, which nothing waits for, so its work may be lost: call its result() before the handler returns"
    if what.endswith("generator") or issubclass(type(result), (map, filter)):
        return f"{what}, which nothing iterates over, so its work was not done: iterate over it in the handler"
    return (
        f"{what}, which nothing awaits, so its work was not done: make the handler, and every decorator around it, an "
        "async def that awaits it"
    )


def _lazy(result: Any) -> str:
    """Return other kinds of unfinished work: those of the standard library, and collections of coroutines."""
    kind = type(result)
    if issubclass(kind, (Future, map, filter)):
        return f"a {kind.__qualname__}"
    inner = next(filter(None, map(unfinished, _parts(result))), "")
    return f"a {kind.__qualname__} with {inner}" if inner else ""


def _parts(result: Any) -> list[object]:
    return list(islice(result, _MOST_PARTS)) if type(result) in (list, tuple, set) else []


def dismiss(result: Any) -> None:
    """Close what `undone` has found: it will never run."""
    for part in filter(unfinished, _parts(result)):
        dismiss(part)
    for name in ("close", "cancel"):
        if hasattr(type(result), name):
            with suppress(BaseException):
                getattr(result, name)()
            return


def _run_in_thread(made: Any, patience: float) -> None:
    ends: list[BaseException | None] = []

    def live() -> None:
        try:
            asyncio.run(_run_beside(made, patience))
            ends.append(None)
        except BaseException as error:
            ends.append(error)

    thread = threading.Thread(target=copy_context().run, args=(live,), name="on_failure", daemon=True)
    thread.start()
    thread.join(patience + _LAG)
    error = ends[0] if ends else _late(patience)
    if error is not None:
        raise error


async def _run_beside(made: Any, patience: float) -> None:
    """Await the hook in its own task, so that a hook that swallows its cancellation can be abandoned.

    The task returns an error as a value, because a SystemExit that leaves a task stops the loop.
    """
    task = asyncio.ensure_future(_error_of(made))
    done, _ = await asyncio.wait({task}, timeout=patience)
    if not done:
        task.cancel()
    error = task.result() if done else _late(patience)
    if error is not None:
        raise error


async def _error_of(made: Awaitable[Any]) -> BaseException | None:
    try:
        await made
    except BaseException as error:
        return error
    return None


def _late(patience: float) -> TimeoutError:
    return TimeoutError(f"on_failure has not ended within {patience:g} s")
