"""The tickets of a line, for whose answers threads and coroutines wait, and the state that the threads share."""

from __future__ import annotations

import logging
import threading
from asyncio import AbstractEventLoop, Future
from collections.abc import Callable, Sequence
from contextvars import Context

from framework.model.errors import EnqueueError, EnqueueUncertain
from framework.model.job import Job, JobId

MOST = 256  # jobs in one call
MOST_BYTES = 8 << 20  # of their payloads

log = logging.getLogger("framework")


class Bell:
    """A bell for one waiting thread. Several calls of `wake` count as one, and may come before `wait`."""

    __slots__ = ("_closed",)

    def __init__(self) -> None:
        self._closed = threading.Lock()
        self._closed.acquire()

    def wait(self, seconds: float = -1) -> bool:
        """Wait until `wake` is called. Return False if it is not called within so many seconds."""
        return self._closed.acquire(timeout=seconds)

    def wake(self) -> None:
        """End the current `wait`, or else the next one."""
        try:
            self._closed.release()
        except RuntimeError:  # it is open already
            return


class Ticket(Bell):
    """A job in line, whose thread waits for its answer or for the lead.

    Attributes:
        job: the job to store; None: the thread only waits until all jobs before it are stored.
        stored, error: the answer, once `done`.
        done: the call that had the job is over.
        alone: a call with several jobs was refused, perhaps because of another job: this job gets a call of its own.
        taken: a call has the job.
        left: the thread was interrupted before a call had the job, so the job is not to be stored any more.
        group: the tickets whose jobs the owner stores when it leads.
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
        """Set the answer: the id of the stored job, or its error."""
        self.stored, self.error = stored, error
        self.done = True

    def result(self) -> JobId:
        """Return the id, or raise the job's error."""
        if self.error is not None:
            raise self.error
        assert self.stored is not None
        return self.stored


class LoopTicket(Ticket):
    """A job in line, whose coroutine waits for `future`; the future has no result but says that there is an answer.

    Attributes:
        loop: the event loop of the coroutine.
        context: the context in which the call runs if the job is the first of its group.
        ended: called once with the job's error or None; on the loop, if the loop still runs.
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
        """End the span and, unless it was cancelled, the coroutine's wait. May be called again."""
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
        except Exception:  # an error of telemetry must not reach the caller
            log.exception("the span of an enqueue could not be ended")


def tell(tickets: Sequence[LoopTicket]) -> None:
    """Tell coroutines that their jobs have answers, with one call into each event loop."""
    by_loop: dict[AbstractEventLoop, list[LoopTicket]] = {}
    for ticket in tickets:
        by_loop.setdefault(ticket.loop, []).append(ticket)
    for loop, some in by_loop.items():
        try:
            loop.call_soon_threadsafe(_tell_here, some)
        except RuntimeError:  # the loop is closed and its coroutines are gone; their spans still end
            for ticket in some:
                ticket.end()


def _tell_here(tickets: Sequence[LoopTicket]) -> None:
    for ticket in tickets:
        ticket.tell()


def share_out(tickets: Sequence[Ticket], failed: EnqueueError) -> None:
    """Turn the error of one call into the answers of its jobs, which have different ids.

    Jobs that were stored before the error are stored. Behind an uncertain job all are uncertain. A refusal is the
    answer only of a job that was alone in its call; of several jobs each gets a call of its own.
    """
    stored: dict[str, str] = {}
    for job_id in failed.enqueued:  # of those with one id the first was stored, and has the unique key of the others
        stored.setdefault(str(job_id), job_id)
    for ticket in tickets:
        assert ticket.job is not None
        found = stored.get(ticket.job.id)
        if found is not None:
            ticket.answer(found if isinstance(found, JobId) else JobId(found))
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


class State:
    """The shared state of a line. A forked child begins with a new one, because it has none of its parent's threads.

    Attributes:
        line: tickets without an answer, oldest first; the tickets of the running call are at its head.
        leader: the first ticket in line, whose owner stores; None: no call runs.
        came: number of jobs in the last call. took: seconds that it took.
        inside: threads that wait in line; code that interrupts one of them must not wait for it.
        flusher: the thread that leads for coroutines; None: not needed so far.
        bell: wakes the flusher. serving: the lock that it holds while it leads.
        again: tickets of coroutines whose jobs get calls of their own.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.line: list[Ticket] = []
        self.leader: Ticket | None = None
        self.came, self.took = 0, 0.0
        self.inside: set[int] = set()
        self.flusher: threading.Thread | None = None
        self.bell = Bell()
        self.serving = threading.Lock()
        self.again: list[LoopTicket] = []
        self.closed = False

    def join(self, ticket: Ticket) -> bool:
        """Put a ticket at the end of the line; return whether its owner leads."""
        with self.lock:
            if self.leader is None:  # set first: Ctrl-C in between must not leave a ticket without a leader
                self.leader = ticket
            self.line.append(ticket)
            return self.leader is ticket

    def take(self, leader: Ticket) -> Sequence[Ticket]:
        """Return the first tickets in line, for one call; no id twice, because errors name jobs by their ids."""
        with self.lock:
            if len(self.line) == 1 and self.line[0] is leader:
                leader.taken, leader.group = True, (leader,)
                return leader.group
            ids: set[str] = set()
            size = count = 0
            for ticket in self.line[:MOST]:
                if ticket.job is not None:
                    size += len(ticket.job.payload)
                    if ticket.job.id in ids or (count and size > MOST_BYTES):
                        break
                    ids.add(ticket.job.id)
                count += 1
            leader.group = self.line[:count]
            for ticket in leader.group:
                ticket.taken = True
            return leader.group

    def leave(self, ticket: Ticket) -> None:
        """Withdraw the job of an interrupted thread, unless a call has it already."""
        with self.lock:
            ticket.left = not ticket.taken

    def hand_on(self, leader: Ticket) -> Ticket | None:
        """Make the next ticket in line the leader, unless this leader has passed on the lead; return the leader."""
        with self.lock:
            if self.leader is leader:
                group = leader.group or (leader,)
                if self.line and self.line[0] is group[0]:
                    del self.line[: len(group)]
                while self.line and self.line[0].left:
                    del self.line[0]
                self.came = len(leader.group)
                self.leader = self.line[0] if self.line else None
            return self.leader

    def is_idle(self, flusher: threading.Thread | None) -> bool:
        """Return whether the flusher has nothing to do; if so, it is no longer the flusher."""
        with self.lock:
            if self.again or isinstance(self.leader, LoopTicket):
                return False
            self._forget(flusher)
            return True

    def retire(self, flusher: threading.Thread) -> None:
        """Forget this flusher, so that another can be started. If both run, they take turns."""
        with self.lock:
            self._forget(flusher)

    def _forget(self, flusher: threading.Thread | None) -> None:
        if self.flusher is flusher:
            self.flusher = None
