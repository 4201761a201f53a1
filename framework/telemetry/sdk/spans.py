"""The `process` span: one per attempt, whatever its outcome, and one for an attempt whose process was killed."""

from __future__ import annotations

import logging
import sys
from typing import Any

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.sampling import Decision, SamplingResult
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer

from framework.model.attempt import Attempt, SpanIdentity
from framework.model.events import AttemptLost
from framework.model.exceptions import error_type
from framework.model.job import Lease, span_id_of, trace_id_of
from framework.model.jobscope import running
from framework.model.outcome import Outcome
from framework.telemetry import names
from framework.telemetry.linkage import Linkage, is_child, links_of, origin_of
from framework.telemetry.logs.lines import LogTracing
from framework.telemetry.logs.logs import Logs
from framework.telemetry.sdk.guarded import guarded
from framework.telemetry.sdk.planning import PlannedSpan, following, plannable

log = logging.getLogger("framework.telemetry")


class SpanTracing(LogTracing):
    """Tracing with the SDK.

    Args:
        tracer: the framework's tracer. One that is not the SDK's cannot be given ids: its spans have ids of their own,
            the run record has none, and killed attempts get no span.
        system: `messaging.system`.
        linkage, parent_within: as in Settings (trace_linkage, trace_parent_within).
    """

    def __init__(self, tracer: Tracer, logs: Logs, *, system: str, linkage: Linkage, parent_within: float) -> None:
        super().__init__(logs)
        self.tracer = tracer
        self._planner = plannable(tracer)
        self._system = system
        self._linkage: Linkage = linkage
        self._parent_within = parent_within

    def identify(self, lease: Lease, started_at: float) -> SpanIdentity:
        if self._planner is None:
            return SpanIdentity()
        try:
            return self._plan(lease, started_at)
        except Exception:  # the service's propagator or sampler failed: the job must not be lost with it
            log.exception("no span could be planned for job %s", lease.job.id)
            return SpanIdentity()

    def enter(self, attempt: Attempt) -> Any:
        entered = AttemptSpan(self, attempt)
        entered.enter()
        return entered

    def leave(self, attempt: Attempt, entered: Any) -> None:
        entered.leave(sys.exc_info()[1])

    def lost(self, event: AttemptLost) -> Context | None:
        """Emit the span that the killed process could not, and return its context for exemplars; None = not sampled."""
        run = event.run
        if self._planner is None or not (run.sampled and run.trace_id and run.span_id):
            return None
        plan = self._plan_of_dead(event)
        attributes = self.attributes(event.lease, run.started_at) | {
            names.ATTEMPT: run.attempt,
            names.MAX_ATTEMPTS: event.max_attempts,
            names.OUTCOME: event.how,
        }
        started = int(run.started_at * 1e9)
        span = self.start(event.lease, plan, attributes, start_time=started)
        if event.failed:
            span.set_status(Status(StatusCode.ERROR, event.message or event.failed))
            span.set_attribute(names.ERROR_TYPE, event.failed)
        span.end(max(started, int(event.ended_at * 1e9)))
        return trace.set_span_in_context(span, Context())

    def attributes(self, lease: Lease, started_at: float) -> dict[str, Any]:
        """Return the attributes that are known when an attempt starts."""
        return {
            names.OPERATION: "process",
            names.OPERATION_TYPE: "process",
            names.SYSTEM: self._system,
            names.DESTINATION: lease.queue,
            # A lone surrogate would make the export of a whole batch fail.
            names.MESSAGE_ID: lease.job.id.encode("utf-8", "replace").decode(),
            names.ATTEMPT: lease.attempt,
            names.QUEUE_WAIT: max(0.0, started_at - lease.eligible_at),
            names.REDELIVERED: lease.delivery > 1,
        }

    def start(self, lease: Lease, plan: PlannedSpan, attributes: dict[str, Any], start_time: int | None = None) -> Span:
        """Start the span, with the ids of its plan if it has any."""
        arguments = (f"process {lease.queue}", plan.context, SpanKind.CONSUMER, attributes, plan.links, start_time)
        if not plan.span_id:
            return self.tracer.start_span(*arguments)
        with following(plan):
            return self.tracer.start_span(*arguments)

    def unplanned(self, lease: Lease) -> PlannedSpan:
        """Return a plan with parent, baggage and links; the provider makes the ids."""
        origin = origin_of(lease)
        return PlannedSpan(context=origin.context, links=links_of(lease, origin))

    def _plan(self, lease: Lease, started_at: float) -> PlannedSpan:
        assert self._planner is not None
        origin = origin_of(lease)
        age = started_at - lease.job.enqueued_at
        if is_child(origin, self._linkage, age=age, parent_within=self._parent_within):
            context, trace_id = origin.context, f"{origin.creation.trace_id:032x}"
        else:
            context, trace_id = origin.root_context(), trace_id_of(lease.job.uid, lease.delivery)
        links = links_of(lease, origin)
        asked = self._planner.sampler.should_sample(
            context,
            int(trace_id, 16),
            f"process {lease.queue}",
            SpanKind.CONSUMER,
            self.attributes(lease, started_at),
            links,
        )
        span_id = span_id_of(lease.job.uid, lease.delivery)
        sampled = asked.decision is Decision.RECORD_AND_SAMPLE
        return PlannedSpan(trace_id, span_id, sampled, context, links, asked)

    def _plan_of_dead(self, event: AttemptLost) -> PlannedSpan:
        """Return the plan for a killed attempt, with the ids and the sampling decision of its run record.

        The trace id shows whether the span is a child or a root, so changed settings cannot break the trace.
        """
        run, origin = event.run, origin_of(event.lease)
        child = origin.creation.is_valid and f"{origin.creation.trace_id:032x}" == run.trace_id
        context = origin.context if child else origin.root_context()
        state = origin.creation.trace_state if child else None
        decided = SamplingResult(Decision.RECORD_AND_SAMPLE, None, state)
        return PlannedSpan(run.trace_id, run.span_id, True, context, links_of(event.lease, origin), decided)


