"""Group commit: jobs that threads and coroutines enqueue at the same time share one call of the engine.

All jobs wait in one line. While a call runs, other callers prepare their jobs and join the line. When the call is over,
the first in line leads the next call, which takes all jobs that have joined meanwhile. A thread makes the call itself,
so a single thread waits for no other; for coroutines a flusher thread leads, so that their event loop never waits.
After a call with many jobs, the next leader waits a moment for as many again.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from contextvars import Context

from framework.model.errors import EnqueueError, EnqueueFailed
from framework.model.job import Job, JobId
from framework.service.grouping.tickets import LoopTicket, State, Ticket, share_out, tell, uncertain

MANY = 4  # jobs: after a call with at least so many, the next leader waits for more
MOMENT = 0.0005  # seconds that it waits at most: about one flush of a fast disk
IDLE = 10.0  # seconds without jobs after which the flusher ends; the next coroutine starts another

log = logging.getLogger("framework")


class Line:
    """The line of one producer. Threads, event loops and signal handlers may use it at the same time.

    The caller decides which jobs share calls. A call may hold jobs of several queues, which share one round trip. The
    jobs of one queue keep the order in which they came, and so do the jobs of each thread.

    Args:
        store: stores jobs in order and returns the id of each; raises only EnqueueErrors.
    """

    def __init__(self, store: Callable[[Sequence[Job]], Sequence[JobId]]) -> None:
        self._store = store
        self._state = State()
        _lines.add(self)

    def put(self, job: Job) -> JobId:
        """Store a job together with others, and return its id. Raises EnqueueErrors of this job only."""
        ticket = Ticket(job)
        if not self._stand_in_line(ticket) or ticket.alone:
            return self._store([job])[0]
        return ticket.result()

    def join(self, job: Job, context: Context, ended: Callable[[EnqueueError | None], None]) -> LoopTicket:
        """Put a job of the running event loop in line, and return its ticket; the caller awaits its `future`.

        If the coroutine is cancelled meanwhile, the job is still stored. Raises EnqueueFailed if the line is closed.

        Args:
            context: the context in which the engine is called if the job is the first of its group.
            ended: called when the job has an answer, also if its coroutine was cancelled.
        """
        state, thread = self._state, threading.get_ident()
        if state.closed:
            raise EnqueueFailed(f"job {job.id!r} was not queued: its producer is closed")
        ticket = LoopTicket(job, asyncio.get_running_loop(), context, ended)
        interrupts = thread in state.inside
        try:
            state.inside.add(thread)
            try:
                if state.join(ticket):
                    self._call_flusher(state)
            except BaseException:  # Ctrl-C: the others in line must get their answers
                self._call_flusher(state)
                raise
        finally:
            if not interrupts:
                state.inside.discard(thread)
        return ticket

    def close(self) -> None:
        """Store the jobs in line, and end the flusher. Idempotent."""
        state = self._state
        if not self._stand_in_line(Ticket(None)):
            return  # interrupts an enqueue of its own thread, for which it cannot wait
        state.closed = True
        flusher = state.flusher
        if flusher is not None and flusher.is_alive():
            state.bell.wake()
            flusher.join()

    def after_fork(self) -> None:
        """Begin with an empty line in a forked child: the jobs in line belong to the parent."""
        self._state = State()

    def _stand_in_line(self, ticket: Ticket) -> bool:
        """Wait until the ticket has its answer, and lead if it is first; return True.

        Return False at once if this call interrupts an enqueue of its own thread (a signal handler, a finalizer): it
        would wait for itself.
        """
        state, thread = self._state, threading.get_ident()
        if thread in state.inside:
            return False
        try:
            state.inside.add(thread)
            if not state.join(ticket):
                ticket.wait()
            if not ticket.done and state.leader is ticket:
                self._lead(state, ticket)
        except BaseException as error:  # Ctrl-C: the others must not wait for ever
            self._leave(state, ticket, error)
            raise
        finally:
            try:
                state.inside.discard(thread)
            finally:  # if Ctrl-C interrupts the line above
                state.inside.discard(thread)
        return True

    def _lead(self, state: State, leader: Ticket) -> None:
        """Store the first jobs in line, including the leader's, give them their answers, and pass on the lead."""
        if state.came >= MANY and len(state.line) < state.came:
            time.sleep(min(MOMENT, state.took))
        began = time.perf_counter()
        self._store_all([ticket for ticket in state.take(leader) if not ticket.left])
        state.took = time.perf_counter() - began
        self._hand_on(state, leader)

    def _leave(self, state: State, ticket: Ticket, error: BaseException) -> None:
        """Release the others when a thread is interrupted: answer the jobs of its call, and pass on the lead."""
        state.leave(ticket)
        for other in ticket.group:
            if other.job is not None and not (other.done or other.alone):
                other.answer(None, uncertain(other.job, error))
        self._hand_on(state, ticket)

    def _hand_on(self, state: State, leader: Ticket) -> None:
        """Wake the tickets that have answers, and the next leader. After an interrupt it may be called again."""
        following = state.hand_on(leader)
        waiting: list[LoopTicket] = []
        for ticket in leader.group:
            if isinstance(ticket, LoopTicket):
                (waiting if ticket.done else state.again).append(ticket)
            elif ticket is not leader:
                ticket.wake()
        if waiting:
            tell(waiting)
        if following is not None and not isinstance(following, LoopTicket):
            following.wake()
        if state.again or isinstance(following, LoopTicket):
            self._call_flusher(state)

    def _store_all(self, tickets: list[Ticket]) -> None:
        some = [ticket for ticket in tickets if ticket.job is not None]
        if len(some) > 1:  # by queue, with delayed jobs together: engines store such runs of jobs as one
            some.sort(key=_run)
        if some:
            try:
                stored = self._store([ticket.job for ticket in some if ticket.job is not None])
            except EnqueueError as error:
                share_out(some, error)
            else:
                for ticket, job_id in zip(some, stored, strict=True):
                    ticket.answer(job_id)
        for ticket in tickets:
            if ticket.job is None:
                ticket.done = True

    # --- the flusher, which leads for coroutines -----------------------------------------------------------------

    def _call_flusher(self, state: State) -> None:
        """Wake the flusher, or start it if there is none. If no thread can be started, do its work here."""
        state.bell.wake()
        with state.lock:
            if state.flusher is not None:
                return
            flusher = threading.Thread(target=self._flush, args=(state, IDLE), name="enqueue-flusher", daemon=True)
            state.flusher = flusher
        try:
            flusher.start()
        except RuntimeError:  # the process has all threads that it may have, or is ending
            self._flush(state, 0.0)
        except BaseException:  # Ctrl-C: it is unknown whether the thread runs, so the next call starts another
            state.retire(flusher)
            raise

    def _flush(self, state: State, patience: float) -> None:
        """Lead for coroutines until no job has come for `patience` seconds, or the line is closed."""
        thread, flusher = threading.get_ident(), state.flusher
        interrupts = thread in state.inside
        state.inside.add(thread)
        try:
            while True:
                called = state.bell.wait(patience)
                with state.serving:
                    self._serve(state)
                if (state.closed or not called) and state.is_idle(flusher):
                    return
        finally:
            if not interrupts:
                state.inside.discard(thread)

    def _serve(self, state: State) -> None:
        """Lead while a coroutine's job is the first in line; store jobs of refused groups one by one."""
        while True:
            leader = state.leader
            if isinstance(leader, LoopTicket):
                try:
                    leader.context.run(self._lead, state, leader)
                except BaseException as error:
                    log.exception("a call for coroutines that enqueue was interrupted")
                    leader.group = leader.group or (leader,)
                    self._leave(state, leader, error)
            elif state.again:
                self._answer_alone(state.again.pop(0))
            else:
                return

    def _answer_alone(self, ticket: LoopTicket) -> None:
        assert ticket.job is not None
        if ticket.done:
            return
        try:
            ticket.answer(ticket.context.run(self._store, [ticket.job])[0])
        except EnqueueError as error:
            ticket.answer(None, error)
        except BaseException as error:
            log.exception("a call for a coroutine that enqueues was interrupted")
            ticket.answer(None, uncertain(ticket.job, error))
        tell([ticket])


def _run(ticket: Ticket) -> tuple[str, bool]:
    job = ticket.job
    assert job is not None
    return job.queue, job.not_before is not None


_lines: weakref.WeakSet[Line] = weakref.WeakSet()


def _in_child() -> None:
    for line in list(_lines):
        line.after_fork()


os.register_at_fork(after_in_child=_in_child)
