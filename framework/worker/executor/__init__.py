"""The executor runs one job once: decode, middleware, handler, outcome. It settles nothing and knows no process."""

from __future__ import annotations

import asyncio
import logging
import resource
import time
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from datetime import UTC, datetime
from functools import partial
from math import inf
from types import CoroutineType
from typing import Any

from framework.model.attempt import Attempt, Completing, NoTransactions, Tracing
from framework.model.errors import EngineError
from framework.model.events import Event, JobCost, JobFinished
from framework.model.handling import Context, Progress
from framework.model.job import Failure, Lease
from framework.model.options import QueueOptions, of_job
from framework.model.outcome import (
    ARCHIVED,
    CANCELLED,
    SUCCEEDED,
    Discard,
    Disturbed,
    JobInterrupted,
    Kind,
    Outcome,
    Reject,
    RetryLater,
    Snooze,
    fail,
    later,
)
from framework.model.text.exceptions import describe, error_type
from framework.service.app import Handler, WorkerApp
from framework.service.codec import UndecodablePayload, parse_lenient
from framework.service.codec.upgrades import reader_of
from framework.service.queues import DeadLetter
from framework.worker.executor.around import Around
from framework.worker.executor.batches import Batches
from framework.worker.executor.breaking import Guard
from framework.worker.executor.elsewhere import attempt_elsewhere, charged
from framework.worker.executor.ended import failed, finished
from framework.worker.executor.grace import Grace
from framework.worker.executor.hooks import PATIENCE, FailureHook, dismiss, undone, unfinished

log = logging.getLogger("framework")


def _call(method: Callable[..., Any], *arguments: Any) -> Any:
    return method(*arguments)


