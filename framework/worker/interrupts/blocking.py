"""Detection of the job that blocks the event loop: a mark on its board row while it runs, and a watching thread."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Awaitable, Generator
from contextlib import suppress
from typing import Any, ClassVar

from framework.model.events import LoopBlocked
from framework.process.scoreboard import RowWriter
from framework.process.standstill import Standstill
from framework.worker.base import handler_line, stack_of
from framework.worker.core import WorkerCore
from framework.worker.tasks import JobTask

BLOCKED_AFTER = 1.0  # seconds
MARK_AFTER = 1.5  # seconds after which the job is marked on the board: before the supervisor takes the loop for blocked


def last_row() -> int | None:
    """Return the row whose code ran last; None: none has run yet."""
    return Tracked.last.row if Tracked.last is not None else None


class Tracked:
    """An awaitable that marks the job's row whenever its code is on the CPU."""

    last: ClassVar[RowWriter | None] = None

    __slots__ = ("_row", "awaitable")

    def __init__(self, awaitable: Awaitable[Any], row: RowWriter) -> None:
        self.awaitable = awaitable
        self._row = row

    def __await__(self) -> Generator[Any, Any, Any]:
        inner = self.awaitable.__await__()
        mark = self._row.on_cpu
        send: Any = None
        error: BaseException | None = None
        while True:
            mark(True)
            try:
                if error is not None:
                    thrown, error = error, None
                    yielded = inner.throw(thrown)
                else:
                    Tracked.last = self._row  # not on cancellation: when the loop itself breaks, all are cancelled
                    yielded = inner.send(send) if send is not None else next(inner)
            except StopIteration as stop:
                return stop.value
            finally:
                mark(False)
            try:
                send = yield yielded
            except BaseException as caught:  # passed on to the awaited code, which decides
                error, send = caught, None


class LoopWatch:
    """The thread that reports which job blocks the loop, with its stack, once per blockage.

    While jobs run, it calls the loop four times within the limit: a loop that does not answer is blocked. While none
    runs it only looks for jobs, because waking up is most of what an idle process costs.
    """

    def __init__(self, core: WorkerCore, loop: asyncio.AbstractEventLoop, *, after: float = BLOCKED_AFTER) -> None:
        self._core = core
        self._loop = loop
        self._marked: RowWriter | None = None
        self._after = after
        self._called: float | None = None  # when the loop was called that has not answered yet
        self._main = threading.get_ident()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, name="loop-watch", daemon=True)
        self._thread.start()

    def turned(self) -> None:
        """Note that the loop turned."""
        self._called = None
        if self._marked is not None:
            self._marked.on_cpu(False)
            self._marked = None

    def stop(self) -> None:
        """End the thread."""
        self._stop.set()

    def _look(self) -> None:
        said: float | None = None
        still = Standstill(self._pause(), time.monotonic())
        while not self._stop.wait(still.turn):
            now = time.monotonic()
            if still.turned(now) and self._called is not None:  # this thread stood still as well
                self._called = now
            called = self._called
            if called is None and self._core.used:
                self._called = now
                with suppress(RuntimeError):  # the loop is closed
                    self._loop.call_soon_threadsafe(self.turned)
            elif called is not None and now - called > min(MARK_AFTER, self._after) and self._marked is None:
                self._mark()
            if called is not None and now - called > self._after and called != said:
                said = called
                self._say(now - called)
            still.turn = self._pause()

    def _pause(self) -> float:
        return min(MARK_AFTER, self._after) / (4 if self._core.used or self._called is not None else 1)

    def _mark(self) -> None:
        """Mark the row of the job whose task is current. `Tracked` marks a handler's own code only, not tasks that it
        made."""
        task = asyncio.current_task(self._loop)
        run = task.run if isinstance(task, JobTask) else None
        if run is not None and run.task is not None:  # otherwise another job may have the row by now
            run.writer.on_cpu(True)
            self._marked = run.writer

    def _say(self, seconds: float) -> None:
        row = next((row for row in self._core.board.busy_rows(self._core.index) if row.on_cpu), None)
        frame = sys._current_frames().get(self._main)
        queue = row.queue if row is not None else self._core.options.name  # the name of its only queue, or of the pool
        executor = self._core.executors.get(queue)
        handler, line = handler_line(executor, frame) if executor is not None else ("", "")
        self._core.emit(
            LoopBlocked(
                process=self._core.process,
                queue=queue,
                job_id=row.job_id if row else "",
                handler=handler,
                seconds=round(seconds, 1),
                where=line,
                stack=stack_of(frame),
            )
        )
