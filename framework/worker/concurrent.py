"""The worker for async handlers: up to `concurrency` jobs at once on an event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from framework.model.job import Lease
from framework.model.outcome import Disturbed, JobInterrupted
from framework.model.text.exceptions import error_type
from framework.process.forks import leave_if_forked
from framework.process.standstill import Standstill
from framework.service.app import Slot, WorkerApp
from framework.worker import tasks
from framework.worker.base import Worker
from framework.worker.core import WorkerCore
from framework.worker.gate.thread_gate import ThreadGate
from framework.worker.interrupts.awaited import awaited, frames_of_traceback, location_of, noted
from framework.worker.interrupts.blocking import LoopWatch, Tracked, last_row
from framework.worker.interrupts.interrupt import LOOK_AGAIN, PATIENCE, LateAlarm
from framework.worker.tasks import Run

TICK = 1.0  # seconds between signs of life
HUNG_AFTER = 1.0  # seconds after the cancellation at its soft timeout within which a job must end


class AsyncWorker(Worker):
    """The worker for async handlers; `app.alifespan(slot)` is open, too, while it runs."""

    def __init__(self, core: WorkerCore, app: WorkerApp, slot: Slot, *, unblock: Callable[[], None]) -> None:
        super().__init__(core, app, slot, unblock=unblock)
        self._changed = asyncio.Event()
        self._wake: Callable[[], object] = lambda: None
        self._free = list(range(core.options.concurrency))[::-1]
        self._runs: set[Run] = set()

    def _live(self) -> None:
        tasks.run(self._main(), self._on_exit)

    def _blamed(self) -> int | None:
        return last_row()

    def _on_term(self) -> None:
        """Note the drain and wake the loop; `_serve` acts.

        This is a plain signal handler because it stays when the loop is closed. A handler of asyncio would put SIGTERM
        back to its default, and a second SIGTERM would then kill the process while the lifespan closes.
        """
        if self._core.leave.leave("drain"):
            self._core.gate.wake()
        with suppress(RuntimeError):  # the loop is closed already
            self._wake()

    async def _main(self) -> None:
        tasks.ours.set(True)
        self._loop = loop = asyncio.get_running_loop()
        self._wake = lambda: loop.call_soon_threadsafe(self._changed.set)
        self._watch = LoopWatch(self._core, self._loop, after=self._core.blocked_after)
        self._core.gate.on_lost = lambda lease: loop.call_soon_threadsafe(self._lose, lease)
        self._core.cancelled.on_cancelled = lambda lease: loop.call_soon_threadsafe(self._cancel, lease)
        if isinstance(self._core.gate, ThreadGate):
            self._core.gate.later = loop.call_later
        try:
            async with self._app.alifespan(self._slot):
                if not self._core.leave:
                    self._ready()
                    self._tick()
                    await self._serve()
                    await self._finish()
        finally:
            await self._end_rest()
            self._watch.stop()

    def _on_exit(self, error: BaseException) -> None:
        """Report a SystemExit or KeyboardInterrupt of a task. In plain asyncio it would end the process and its other
        attempts."""
        run = tasks.culprit(error)
        if run is not None:
            run.exit = error
        whose = "the service's own" if run is None else f"a job's ({run.options.name})"
        self._core.complain(f"{error_type(error)} in a task or callback that was {whose}: the process goes on")

    async def _end_rest(self) -> None:
        """Interrupt the jobs that run when the worker itself has failed; they are released, and no attempt is spent."""
        for run in self._runs:
            run.interrupt("draining")
        running = {run.task for run in self._runs if run.task is not None}
        if running:
            await asyncio.wait(running, timeout=tasks.LEFT_BEHIND)

    def _tick(self) -> None:
        self._core.tick()
        self._watch.turned()
        self._note_hung()
        self._core.settle_late()
        self._core.look_for_cancelled([run.lease for run in self._runs])
        self._repair(alone=not self._runs)
        self._loop.call_later(TICK, self._tick)

    # --- claiming ---------------------------------------------------------------------------------------------------

    async def _serve(self) -> None:
        core = self._core
        while not core.leave:
            limit = min(len(self._free), core.room(len(self._runs)))
            if limit <= 0:
                self._changed.clear()
                await self._changed.wait()
                continue
            leases = await core.gate.aclaim(limit)
            self._repair(alone=not self._runs)
            if core.leave:
                core.gate.give_back(leases)
                break
            for lease in leases:
                self._start(lease)
        core.leaving()

    # --- running ----------------------------------------------------------------------------------------------------

    def _start(self, lease: Lease) -> None:
        row = self._free.pop()
        run = Run(lease, row, self._core.rows[row], self._core.executors[lease.queue].options)
        self._runs.add(run)
        tasks.start(self._loop, self._run(lease, run), run)

    async def _run(self, lease: Lease, run: Run) -> None:
        core = self._core
        try:
            executor = core.executors[lease.queue]
            attempt = executor.attempt(lease)
            run.options = attempt.options
            if core.begin(attempt, run.row):
                await executor.run_async(attempt, call=lambda awaitable: self._call(awaitable, run))
                attempt.forget()
                self._put_back.after_job()
                core.finish(attempt, run.row)
        finally:
            self._runs.discard(run)
            run.task = run.exit = None  # a timer may keep the run alive for long
            self._free.append(run.row)
            self._changed.set()

    async def _call(self, awaitable: Awaitable[Any], run: Run) -> Any:
        """Await the handler under its soft timeout. Raise JobInterrupted for a cancellation that this worker caused."""
        timeout = run.options.timeout
        if timeout is not None:
            self._later(timeout, self._time_out, run)
        run.inside = True
        if self._core.leave.interrupt_at is not None and time.monotonic() >= self._core.leave.interrupt_at:
            self._loop.call_soon(run.interrupt, "draining")
        tasks.current.set(run)  # after the timers are set: their calls belong to the worker, not to the job
        try:
            result = await Tracked(awaitable, run.writer)
            if run.exit is not None:
                raise run.exit
            return result
        except asyncio.CancelledError as error:
            if run.exit is not None:
                raise run.exit from None
            alone = len(self._runs) == 1
            if not run.why and (not run.disturbed or (alone and run.disturbed == "unknown")):
                raise
            if run.task is not None:
                run.task.uncancel()
            location = location_of(frames_of_traceback(error.__traceback__))
            raise (JobInterrupted(run.why, location) if run.why else Disturbed()) from None
        except Exception as error:
            if run.why == "lease_lost":
                raise JobInterrupted(run.why) from error  # the lost lease is the cause of the failure
            raise
        finally:
            leave_if_forked(self._pid)
            run.inside = False
            if run.timer is not None:
                run.timer.cancel()

    def _later(self, seconds: float, act: Callable[[Run], None], run: Run) -> None:
        """Call `act` after seconds of the tree's own time: seconds in which the tree stood still do not count."""
        run.timer = self._loop.call_later(seconds, self._when, self._core.now() + seconds, act, run)

    def _when(self, due: float, act: Callable[[Run], None], run: Run, late: LateAlarm | None = None) -> None:
        left = due - self._core.now()
        if left > 0.0:
            run.timer = self._loop.call_later(left, self._when, due, act, run)
            return
        late = late or LateAlarm(min(PATIENCE, run.options.kill_after / 2))
        if late.may_be_standstill(-left):  # the loop was blocked, or the whole tree stood still
            run.timer = self._loop.call_later(LOOK_AGAIN, self._when, due, act, run, late)
        else:
            act(run)

    def _lose(self, lease: Lease) -> None:
        for run in self._runs:
            if run.lease is lease:
                run.interrupt("lease_lost")

    def _cancel(self, lease: Lease) -> None:
        """Stop a cancelled job, if it still runs."""
        for run in self._runs:
            if run.lease is lease:
                grace = self._core.shorten(run.row, run.writer.sequence, run.options)
                if run.timer is None or run.timer.when() > self._loop.time() + grace:
                    if run.timer is not None:
                        run.timer.cancel()
                    self._later(grace, self._time_out, run)

    def _time_out(self, run: Run) -> None:
        run.interrupt("cancelled" if run.lease in self._core.cancelled else "timeout")
        self._later(min(HUNG_AFTER, run.options.kill_after / 2), self._check_hung, run)

    def _check_hung(self, run: Run) -> None:
        """Leave if a handler goes on after its cancellation, so that no new job starts beside it. The supervisor ends
        the process when the other jobs have finished, and only this job is charged."""
        if run in self._runs and run.inside:
            run.hung = True
            self._note_hung()
            self._core.leave.leave("hung job")
            self._changed.set()
            self._core.gate.wake()

    def _note_hung(self) -> None:
        """Note where hung jobs stand while the loop turns: the stack of the process will only show the loop."""
        for run in self._runs:
            if run.hung and run.task is not None and self._core.notes is not None:
                text = noted(awaited(run.task))
                self._core.notes.frames(run.row, run.lease.job.id, run.lease.delivery, text)

    # --- leaving ----------------------------------------------------------------------------------------------------

    async def _finish(self) -> None:
        """Wait for running jobs; interrupt them when the drain requires it."""
        core = self._core
        interrupted = False
        still, patient_until = Standstill(0.25, time.monotonic()), 0.0
        while self._runs or not (core.settle_late() or core.leave_behind()):
            now, moment = time.monotonic(), core.leave.interrupt_at
            if still.turned(now):
                patient_until = now + PATIENCE  # the supervisor will say how long all stood still
            if not interrupted and moment is not None and now >= max(moment, patient_until):
                interrupted = True
                for run in list(self._runs):
                    run.interrupt("draining")
            core.gate.flush()
            patience = 0.25 if moment is None else min(0.25, max(0.005, moment - time.monotonic()))
            self._changed.clear()
            # Not asyncio.wait_for: it makes a task, which a job could cancel.
            alarm = self._loop.call_later(patience, self._changed.set)
            await self._changed.wait()
            alarm.cancel()
