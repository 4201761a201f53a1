"""The jobs of an event loop and their tasks, which know whose code cancels them."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal

from framework.model.job import Lease
from framework.model.options import QueueOptions
from framework.model.outcome import Why
from framework.process.scoreboard import RowWriter

# The job whose code runs: inherited by every task, callback and thread that it starts.
current: ContextVar[Run | None] = ContextVar("framework_run", default=None)
# Set where it runs without a job: in the worker's own code and in the service's `alifespan`. A thread has neither.
ours: ContextVar[bool] = ContextVar("framework_ours", default=False)


@dataclass(slots=True, eq=False)
class Run:
    """A job on the loop.

    Attributes:
        lease: of its job.
        row, writer: its place on the scoreboard.
        options: of its queue.
        task: its own task; None once it has ended.
        timer: calls its soft timeout.
        inside: its handler can be cancelled now.
        why: why it was, by the worker.
        disturbed: one of its tasks was cancelled by another job, or by a thread of whom nobody knows.
        exit: a task or callback that it started has raised SystemExit or KeyboardInterrupt.
    """

    lease: Lease
    row: int
    writer: RowWriter
    options: QueueOptions
    task: JobTask | None = None
    timer: asyncio.TimerHandle | None = None
    inside: bool = False
    why: Why | Literal[""] = ""
    disturbed: Literal["", "neighbour", "unknown"] = ""
    exit: BaseException | None = None

    def interrupt(self, why: Why) -> None:
        """Cancels the handler, once."""
        if self.inside and not self.why and self.task is not None:
            self.why = why
            self.task.cancel()


class JobTask(asyncio.Task[Any]):
    """A task of a job: the one that the worker made for it, or one that its handler made (gather, TaskGroup)."""

    run: Run | None = None

    def cancel(self, msg: Any | None = None) -> bool:
        """As ever, but before and after its handler a job cannot be cancelled: it is being settled."""
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
    """A task factory: tasks that a handler makes belong to its job."""
    run = current.get()
    if run is None:
        return asyncio.Task(coro, loop=loop, **options)
    task = JobTask(coro, loop=loop, **options)
    task.run = run
    return task


def start(loop: asyncio.AbstractEventLoop, coro: Any, run: Run) -> None:
    """Starts the task of a job."""
    run.task = JobTask(coro, loop=loop)
    run.task.run = run


def culprit(error: BaseException) -> Run | None:
    """The job whose task or callback ended the loop's turn with this exception; None = no job's, or nobody can say."""
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code is asyncio.Handle._run.__code__:  # the loop calls everything through a handle
            context = getattr(trace.tb_frame.f_locals["self"], "_context", None)
            return context.get(current) if context is not None else None
        trace = trace.tb_next
    return None
