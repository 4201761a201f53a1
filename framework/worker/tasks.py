"""The event loop of a worker and the tasks of its jobs.

A task records whose code cancels it. Handlers can neither stop nor close the loop, and what they leave does not delay
its end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal

from framework.model.job import Lease
from framework.model.options import QueueOptions
from framework.model.outcome import Why
from framework.process.forks import end_forked_at_next_turn
from framework.process.scoreboard import RowWriter

LEFT_BEHIND = 0.3  # seconds within which tasks and async generators that handlers left must end

# The job whose code runs; every task, callback and thread that the job starts inherits it.
current: ContextVar[Run | None] = ContextVar("framework_run", default=None)
# True in code without a job: the worker's own and the service's `alifespan`. A thread has neither variable.
ours: ContextVar[bool] = ContextVar("framework_ours", default=False)


@dataclass(slots=True, eq=False)
class Run:
    """A job on the loop.

    Attributes:
        lease: the lease of the job.
        row, writer: its row on the scoreboard.
        options: the options of its queue, then those of the job.
        task: its own task; None once it has ended.
        timer: calls its soft timeout.
        inside: the handler can be cancelled now.
        why: why the worker has cancelled the handler; empty: it has not.
        hung: it goes on after its cancellation.
        disturbed: another job, or a thread whose job is unknown, has cancelled one of its tasks.
        exit: the SystemExit or KeyboardInterrupt that a task or callback of the job has raised.
    """

    lease: Lease
    row: int
    writer: RowWriter
    options: QueueOptions
    task: JobTask | None = None
    timer: asyncio.TimerHandle | None = None
    inside: bool = False
    why: Why | Literal[""] = ""
    hung: bool = False
    disturbed: Literal["", "neighbour", "unknown"] = ""
    exit: BaseException | None = None

    def interrupt(self, why: Why) -> None:
        """Cancel the handler, at most once."""
        if self.inside and not self.why and self.task is not None:
            self.why = why
            self.task.cancel()


class JobTask(asyncio.Task[Any]):
    """A task of a job: the one that the worker made for it, or one that its handler made (gather, TaskGroup)."""

    run: Run | None = None

    def cancel(self, msg: Any | None = None) -> bool:
        """Cancel the task as usual, but not before and after the handler: the job is then being started or settled."""
        run = self.run
        if run is not None:
            if run.task is self and not run.inside:
                return False
            run.disturbed = run.disturbed or _canceller(run)
        return super().cancel(msg)


class MainTask(asyncio.Task[None]):
    """The worker's own task, which no job's code can cancel (`for task in asyncio.all_tasks(): task.cancel()`)."""

    def cancel(self, msg: Any | None = None) -> bool:
        return current.get() is None and ours.get() and super().cancel(msg)


def _canceller(run: Run) -> Literal["", "neighbour", "unknown"]:
    by = current.get()
    if run.why or by is run:
        return ""
    if by is not None:
        return "neighbour"
    return "" if ours.get() else "unknown"


def task_of_job(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> asyncio.Task[Any]:
    """Make a task (the loop's task factory); tasks that a handler makes belong to its job."""
    run = current.get()
    if run is None:
        return asyncio.Task(coro, loop=loop, **options)
    task = JobTask(coro, loop=loop, **options)
    task.run = run
    return task


def start(loop: asyncio.AbstractEventLoop, coro: Any, run: Run) -> None:
    """Start the task of a job."""
    run.task = JobTask(coro, loop=loop)
    run.task.run = run


def culprit(error: BaseException) -> Run | None:
    """Return the job whose task or callback ended the loop's turn with this exception; None: no job's, or unknown."""
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code is asyncio.Handle._run.__code__:  # the loop calls everything through a handle
            context = getattr(trace.tb_frame.f_locals["self"], "_context", None)
            return context.get(current) if context is not None else None
        trace = trace.tb_next
    return None


def run(main: Coroutine[Any, Any, None], on_exit: Callable[[BaseException], None]) -> None:
    """Run `main` on a new loop, as `asyncio.run` does.

    Args:
        on_exit: takes a SystemExit or KeyboardInterrupt that a task or callback raised; the loop goes on.
    """
    loop = asyncio.new_event_loop()
    close = loop.close
    setattr(loop, "close", _refuse)  # noqa: B010 - a thread could close the loop in a moment when it is stopped
    try:
        asyncio.set_event_loop(loop)
        loop.set_task_factory(task_of_job)
        end_forked_at_next_turn(loop)
        task = MainTask(main, loop=loop)
        _turn(loop, task, on_exit)
        task.result()
    finally:
        try:
            if not loop.is_closed():
                _turn(loop, MainTask(_leave(loop), loop=loop), on_exit)
        finally:
            asyncio.set_event_loop(None)
            close()


def _turn(loop: asyncio.AbstractEventLoop, task: asyncio.Task[None], on_exit: Callable[[BaseException], None]) -> None:
    """Run the loop until the task is done; start it again whenever something stops it."""
    task.add_done_callback(lambda _: loop.stop())
    while not task.done():
        try:
            loop.run_forever()
        except (SystemExit, KeyboardInterrupt) as error:
            if not task.done():
                on_exit(error)


async def _leave(loop: asyncio.AbstractEventLoop) -> None:
    """Cancel what is left; abandon what does not end. Do not wait for threads: closing the loop leaves them alone."""
    ours.set(True)
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    left.add(loop.create_task(loop.shutdown_asyncgens()))
    await asyncio.wait(left, timeout=LEFT_BEHIND)


def _refuse() -> None:
    raise RuntimeError("this event loop is the worker's: a handler cannot close it")