class Executor:
    """The executor of one queue of one app: it runs the queue's jobs.

    Args:
        app: the instance whose method is the handler.
        handler: the declared handler.
        options: the queue's options, with settings applied.
        tracing: opens the span around each run.
        emit: takes the JobFinished event, which is emitted while the span is current.
        wants: says whether a kind of event has a listener (for a JobFinished by its outcome); asked once.
        stopping: says whether the worker drains, for `ctx.should_stop`.
        swallows: errors of `on_failure` that are reported only; any other error leaves the run.
        stood_still: returns the seconds for which the whole tree has stood still.
        costs: measure what each run of a sync handler costs.
        clock, monotonic: wall clock and monotonic clock, seconds.

    Attributes:
        cancelled: says whether a job was cancelled while it runs.
        record: takes the outcome of each attempt before telemetry does.
        engine: completes jobs in transactions of their handlers.
        save: stores a checkpoint, as `Engine.save` does. progress: shows a progress.
        batches: of a batch handler: the groups that its jobs join.
        settled: counts a settlement, as `Tracing.settled` does.
        guard: the queue's breaker, where it has one and the process has a gate to the engine.
    """

    guard: Guard | None = None

    def __init__(
        self,
        app: WorkerApp,
        handler: Handler,
        options: QueueOptions,
        *,
        tracing: Tracing,
        emit: Callable[[Event], None],
        wants: Callable[[type[Event], str], bool] = lambda kind, outcome: True,
        stopping: Callable[[], bool] = lambda: False,
        swallows: tuple[type[BaseException], ...] = (BaseException,),
        stood_still: Callable[[], float] = lambda: 0.0,
        costs: bool = False,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.app, self.handler, self.options = app, handler, options
        self._method: Callable[..., Any] = getattr(app, handler.name)
        # A dead letter is built from the job and not decoded: its payload belongs to another queue.
        carries_dead_letters = handler.queue.payload_type is DeadLetter
        self._read = None if carries_dead_letters else reader_of(handler.queue, options)
        self._grace = Grace(options, self._read)
        self.cancelled: Callable[[Lease], bool] = lambda lease: False
        self.record: Callable[..., None] = lambda lease, outcome, resolved=False: None
        self.engine: Completing = NoTransactions("memory")
        self.save: Callable[[Lease, str], None] = lambda lease, state: None
        self.progress: Callable[[Attempt, Progress], None] = lambda attempt, progress: None
        self._tracing, self.settled = tracing, tracing.settled
        self._emit = emit
        self.wants = wants
        self._tells_success = wants(JobFinished, Kind.SUCCEEDED.value)
        self._stood_still = stood_still
        self._stopping = lambda lease: stopping() or (lease is not None and self.cancelled(lease))
        self._costs = costs and hasattr(resource, "RUSAGE_THREAD")  # Linux
        self._clock, self._monotonic = clock, monotonic
        # It ends well before the hard timeout of an attempt that ended at its soft one.
        patience = min(PATIENCE, options.kill_after / 2)
        self._hook = FailureHook(app, emit, patience=patience, swallows=swallows)
        self._around = Around.of(app)
        self.batches = self._batches()

    def _batches(self) -> Batches | None:
        """Return the groups of a batch handler, and have the runs join them; the hooks are open around a batch then."""
        if self.handler.batching is None:
            return None
        found = Batches(
            self._method, self.handler.batching, tracing=self._tracing, around=self._around, check=self._check,
            awaitable=self._awaitable,
        )  # fmt: skip
        self._method, self._around = found.ajoin if self.handler.is_async else found.join, None
        return found

    def attempt(self, lease: Lease) -> Attempt:
        """Return the run that is about to start, or the earlier one that must be charged. Its ids go into the run
        record."""
        if lease.previous is not None:
            return attempt_elsewhere(lease, lease.previous, of_job(self.options, lease), self._tracing)
        now, options = self._clock(), of_job(self.options, lease)
        return Attempt(lease, options, now, self._tracing.identify(lease, now), max(0.0, now - lease.eligible_at))

    def run(self, attempt: Attempt, *, call: Callable[..., Any] = _call) -> Outcome:
        """Run a sync handler. `call(method, *arguments)` calls it; the worker passes a function that arms the soft
        timeout.

        The run has its own context, as an async run has through its task: what a handler binds to it ends with the job.
        """
        if attempt.lease.previous is not None:
            self._hook.tell(*self._charge_elsewhere(attempt))
            return attempt.ended
        attempt.own_context = True
        if self._costs:
            call = partial(self._measured, attempt, call)
        return copy_context().run(self._run, attempt, call)

    def _measured(self, attempt: Attempt, call: Callable[..., Any], *arguments: Any) -> Any:
        """Call the handler, and measure what its thread uses meanwhile."""
        before = resource.getrusage(resource.RUSAGE_THREAD)
        try:
            return call(*arguments)
        finally:
            after = resource.getrusage(resource.RUSAGE_THREAD)
            spent = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
            attempt.cost = max(0.0, spent), max(0, after.ru_maxrss - before.ru_maxrss) * 1024

    def _run(self, attempt: Attempt, call: Callable[..., Any]) -> Outcome:
        started = attempt.began or self._monotonic()
        entered = self._tracing.enter(attempt)
        try:
            context = self._context(attempt, started) if self.handler.takes_context else None
            try:
                lease, read, method = attempt.lease, self._read, self._method
                payload = dead_letter_of(lease) if read is None else read(lease.job)
                if self._around is not None:
                    method = self._around.plain(method, self._check, lease, payload)
                result = call(method, payload) if context is None else call(method, payload, context)
                if result is not None:
                    self._check(result)
                if context is not None and self.engine.completing(lease):
                    self._confirm(lease)
            except BaseException as error:
                duration = self._monotonic() - started
                failure = self._decided(attempt, error, self._stands(attempt.lease)).failure
                if failure is not None:
                    self._hook.tell(failure, context or self._context(attempt, started))
            else:
                duration = self._monotonic() - started
                attempt.outcome = ARCHIVED if attempt.lease.is_dead_letter else SUCCEEDED
            return self._finish(attempt, duration)
        finally:
            self._tracing.leave(attempt, entered)

    async def run_async(self, attempt: Attempt, *, call: Callable[[Awaitable[Any]], Awaitable[Any]]) -> Outcome:
        """Run an async handler. `call` awaits its coroutine; the worker passes one that enforces the soft timeout and
        turns the cancellation that it caused into JobInterrupted."""
        if attempt.lease.previous is not None:
            await self._hook.atell(*self._charge_elsewhere(attempt))
            return attempt.ended
        started = attempt.began or self._monotonic()
        entered = self._tracing.enter(attempt)
        try:
            context = self._context(attempt, started) if self.handler.takes_context else None
            try:
                lease, read, method = attempt.lease, self._read, self._method
                payload = dead_letter_of(lease) if read is None else read(lease.job)
                if self._around is not None:
                    method = self._around.awaited(method, self._awaitable, lease, payload)
                made = method(payload) if context is None else method(payload, context)
                if (result := await call(self._awaitable(made))) is not None:
                    self._check(result)
                if context is not None and self.engine.completing(lease):
                    await asyncio.to_thread(self._confirm, lease)
            except BaseException as error:
                duration = self._monotonic() - started
                stands = self.engine.completing(attempt.lease)
                if stands:
                    stands = await asyncio.to_thread(self._stands, attempt.lease)
                failure = self._decided(attempt, error, stands).failure
                if failure is not None:
                    await self._hook.atell(failure, context or self._context(attempt, started))
            else:
                duration = self._monotonic() - started
                attempt.outcome = ARCHIVED if attempt.lease.is_dead_letter else SUCCEEDED
            return self._finish(attempt, duration)
        finally:
            self._tracing.leave(attempt, entered)

    def _charge_elsewhere(self, attempt: Attempt) -> tuple[Failure, Context]:
        """Charge a run whose machine is gone, as a rescuer does: the ledger first, then telemetry. Return what to tell
        the service."""
        assert attempt.lease.previous is not None
        attempt.outcome, failure, event = charged(attempt, attempt.lease.previous, self._clock())
        self.record(attempt.lease, attempt.outcome, resolved=True)
        self._emit(event)
        return failure, self._context(attempt, self._monotonic())

    def _check(self, result: object) -> None:
        """Raise TypeError if the handler returned unfinished work: it has only begun, or has not run at all."""
        if why := undone(result):
            dismiss(result)
            raise TypeError(f"{self._where()} returned {why}")

    def _awaitable(self, made: Any) -> Awaitable[Any]:
        """Return what an async handler's call returned. Raises TypeError: it cannot be awaited."""
        if type(made) is CoroutineType:  # the usual case
            return made
        what = unfinished(made)
        if what and not what.endswith("generator"):
            return made  # type: ignore[no-any-return]
        dismiss(made)
        what = what or f"{type(made).__qualname__}"
        raise TypeError(f"{self._where()} is declared async, but its call returned {what}, which cannot be awaited")

    def _where(self) -> str:
        return f"{self.handler.location}: {type(self.app).__name__}.{self.handler.name}"

    def report_loss(self, lease: Lease, failure: Failure) -> None:
        """Call the service's `on_failure` for an attempt whose process died. No lifespan is open here."""
        attempt = Attempt(lease, of_job(self.options, lease), failure.started_at)
        self._hook.tell(failure, self._context(attempt, self._monotonic()))

    def _context(self, attempt: Attempt, started: float) -> Context:
        lease, timeout = attempt.lease, attempt.options.timeout
        scheduled = lease.job.scheduled_for
        return Context(
            job_id=lease.job.id,
            queue=lease.queue,
            attempt=lease.attempt,
            max_attempts=attempt.options.retry.max_attempts,
            enqueued_at=datetime.fromtimestamp(lease.job.enqueued_at, UTC),
            scheduled_for=None if scheduled is None else datetime.fromtimestamp(scheduled, UTC),
            log=self._tracing.logger(attempt),
            _deadline=None if timeout is None else started + timeout - self._stood_still(),
            _stopping=self._stopping,
            _clock=self._own_time,
            _engine=self.engine,
            _attempt=attempt,
            _host=self,
        )

    def _own_time(self) -> float:
        """Return the seconds of the tree's own time. The time left for a handler does not shrink while the tree stands
        still."""
        return self._monotonic() - self._stood_still()

    def _confirm(self, lease: Lease) -> None:
        """Raise EngineError if the handler has completed its job in a transaction that it has not committed."""
        if not self.engine.completed(lease):
            raise EngineError(
                f"{self._where()} completed its job in a transaction that is not committed: commit it before the "
                "handler returns"
            )

    def _stands(self, lease: Lease) -> bool:
        """Return whether the job was completed in a transaction that has committed. If that cannot be known, the
        attempt counts as failed: its settlement finds a job that is gone, and changes nothing."""
        try:
            return self.engine.completing(lease) and self.engine.completed(lease)
        except Exception:
            return False

    def _decided(self, attempt: Attempt, error: BaseException, stands: bool) -> Outcome:
        attempt.error = error
        if stands:  # the job is gone, with what its handler has committed
            log.warning("%s failed after its job was completed: %s", self._where(), error_type(error))
            attempt.outcome = ARCHIVED if attempt.lease.is_dead_letter else SUCCEEDED
            return attempt.outcome
        try:
            attempt.outcome = outcome = self.decide(attempt, error)
            if self.guard is not None and outcome.failure is not None:
                attempt.outcome = outcome = self.guard.failed(attempt.lease, error, outcome)
        except BaseException:  # an attribute of the exception, or a class of `give_up_on`, raised in turn
            attempt.outcome = outcome = fail(failed(attempt, error, self._clock()), attempt.options.retry)
        return outcome

    def _finish(self, attempt: Attempt, duration: float) -> Outcome:
        outcome = attempt.outcome
        assert outcome is not None
        if self.guard is not None and (outcome is SUCCEEDED or outcome is ARCHIVED):
            self.guard.succeeded(attempt.lease)
        self.record(attempt.lease, outcome)
        attempt.duration = duration
        if self._tells_success or outcome is not SUCCEEDED:
            self._emit(finished(attempt, outcome, duration))
        if attempt.cost is not None:
            self._emit(JobCost(attempt.lease, *attempt.cost))
        return outcome

    def decide(self, attempt: Attempt, error: BaseException) -> Outcome:
        """Return the outcome of a run that ended by an exception."""
        policy = attempt.options.retry
        kind: Any = type(error)  # isinstance() would ask the exception's own __class__
        ended: Any = error
        if issubclass(kind, JobInterrupted) and ended.why == "lease_lost":
            return Outcome(Kind.LEASE_LOST)
        if issubclass(kind, Discard):
            return Outcome(Kind.DISCARDED, message=describe(error)[0])
        if self.cancelled(attempt.lease) or (issubclass(kind, JobInterrupted) and ended.why == "cancelled"):
            return CANCELLED
        if issubclass(kind, UndecodablePayload):
            put_back = self._grace(attempt.lease.job, str(error), attempt.started_at)
            if put_back is not None:
                return put_back
        if issubclass(kind, Snooze):
            return Outcome(Kind.RELEASED, delay=_seconds(ended.delay))
        if issubclass(kind, Disturbed) or (issubclass(kind, JobInterrupted) and ended.why == "draining"):
            return Outcome(Kind.RELEASED)
        failure = failed(attempt, error, self._clock())
        if issubclass(kind, RetryLater):
            delay = None if ended.delay is None else _seconds(ended.delay)
            return later(attempt.lease, failure, policy, delay=delay, spend=ended.spend)
        final = issubclass(kind, (Reject, UndecodablePayload, *policy.give_up_on))
        return fail(failure, policy, final=final)


def _seconds(delay: Any) -> float:
    """Return a delay as a float; a subclass may have set it. Raises ValueError: it is negative, infinite or not a
    number."""
    found = float(delay)
    if not 0 <= found < inf:
        raise ValueError(f"a delay of {found} s")
    return found


def dead_letter_of(lease: Lease) -> DeadLetter:
    """Return a dead letter as its handler sees it."""
    job = lease.job
    return DeadLetter(
        job_id=job.id,
        queue=job.queue,
        payload=parse_lenient(job.payload),
        reason=job.history[-1].reason if job.history else "error",
        attempts=tuple(job.history),
    )
