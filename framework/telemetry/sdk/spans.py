"""The `process` span: one per attempt, whatever its outcome, and one for an attempt whose process was killed."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer

from framework.model.attempt import Attempt, SpanIdentity
from framework.model.events import AttemptLost
from framework.model.job import Lease, running
from framework.model.text.exceptions import error_type
from framework.telemetry import names
from framework.telemetry.attempts import End, Linkage, Planner, as_numbers, of_queue
from framework.telemetry.logs.exceptions import ExceptionRecords
from framework.telemetry.logs.lines import LogTracing
from framework.telemetry.logs.logs import Logs
from framework.telemetry.sdk.batches import batch_span
from framework.telemetry.sdk.guarded import guarded
from framework.telemetry.sdk.planning import PlannedSpan, following, plannable
from framework.telemetry.sdk.rescued import tracer_of

log = logging.getLogger("framework.telemetry")


class SpanTracing(LogTracing):
    """Tracing with the SDK.

    Args:
        tracer: the framework's tracer. One that is not the SDK's cannot be given ids: its spans have ids of their own,
            the run record has none, and killed attempts get no span.
        system: `messaging.system.name`.
        linkage, parent_within: as in Settings (trace_linkage, trace_parent_within).
        exceptions: writes exceptions as log records, if that is asked for.
    """

    def __init__(
        self,
        tracer: Tracer,
        logs: Logs | None,
        *,
        system: str,
        linkage: Linkage,
        parent_within: float,
        exceptions: ExceptionRecords | None = None,
    ) -> None:
        super().__init__(logs)
        self._exceptions = exceptions or ExceptionRecords()
        self.tracer = tracer
        self._plannable = plannable(tracer)
        self._planner = Planner(linkage, parent_within)
        self._system = system

    def identify(self, lease: Lease, started_at: float) -> SpanIdentity:
        if self._plannable is None:
            return SpanIdentity()
        found: Any  # it has the attributes of a SpanIdentity
        try:
            found = self._plan(lease, started_at, self._plannable.sampler)
        except Exception:  # the service's propagator or sampler failed: the job must not be lost with it
            log.exception("no span could be planned for job %s", lease.job.id)
            found = SpanIdentity()
        return found  # type: ignore[no-any-return]

    def enter(self, attempt: Attempt) -> Any:
        """Start the span and set context and job; `leave` always restores the previous ones."""
        job, context = running.set(attempt.lease), Context()
        span: Span = trace.INVALID_SPAN
        try:
            known: Any = attempt.identity
            lease, started = attempt.lease, attempt.started_at
            plan = known if isinstance(known, PlannedSpan) else self.unplanned(lease, started)
            context = plan.context_of_parent()
            most = attempt.options.retry.max_attempts
            span = self.start(lease, plan, begun(lease, started), most, int(started * 1e9))
            if isinstance(span, ReadableSpan):
                span = guarded(span)
            if plan.sampling is None:
                attempt.identity = identity_of(span)
        except Exception:  # an exporter or a sampler failed: the job runs without a span
            log.exception("no span could be started for job %s", attempt.lease.job.id)
        # Never on top of the current context: anything that leaked into it would reach this handler.
        return span, otel_context.attach(trace.set_span_in_context(span, context)), job

    def leave(self, attempt: Attempt, entered: Any) -> None:
        (span, token, job), outcome, error = entered, attempt.outcome, sys.exc_info()[1]
        try:
            if outcome is not None and (span.is_recording() or outcome.failure is not None):
                self._finish(span, End.of(outcome, attempt.lease, attempt.wait, 0, attempt.cost))
            elif span.is_recording() and error is not None:  # the executor itself failed
                span.set_attribute(names.ERROR_TYPE, error_type(error))
                span.set_status(Status(StatusCode.ERROR))
            span.end()
        except Exception:
            log.exception("the span of job %s could not be ended", attempt.lease.job.id)
        finally:
            otel_context.detach(token)
            running.reset(job)

    def batch(self, attempts: Sequence[Attempt]) -> AbstractContextManager[object]:
        return batch_span(self._system, attempts)

    def lost(self, event: AttemptLost) -> Context | None:
        """Emit the span that the killed process could not, and return its context for exemplars; None = not sampled."""
        run, end = event.run, End.of_lost(event)
        if self._plannable is None or not (run.sampled and run.trace_id and run.span_id):
            return None
        plan = PlannedSpan()
        self._planner.relate_lost(plan, event.lease, run)
        plan.sampling = SamplingResult(Decision.RECORD_AND_SAMPLE, None, plan.state if plan.parent else None)
        started = int(run.started_at * 1e9)
        tracer = tracer_of(self._plannable, event.about)
        span = self.start(event.lease, plan, end, event.max_attempts, started, tracer)
        self._finish(span, end)
        span.end(max(started, end.end))
        return trace.set_span_in_context(span, Context())

    def _finish(self, span: Span, end: End) -> None:
        """Set outcome, status and error, and write the exception where it is wanted."""
        for key, value in end.known_at_end().items():
            span.set_attribute(key, value)
        if end.failed:
            span.set_status(Status(StatusCode.ERROR, end.message))
        exception = end.exception()
        if exception is not None and self._exceptions.on_span:
            span.add_event("exception", exception)
        self._exceptions.emit(end, span.get_span_context())
        box = end.black_box()
        if box is not None:
            span.add_event(names.BLACK_BOX, box, end.end)

    def attributes(self, lease: Lease, known: End, most: int | None = None) -> dict[str, Any]:
        """Return the attributes that are known when an attempt starts."""
        return of_queue(self._system, lease.queue, most) | known.known_at_start()

    def start(
        self, lease: Lease, plan: PlannedSpan, known: End, most: int, started: int, tracer: Tracer | None = None
    ) -> Span:
        """Start the span, with the ids of its plan if it has any. `tracer`: another one than ours."""
        attributes = self.attributes(lease, known, most)
        with following(plan):
            return (tracer or self.tracer).start_span(
                f"process {lease.queue}", plan.context_of_parent(), SpanKind.CONSUMER, attributes, plan.links(), started
            )

    def unplanned(self, lease: Lease, started_at: float) -> PlannedSpan:
        """Return a plan with parent, baggage and links; the provider makes the ids."""
        plan = PlannedSpan()
        self._planner.relate(plan, lease, started_at)
        plan.parent = plan.creation[16:] if plan.creation is not None else b""
        return plan

    def _plan(self, lease: Lease, started_at: float, sampler: Sampler) -> PlannedSpan:
        plan = PlannedSpan()
        self._planner.relate(plan, lease, started_at)
        plan.sampling = sampler.should_sample(
            plan.context_of_parent(),
            as_numbers(plan.ids)[0],
            f"process {lease.queue}",
            SpanKind.CONSUMER,
            self.attributes(lease, begun(lease, started_at)),
            plan.links(),
        )
        plan.sampled = plan.sampling.decision is Decision.RECORD_AND_SAMPLE
        return plan


def begun(lease: Lease, started_at: float) -> End:
    """Return the facts of an attempt that starts."""
    return End(lease.job.id, lease.attempt, lease.delivery > 1, max(0.0, started_at - lease.eligible_at))


def identity_of(span: Span) -> SpanIdentity:
    """Return the ids that a span of a foreign provider gave itself."""
    found = span.get_span_context()
    if not found.is_valid:
        return SpanIdentity()
    return SpanIdentity(f"{found.trace_id:032x}", f"{found.span_id:016x}", found.trace_flags.sampled)
