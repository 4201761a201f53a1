"""The tickets of the line, and who waits for the answer: a thread, or a coroutine of some event loop."""

from __future__ import annotations

import logging
import threading
from asyncio import AbstractEventLoop, Future
from collections.abc import Callable, Sequence
from contextvars import Context

from framework.model.errors import EnqueueError, EnqueueUncertain
from framework.model.job import Job, JobId

log = logging.getLogger("framework")


class Bell:
    """One thread waits until another wakes it, once for any number of calls; also when that came first."""

    __slots__ = ("_closed",)

    def __init__(self) -> None:
        self._closed = threading.Lock()
        self._closed.acquire()

    def wait(self, seconds: float = -1) -> bool:
        """Return once `wake` was called; False: not within so many seconds."""
        return self._closed.acquire(timeout=seconds)

    def wake(self) -> None:
        """End `wait`, or the next one."""
        try:
            self._closed.release()
        except RuntimeError:  # it is open already
            return


class Ticket(Bell):
    """One job in line, whose thread waits for an answer or to lead.

    Attributes:
        job: what is to be stored; None: its thread only waits until everything before it is stored.
        stored, error: the answer, once `done`.
        done: the call that had the job is over.
        alone: the call was refused, which says nothing of this job: it gets a call of its own.
        taken: a call has the job.
        left: its thread was interrupted before a call had the job, and does not want it stored any more.
        group: the tickets whose jobs its owner stores, once it leads.
    """

    __slots__ = ("alone", "done", "error", "group", "job", "left", "stored", "taken")

    def __init__(self, job: Job | None) -> None:
        super().__init__()
        self.job = job
        self.stored: JobId | None = None
        self.error: EnqueueError | None = None
        self.done = self.alone = self.taken = self.left = False
        self.group: Sequence[Ticket] = ()

    def answer(self, stored: JobId | None, error: EnqueueError | None = None) -> None:
        """Set what became of the job."""
        self.stored, self.error = stored, error
        self.done = True

    def result(self) -> JobId:
        """Return the id, or raise the job's error."""
        if self.error is not None:
            raise self.error
        assert self.stored is not None
        return self.stored


class LoopTicket(Ticket):
    """One job in line, whose coroutine waits for `future`, which says only that there is an answer.

    Attributes:
        loop: of the coroutine.
        context: in which the job's call runs, if it is the first of its group.
        ended: called once with the job's error or None, on the loop where that still runs.
    """

    __slots__ = ("context", "ended", "future", "loop", "told")

    def __init__(
        self, job: Job, loop: AbstractEventLoop, context: Context, ended: Callable[[EnqueueError | None], None]
    ) -> None:
        super().__init__(job)
        self.loop = loop
        self.context = context
        self.ended = ended
        self.future: Future[None] = loop.create_future()
        self.told = False

    def tell(self) -> None:
        """End the span, and the coroutine's wait unless it was cancelled. May be called again."""
        self.end()
        if not self.future.done():
            self.future.set_result(None)

    def end(self) -> None:
        """End the span. May be called again."""
        if self.told:
            return
        self.told = True
        try:
            self.ended(self.error)
        except Exception:  # telemetry's own fault
            log.exception("the span of an enqueue could not be ended")


def tell(tickets: Sequence[LoopTicket]) -> None:
    """Tell coroutines of one loop that their jobs have answers: one call into each loop for all of them."""
    by_loop: dict[AbstractEventLoop, list[LoopTicket]] = {}
    for ticket in tickets:
        by_loop.setdefault(ticket.loop, []).append(ticket)
    for loop, some in by_loop.items():
        try:
            loop.call_soon_threadsafe(_tell_here, some)
        except RuntimeError:  # closed: its coroutines are gone, their spans still end
            for ticket in some:
                ticket.end()


def _tell_here(tickets: Sequence[LoopTicket]) -> None:
    for ticket in tickets:
        ticket.tell()


def share_out(tickets: Sequence[Ticket], failed: EnqueueError) -> None:
    """Turn the error of one call into the answers of its jobs, no two of which have the same id.

    What was stored before the error is stored. Behind an uncertain job nothing is certain either. A refusal is the
    job's own only where it was the only one.
    """
    stored = {str(job_id): job_id for job_id in failed.enqueued}
    for ticket in tickets:
        assert ticket.job is not None
        job_id = stored.get(ticket.job.id)
        if job_id is not None:
            ticket.answer(job_id if isinstance(job_id, JobId) else JobId(job_id))
        elif len(tickets) == 1:
            ticket.answer(None, failed)
        elif isinstance(failed, EnqueueUncertain):
            ticket.answer(None, uncertain(ticket.job, failed))
        else:
            ticket.alone = True


def uncertain(job: Job, cause: BaseException) -> EnqueueUncertain:
    """Return the error of a job that may or may not be stored."""
    why = str(cause) if isinstance(cause, EnqueueError) else f"interrupted by {type(cause).__name__}"
    error = EnqueueUncertain(f"job {job.id!r} may or may not be queued: {why}", job_id=job.id)
    error.__cause__ = cause
    return error
