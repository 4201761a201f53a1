"""The worker for sync handlers with `concurrency` above 1: jobs run in threads, the engine is called in the main one.

The main thread claims, writes run records and board rows, and settles; a thread runs the executor and nothing else.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from queue import Empty, SimpleQueue
from types import FrameType

from framework.model.attempt import Attempt
from framework.model.events import ServiceMistake
from framework.model.job import Lease
from framework.process.forks import leave_if_forked
from framework.service.app import Slot, WorkerApp
from framework.worker.base import Worker, handler_line, stack_of
from framework.worker.core import WorkerCore
from framework.worker.gate.gate import WAIT
from framework.worker.gate.unsettled import FIRST_RETRY
from framework.worker.interrupts.awaited import handlers_frames, noted
from framework.worker.interrupts.thread_interrupt import Call, Limits, ThreadInterrupts

TOGETHER = 0.005  # seconds for which the main thread waits at most for more jobs to end, to settle them in one call
LEFT_BEHIND = 0.3  # seconds in which jobs must end when the worker itself has failed


@dataclass(slots=True, eq=False)
class Run:
    """A job in a thread.

    Attributes:
        row: its row on the scoreboard, and the thread that runs it.
        limits: its time limits.
        hard_at: its hard deadline (timeout plus `kill_after`), in seconds of the tree's own time.
        thread: that thread's `threading.get_ident()`.
        ended: the thread has finished the job.
        broken: the exception that the executor itself has raised.
    """

    attempt: Attempt
    row: int
    limits: Limits
    hard_at: float
    thread: int = 0
    ended: bool = False
    broken: BaseException | None = None


class ThreadWorker(Worker):
    """The worker for sync handlers in threads."""

    def __init__(self, core: WorkerCore, app: WorkerApp, slot: Slot, *, unblock: Callable[[], None]) -> None:
        super().__init__(core, app, slot, unblock=unblock)
        self._limits = {name: Limits.of(executor.options) for name, executor in core.executors.items()}
        self._interrupts = ThreadInterrupts(
            now=core.now,
            drain_at=self._drain_at,
            on_hung=self._handler_hangs,
            on_astray=lambda: core.leave.leave("interrupted in a library"),
        )
        core.gate.on_lost = self._interrupts.lose
        core.cancelled.on_cancelled = self._cancel
        self._free = list(range(core.options.concurrency))[::-1]  # used from one end: few threads where few are needed
        self._runs: set[Run] = set()
        self._ended: SimpleQueue[Run | None] = SimpleQueue()  # None: something else than the end of a job has happened
        self._claiming = False
        self._settling: Run | None = None
        self._settled = False  # a job was settled since the last turn
        self._look_at = 0.0  # when to look for jobs that hang

    def _close(self) -> None:
        self._interrupts.close()

    def _live(self) -> None:
        core = self._core
        if core.leave:
            return
        todo = self._todo = [self._thread_of(row) for row in range(core.options.concurrency)]
        self._ready()
        try:
            self._serve()
            self._finish_rest()
        except BaseException as error:
            core.examine(error, final=True)
            if not core.ruined or self._blamed() is None:  # else the job that ruined it is charged
                self._end_rest()
            raise
        finally:
            for jobs in todo:
                jobs.put(None)

    def _on_term(self) -> None:
        """Note the drain and wake the main thread. This runs in a signal handler."""
        if self._core.leave.leave("drain"):
            self._interrupts.look()
        self._wake()

    def _wake(self) -> None:
        self._ended.put(None)
        self._core.gate.wake()

    def _drain_at(self) -> float | None:
        moment = self._core.leave.interrupt_at
        return None if moment is None else moment - self._core.board.stood_still

    def _blamed(self) -> int | None:
        """Return the row of the job that is being settled, or of the only job that runs."""
        runs = [self._settling] if self._settling is not None else list(self._runs)
        return runs[0].row if len(runs) == 1 else None

    # --- the main thread --------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        core = self._core
        while True:
            self._turn()
            if core.leave:
                break
            if not core.settle_late() and core.gate.doubtful:  # claim nothing until we know the cause
                self._repair(alone=not self._runs)
                self._wait(FIRST_RETRY)
                continue
            limit = min(len(self._free), core.room(len(self._runs)))
            if limit <= 0:
                self._wait(WAIT)
                continue
            leases = self._claim(limit)
            self._repair(alone=not self._runs)
            if core.leave:  # the signal came during the claim: start nothing new
                core.gate.give_back(leases)
                break
            for lease in leases:
                self._start(lease)
        core.leaving()

    def _turn(self) -> None:
        """Settle the jobs that have ended. If the engine is remote, also wait a moment for more to end and settle them
        in one call."""
        self._core.tick()
        end = time.monotonic() + min(TOGETHER, self._core.gate.settle_delay)
        while not self._ended.empty() or (
            self._settled and self._runs and not self._core.leave and time.monotonic() < end
        ):
            self._wait(max(0.0, end - time.monotonic()))
        self._settled = False
        self._look_for_hung()

    def _wait(self, seconds: float) -> None:
        """Wait up to `seconds` until a job has ended, and settle it."""
        try:
            run = self._ended.get(timeout=seconds)
        except Empty:
            return
        if run is not None:
            self._settle(run)

    def _claim(self, limit: int) -> Sequence[Lease]:
        """Claim, and wait for a job only while no ended job has to be settled."""
        self._claiming = True
        try:
            return self._core.gate.claim(limit, WAIT if self._ended.empty() else 0.0)
        finally:
            self._claiming = False

    def _start(self, lease: Lease) -> None:
        row = self._free.pop()
        attempt = self._core.executors[lease.queue].attempt(lease)
        usual = attempt.options is self._core.executors[lease.queue].options
        limits = self._limits[lease.queue] if usual else Limits.of(attempt.options)
        run = Run(attempt, row, limits, self._core.now() + limits.hard)
        if self._core.begin(run.attempt, row):
            self._runs.add(run)
            self._todo[row].put(run)
        else:
            self._free.append(row)

    def _settle(self, run: Run) -> None:
        self._runs.discard(run)
        if run.broken is not None:
            raise run.broken
        if not self._runs:  # otherwise a running job may have changed it for a moment only
            self._put_back.after_job()
        self._settling = run
        self._core.finish(run.attempt, run.row)
        self._settling, self._settled = None, True
        self._free.append(run.row)

    def _look_for_hung(self) -> None:
        """Find jobs that were cancelled, and those that hang outside their handler: in `on_failure`, or while the text
        of an error is made. Looks once a second."""
        now = self._core.now()
        if now < self._look_at:
            return
        self._look_at = now + 1.0
        self._core.look_for_cancelled([run.attempt.lease for run in self._runs])
        for run in self._runs:
            if now >= run.hard_at and not run.ended and not self._core.leave:
                self._on_hung(run, sys._current_frames().get(run.thread))

    def _finish_rest(self) -> None:
        """Wait for running jobs; the watching thread interrupts them when the drain requires it."""
        self._core.gate.flush()
        while self._runs or not (self._core.settle_late() or self._core.leave_behind()):
            self._wait(0.25 if self._runs else FIRST_RETRY)
            self._turn()
            self._repair(alone=not self._runs)

    def _end_rest(self) -> None:
        """Interrupt the jobs that run when the worker itself has failed; they are released, and no attempt is spent."""
        self._interrupts.interrupt_all()
        end = time.monotonic() + LEFT_BEHIND
        while self._runs and (left := end - time.monotonic()) > 0.0:
            with suppress(BaseException):  # the first error is the one that is reported
                self._wait(left)

    # --- other threads ----------------------------------------------------------------------------------------------

    def _thread_of(self, row: int) -> SimpleQueue[Run | None]:
        """Start the thread of a row; return the queue of its jobs."""
        todo: SimpleQueue[Run | None] = SimpleQueue()
        # Each job sees the context variables that the lifespan has set, as it does in the main thread.
        run = copy_context().run
        threading.Thread(target=run, args=(self._live_in, row, todo), name=f"handler-{row}", daemon=True).start()
        return todo

    def _live_in(self, row: int, todo: SimpleQueue[Run | None]) -> None:
        self._core.rows[row].thread(threading.get_native_id())  # for the supervisor
        if self._core.notes is not None:
            self._core.notes.thread(row, threading.get_ident())
        while (run := todo.get()) is not None:
            self._run_job(run)
            del run  # keeps nothing of a job alive until the next one

    def _run_job(self, run: Run) -> None:
        """Run a job, in the thread of its row."""
        core = self._core
        run.thread = threading.get_ident()
        try:
            queue = run.attempt.lease.queue
            call = partial(self._interrupts.call, limits=run.limits, lease=run.attempt.lease)
            outcome = core.executors[queue].run(run.attempt, call=call)
            core.has_run(run.attempt, run.row)  # at once: the main thread may be busy with the engine for long
            if outcome.failure is not None:
                self._explain(run.attempt)
            run.attempt.forget()
        except BaseException as error:
            run.broken = error
        run.ended = True
        leave_if_forked(self._pid)
        self._ended.put(run)
        if self._claiming:
            core.gate.wake()

    def _cancel(self, lease: Lease) -> None:
        """Stop a cancelled job, if it still runs."""
        core = self._core
        run = next((run for run in list(self._runs) if run.attempt.lease is lease), None)
        if run is None:
            return
        sequence = core.rows[run.row].sequence
        if run in self._runs:  # then its row is its own
            grace, now = core.shorten(run.row, sequence, run.attempt.options), core.now()
            run.hard_at = min(run.hard_at, now + grace + run.attempt.options.kill_after)
            self._interrupts.cancel(lease, now + grace)

    def _handler_hangs(self, call: Call, frame: FrameType | None) -> None:
        run = next((run for run in list(self._runs) if run.thread == call.thread), None)
        if run is not None:
            self._on_hung(run, frame)

    def _on_hung(self, run: Run, frame: FrameType | None) -> None:
        """Report a job that goes on after its timeout, and leave, so that no new job starts beside it. The supervisor
        ends the process when the other jobs have finished, and only this job is charged."""
        core = self._core
        handler, line = handler_line(core.executors[run.attempt.lease.queue], frame)
        text = (
            f"{core.process}: job {run.attempt.lease.job.id!r} goes on after its timeout in {handler}"
            f"{f' ({line})' if line else ''}: no new job starts here until the process is replaced"
        )
        if core.notes is not None:
            lease = run.attempt.lease
            core.notes.frames(run.row, lease.job.id, lease.delivery, noted(handlers_frames(frame)))
        core.emit(ServiceMistake(core.process, text, stack_of(frame)))
        core.leave.leave("hung job")
        self._wake()
