"""The batches of a batch handler in one process.

Each job runs as ever: with an attempt, a slot of the ledger, a row on the board and a span of its own, in a thread or a
task of its own. In the place of a handler it joins a group. The first of a group waits for others, calls the service's
handler for all of them, and each ends by the outcome of its own item.
"""

from __future__ import annotations

import asyncio
import copy
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final, cast

from framework.model.attempt import Attempt, Tracing
from framework.model.handling import Context
from framework.model.job import running
from framework.model.outcome import Disturbed, JobInterrupted
from framework.service.batching import Batching, Item
from framework.worker.executor.around import Around
from framework.worker.interrupts.interrupt import invoke

_LOOK: Final = 0.1  # seconds between looks at a drain while a group waits


@dataclass(eq=False, slots=True)
class Group:
    """Jobs that are handled together.

    Attributes:
        full, ended: events, of threads or of the event loop.
        error: what the handler raised.
    """

    full: Any
    ended: Any
    items: list[Item[Any]] = field(default_factory=list)
    error: BaseException | None = None


class Batches:
    """The groups of one queue.

    Args:
        method: the service's handler.
        batching: as declared.
        tracing: opens a span around each batch.
        around: the hooks of the service, if it has some.
        check: raises if a handler's result is unfinished work.
        awaitable: returns what the call of an async handler returned, or raises.

    Attributes:
        expected: jobs that a group waits for at most.
    """

    def __init__(
        self,
        method: Callable[..., Any],
        batching: Batching,
        *,
        tracing: Tracing,
        around: Around | None,
        check: Callable[[object], None],
        awaitable: Callable[[Any], Awaitable[Any]],
    ) -> None:
        self._method = method
        self._wait = batching.wait
        self.expected = batching.size
        self._tracing = tracing
        self._around = around
        self._check = check
        self._awaitable = awaitable
        self._lock = threading.Lock()
        self._open: Group | None = None

    def join(self, payload: Any, context: Context) -> None:
        """Handle a job in a group of threads. Raises what its item was marked with, or what the handler raised."""
        group, item = self._joined(threading.Event, payload, context)
        if group.items[0] is item:
            end = time.monotonic() + self._wait
            while not context.should_stop and (left := end - time.monotonic()) > 0:
                if group.full.wait(min(left, _LOOK)):
                    break
            self._close(group)
            try:
                self._handle(group)
            except BaseException as error:
                group.error = error
            group.ended.set()
        else:
            group.ended.wait()
        _end(group, item)

    async def ajoin(self, payload: Any, context: Context) -> None:
        """Handle a job in a group of tasks. Raises as `join`."""
        group, item = self._joined(asyncio.Event, payload, context)
        if group.items[0] is not item:
            await group.ended.wait()
        else:
            end = time.monotonic() + self._wait
            try:
                while not (group.full.is_set() or context.should_stop) and (left := end - time.monotonic()) > 0:
                    with suppress(TimeoutError):
                        await asyncio.wait_for(group.full.wait(), min(left, _LOOK))
                self._close(group)
                await self._ahandle(group)
            except BaseException as error:
                group.error = error
            finally:
                self._close(group)
                group.ended.set()
        _end(group, item)

    def _joined(self, event: Callable[[], Any], payload: Any, context: Context) -> tuple[Group, Item[Any]]:
        item = Item(payload, context)
        with self._lock:
            group = self._open = self._open or Group(event(), event())
            group.items.append(item)
            if len(group.items) >= self.expected:
                self._open = None
                group.full.set()
        return group, item

    def _close(self, group: Group) -> None:
        """Let no more jobs join a group."""
        with self._lock:
            if self._open is group:
                self._open = None

    def _handle(self, group: Group) -> None:
        items, method = tuple(group.items), self._method
        if self._around is not None:
            method = self._around.plain(method, self._check, *_of_batch(items))
        with self._block(items):
            if (result := invoke(method, items)) is not None:
                self._check(result)

    async def _ahandle(self, group: Group) -> None:
        items, method = tuple(group.items), self._method
        if self._around is not None:
            method = self._around.awaited(method, self._awaitable, *_of_batch(items))
        with self._block(items):
            if (result := await self._awaitable(method(items))) is not None:
                self._check(result)

    @contextmanager
    def _block(self, items: Sequence[Item[Any]]) -> Iterator[None]:
        """Open the span of a batch. Log lines inside are those of no single job."""
        job = running.set(None)
        try:
            with self._tracing.batch(_attempts(items)):
                yield
        finally:
            running.reset(job)


def _of_batch(items: Sequence[Item[Any]]) -> tuple[Any, tuple[Any, ...]]:
    """Return the lease of the first job, and all payloads: what `around` gets of a batch."""
    return _attempts(items)[0].lease, tuple(item.payload for item in items)


def _attempts(items: Sequence[Item[Any]]) -> list[Attempt]:
    found = [item.ctx._attempt for item in items]
    return [attempt for attempt in found if attempt is not None]


def _end(group: Group, item: Item[Any]) -> None:
    """Raise what a job of a group ends with, if it does not end as a success."""
    first, error = group.items[0], item.error
    if error is None and group.error is not None:
        error = group.error if item is first else _others(group.error, first.ctx)
    if error is not None:
        raise error


def _others(error: BaseException, first: Context) -> BaseException:
    """Return what the other jobs of a group raise for what its handler raised in the run of the first one."""
    kind: Any = type(error)  # isinstance() would ask the exception's own __class__
    if issubclass(kind, JobInterrupted):
        known = cast("JobInterrupted", error)
        alone = known.why in ("lease_lost", "cancelled")  # this concerns the first job only
        return Disturbed() if alone else JobInterrupted(known.why, known.where)
    if issubclass(kind, asyncio.CancelledError):  # why is known to the run of the first one alone
        if first.remaining is not None and first.remaining <= 0:
            return JobInterrupted("timeout")
        return JobInterrupted("draining") if first.should_stop else Disturbed()
    try:
        made = copy.copy(error)  # each run frees its own
        return made.with_traceback(error.__traceback__) if type(made) is kind else error
    except BaseException:  # an exception that cannot be copied
        return error
