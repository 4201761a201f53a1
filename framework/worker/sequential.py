"""The worker for sync handlers: one job at a time, in the main thread."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from types import FrameType

from framework.model.job import Lease
from framework.model.options import QueueOptions, of_job
from framework.service.app import Slot, WorkerApp
from framework.worker.base import Worker
from framework.worker.core import WorkerCore
from framework.worker.gate.cancelled import CancelWatch
from framework.worker.gate.claims import WORTH, Claims
from framework.worker.gate.gate import WAIT
from framework.worker.gate.unsettled import FIRST_RETRY
from framework.worker.interrupts.awaited import handlers_frames, location_of, noted
from framework.worker.interrupts.interrupt import PATIENCE, Interrupts


class SyncWorker(Worker):
    """The worker for sync handlers, whose soft timeouts are alarms."""

    ignored = (signal.SIGINT,)
    installed = (signal.SIGTERM, signal.SIGINT, signal.SIGALRM)

    def __init__(self, core: WorkerCore, app: WorkerApp, slot: Slot, *, unblock: Callable[[], None]) -> None:
        super().__init__(core, app, slot, unblock=unblock)
        self._interrupts = Interrupts(
            must_leave=lambda: core.must_leave() and not core.leave,
            still_ns=core.board.still_ns,
        )
        core.gate.on_lost = self._interrupts.lose
        core.cancelled.on_cancelled = self._cancel
        self._watch = CancelWatch(lambda: self._interrupts.lease, core.cancelled) if core.cancelled.local else None
        self._interrupts.location_of = self._note
        self._claims = Claims(self._give_back, claim_seconds=lambda: core.gate.claim_seconds)
        core.cancelled.waiting = self._claims.waiting
        self._ahead = all(executor.options.claims_ahead for executor in core.executors.values())
        self._limited: QueueOptions | None = None  # the options whose timeout is set for interruptions
        self._look_at = 0.0

    def _live(self) -> None:
        if not self._core.leave:
            self._ready()
            self._serve()

    def _close(self) -> None:
        self._claims.close()
        if self._watch is not None:
            self._watch.close()
        self._core.gate.flush()

    def _on_term(self) -> None:
        if self._core.leave.leave("drain"):
            self._interrupts.drain_at(self._core.leave.interrupt_at)
            self._claims.give_back()
            self._core.gate.wake()

    def _serve(self) -> None:
        core, leave = self._core, self._core.leave
        while not leave.why:
            lease = None if core.gate.doubtful else self._claims.take()
            if lease is None:  # only once per claim: `finish` ticks, too
                core.gate.flush()
                core.tick()
                # The run record of a job that cannot be settled must stay until we know the cause.
                if not core.settle_late() and core.gate.doubtful:
                    self._look_around()
                    time.sleep(FIRST_RETRY)
                    continue
                lease = self._claims.take() or self._claim()
            if lease is not None:
                self._run(lease)
        core.leaving()
        self._claims.close()
        self._settle_rest()

    def _look_around(self) -> None:
        core, now = self._core, time.monotonic()
        if self._claims.quick and now < self._look_at and not core.gate.doubtful:
            return
        self._look_at = now + WORTH
        self._repair(alone=True)
        self._interrupts.keep_timer()  # last: the handler of SIGALRM may have been put back just now

    def _claim(self) -> Lease | None:
        self._look_around()
        if self._core.leave:
            return None
        most = self._claims.limit() if self._ahead else 1
        leases = self._core.gate.claim(max(1, min(most, self._core.room())), WAIT)
        if self._core.leave:  # the signal came during the claim: start nothing new
            self._core.gate.give_back(leases)
            return None
        self._claims.add(leases)
        return self._claims.take()

    def _run(self, lease: Lease) -> None:
        core = self._core
        executor = core.executors[lease.queue]
        attempt = executor.attempt(lease)
        if not core.begin(attempt, 0):
            return
        self._interrupts.lease = lease
        if (watch := self._watch) is not None and watch.asleep:
            watch.wake()
        self._claims.started = attempt.began
        if (options := attempt.options) is not self._limited:
            self._limited = options
            self._interrupts.limit(options.timeout, min(PATIENCE, options.kill_after / 2))
        outcome = executor.run(attempt, call=self._interrupts.call)
        self._claims.ended(attempt.duration or 0.0)
        if self._put_back.after_job() or not self._claims.quick:
            self._put_back.between_jobs()
            self._interrupts.keep_timer()
            if core.must_leave():
                self._on_term()
        if outcome.failure is not None:
            self._explain(attempt)
        if attempt.error is not None:
            attempt.forget()
        # While another job waits behind the next one, the helper thread watches that one: no success stays unsettled
        # behind a long job.
        core.finish(attempt, 0, soon=self._claims.quick and len(self._claims) > 1)

    def _cancel(self, lease: Lease) -> None:
        """Stop a cancelled job, if it still runs. In any thread."""
        sequence = self._core.rows[0].sequence
        if self._interrupts.lease is lease:
            options = of_job(self._core.executors[lease.queue].options, lease)
            self._interrupts.cancel(lease, self._core.shorten(0, sequence, options))

    def _note(self, frame: FrameType | None) -> str:
        """Note where a handler is interrupted, in case that it goes on, and return it. Safe in a signal handler."""
        lease, notes, frames = self._interrupts.lease, self._core.notes, handlers_frames(frame)
        if lease is not None and notes is not None:
            notes.frames(0, lease.job.id, lease.delivery, noted(frames))
        return location_of(frames)

    def _give_back(self, leases: Sequence[Lease]) -> None:
        """Release the waiting claims and settle finished successes. The helper thread calls this while a long job
        runs."""
        self._core.gate.give_back(leases)
        self._core.gate.flush()

    def _settle_rest(self) -> None:
        self._core.gate.flush()
        while not (self._core.settle_late() or self._core.leave_behind()):
            self._core.tick()
            self._look_around()
            time.sleep(FIRST_RETRY)