class AttemptSpan:
    """The span around one handler. Entering sets context and job; leaving always restores the previous ones."""

    __slots__ = ("_attempt", "_job", "_span", "_token", "_tracing")

    def __init__(self, tracing: SpanTracing, attempt: Attempt) -> None:
        self._tracing = tracing
        self._attempt = attempt
        self._span: Span = trace.INVALID_SPAN
        self._token: Any = None

    def enter(self) -> None:
        self._job = running.set(self._attempt.lease)
        attempt, tracing = self._attempt, self._tracing
        context = Context()
        try:
            known = attempt.identity
            plan = known if isinstance(known, PlannedSpan) else tracing.unplanned(attempt.lease)
            context = plan.context
            attributes = tracing.attributes(attempt.lease, attempt.started_at)
            attributes[names.MAX_ATTEMPTS] = attempt.options.retry.max_attempts
            span = tracing.start(attempt.lease, plan, attributes, int(attempt.started_at * 1e9))
            self._span = guarded(span) if isinstance(span, ReadableSpan) else span
            if not plan.span_id:
                attempt.identity = identity_of(self._span)
        except Exception:  # an exporter or a sampler failed: the job runs without a span
            log.exception("no span could be started for job %s", attempt.lease.job.id)
        # Never on top of the current context: anything that leaked into it would reach this handler.
        self._token = otel_context.attach(trace.set_span_in_context(self._span, context))

    def leave(self, error: BaseException | None) -> None:
        try:
            if self._span.is_recording():
                finish(self._span, self._attempt.outcome, error)
            self._span.end()
        except Exception:
            log.exception("the span of job %s could not be ended", self._attempt.lease.job.id)
        finally:
            otel_context.detach(self._token)
            running.reset(self._job)


def identity_of(span: Span) -> SpanIdentity:
    """Return the ids that a span of a foreign provider gave itself."""
    found = span.get_span_context()
    if not found.is_valid:
        return SpanIdentity()
    return SpanIdentity(f"{found.trace_id:032x}", f"{found.span_id:016x}", found.trace_flags.sampled)


def finish(span: Span, outcome: Outcome | None, error: BaseException | None) -> None:
    """Set outcome, status and error. A failed run is an error even if it will be retried.

    A run that was released, discarded or archived is not an error.
    """
    if outcome is not None:
        span.set_attribute(names.OUTCOME, outcome.kind.value)
        if outcome.message:
            span.set_attribute(names.DISCARD_REASON, outcome.message)
    failure = outcome.failure if outcome is not None else None
    if failure is not None:
        span.set_attribute(names.ERROR_TYPE, failure.error_type or failure.reason)
        span.set_status(Status(StatusCode.ERROR, failure.message))
        exception = {
            names.EXCEPTION_TYPE: failure.error_type or failure.reason,
            names.EXCEPTION_MESSAGE: failure.message,
            names.EXCEPTION_STACKTRACE: failure.traceback,
        }
        span.add_event("exception", exception)
    elif outcome is None and error is not None:  # the executor itself failed
        span.set_attribute(names.ERROR_TYPE, error_type(error))
        span.set_status(Status(StatusCode.ERROR))
