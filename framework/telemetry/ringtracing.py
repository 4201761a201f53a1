"""Process spans and the counts of attempts, put into the slot's ring. What handlers make stays with the SDK."""

from __future__ import annotations

import logging
import re
import struct
import time
from contextlib import AbstractContextManager
from math import inf
from typing import Any, Final, Protocol

from opentelemetry import context as otel_context
from opentelemetry import propagate, trace
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.sdk.trace import SpanLimits
from opentelemetry.sdk.trace.sampling import DEFAULT_ON, Decision, Sampler
from opentelemetry.trace import SpanKind
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from framework import events as e
from framework.executor import Attempt, SpanIdentity
from framework.job import Lease, RunRecord, span_id_of, trace_id_of
from framework.jobscope import running
from framework.outcome import SUCCEEDED, Outcome
from framework.telemetry import records
from framework.telemetry.encode import Encoder, End
from framework.telemetry.facts import CHILD, LINKED, NO_SPAN, NO_TRACE, REDELIVERED, packer
from framework.telemetry.linkage import Linkage, origin_of
from framework.telemetry.logonly import LogOnlyTracing
from framework.telemetry.logs import Logs
from framework.telemetry.records import FACTS, SAMPLED
from framework.telemetry.ringspan import RingSpan
from framework.telemetry.ringwriter import RingWriter

log = logging.getLogger("framework.telemetry")

# Version 00 first, which has nothing behind its flags; any later one may, but ff is forbidden.
_TRACEPARENT: Final = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
_LATER: Final = re.compile(r"(?!ff|00)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?")
_NO_TRACE, _NO_SPAN = "0" * 32, "0" * 16
_EMPTY = Context()
# Under which a context keeps its current span.
_SPAN_KEY: Final = next(iter(trace.set_span_in_context(trace.INVALID_SPAN, _EMPTY)))


class InnerMetrics(Protocol):
    """What the SDK goes on measuring in this process."""

    def on(self, event: e.Event, context: Context | None = None) -> None: ...


class RingTracing(LogOnlyTracing):
    """Tracing for the executor and metrics for the bus, both into one record per attempt.

    Args:
        ring: this slot's.
        sampler: the SDK's own, from the environment.
        limits: of what handlers add to a span.
        spans: whether spans are wanted; counts are in any case.
        inner: takes the events that make no record.
        system, linkage, parent_within: as for SpanTracing.
    """

    def __init__(
        self,
        logs: Logs,
        ring: RingWriter,
        *,
        sampler: Sampler,
        limits: SpanLimits,
        spans: bool,
        inner: InnerMetrics,
        system: str,
        linkage: Linkage,
        parent_within: float,
    ) -> None:
        super().__init__(logs)
        self._ring = ring
        self._sampler = sampler
        self._limits = limits
        self._spans = spans
        self._inner = inner
        self._system = system
        # Seconds from enqueue to start up to which a span is a child of the creation.
        self._child_within = {"parent": inf, "auto": parent_within, "link": -inf}[linkage]
        self._encoders: dict[str, Encoder] = {}
        self._keys: dict[tuple[str, ...], bytes] = {}
        few = limits.max_span_attributes is not None and limits.max_span_attributes < 16
        self._plain = limits.max_attribute_length is None and not few
        # Read once: a propagator that somebody sets later is met by jobs with baggage or tracestate only.
        self._direct = _is_standard(propagate.get_global_textmap())

    # --- the executor's side ----------------------------------------------------------------------------------------

    def identify(self, lease: Lease, started_at: float) -> SpanIdentity:
        found: Any  # has what a SpanIdentity has
        try:
            found = self.span_of(lease, started_at)
        except Exception:  # a propagator or sampler of the service's own: its fault must not cost the job
            log.exception("no span could be planned for job %s", lease.job.id)
            trace_id = trace_id_of(lease.job.uid, lease.delivery)
            span_id = span_id_of(lease.job.uid, lease.delivery)
            found = RingSpan(trace_id, span_id, False, "", int(started_at * 1e9), self._limits)
        return found  # type: ignore[no-any-return]

    def attempt(self, attempt: Attempt) -> AbstractContextManager[object]:
        span: object = attempt.identity
        return RingAttempt(
            self, attempt, span if isinstance(span, RingSpan) else self.span_of(attempt.lease, attempt.started_at)
        )

    def span_of(self, lease: Lease, started_at: float) -> RingSpan:
        """The span that an attempt will have."""
        job, started = lease.job, int(started_at * 1e9)
        creation, flags, context = self._creation(lease)
        span_id = span_id_of(job.uid, lease.delivery)
        child = creation is not None and started_at - job.enqueued_at <= self._child_within
        if child and creation is not None:
            span = RingSpan(creation[0], span_id, flags & 1 == 1, creation[1], started, self._limits)
        else:
            span = RingSpan(trace_id_of(job.uid, lease.delivery), span_id, True, "", started, self._limits)
        span.creation = creation
        if job.history:
            last = job.history[-1]
            if len(last.trace_id) == 32 and len(last.span_id) == 16:
                span.previous = (last.trace_id, last.span_id)
        if context is not None:
            span.context = context
            span.state = trace.get_current_span(context).get_span_context().trace_state if child else None
            if not child:
                span.context = trace.set_span_in_context(trace.INVALID_SPAN, context)
        if self._sampler is not DEFAULT_ON:
            span.sampled = self._asked(span, lease, child, flags)
        return span

    def _creation(self, lease: Lease) -> tuple[tuple[str, str] | None, int, Context | None]:
        """(ids of what made the job, its flags, what else came along); the last is None where nothing did."""
        headers = lease.job.headers
        if self._direct and "tracestate" not in headers and "baggage" not in headers:
            header = headers.get("traceparent")
            if not header:
                return None, 0, None
            found = _TRACEPARENT.fullmatch(header) or _LATER.fullmatch(header)
            if found is None:
                return None, 0, None
            trace_id, span_id, flags = found.groups()
            if trace_id == _NO_TRACE or span_id == _NO_SPAN:
                return None, 0, None
            return (trace_id, span_id), int(flags, 16), None
        origin = origin_of(lease)
        made = origin.creation
        ids = (f"{made.trace_id:032x}", f"{made.span_id:016x}") if made.is_valid else None
        return ids, int(made.trace_flags), origin.context

    def _asked(self, span: RingSpan, lease: Lease, child: bool, flags: int) -> bool:
        """The answer of a sampler that is not the default one; it is asked once."""
        context = span.context or _EMPTY
        if child and span.creation is not None and span.context is None:
            made = trace.SpanContext(
                int(span.creation[0], 16), int(span.creation[1], 16), True, trace.TraceFlags(flags)
            )
            context = trace.set_span_in_context(trace.NonRecordingSpan(made), context)
        decided = self._sampler.should_sample(
            context, int(span.trace_id, 16), f"process {lease.queue}", SpanKind.CONSUMER, None, ()
        )
        return decided.decision is Decision.RECORD_AND_SAMPLE

    # --- records ----------------------------------------------------------------------------------------------------

    def on(self, event: e.Event, context: Context | None = None) -> None:
        """A Bus subscriber. An attempt is put at the end of its span, a moment later."""
        match event:
            case e.JobFinished():
                pass
            case e.JobsSettled():
                self.settled(event.queue, event.verb, event.duration)
            case e.JobsClaimed():
                key = self._operation_key(event.queue, "receive", "receive")
                self._ring.operation(key, event.duration, event.count)
            case e.JobsExpired():
                self._ring.expired(records.operation_key(event.queue, "expired", "expired"), event.count)
            case e.AttemptLost():
                self._put_lost(event)
            case _:
                self._inner.on(event, context)

    def _operation_key(self, queue: str, operation: str, kind: str) -> bytes:
        key = self._keys.get((queue, operation))
        if key is None:
            key = self._keys[queue, operation] = records.operation_key(queue, operation, kind)
        return key

    def settled(self, queue: str, verb: str, seconds: float) -> bool:
        self._ring.settled(self._keys.get((queue, verb)) or self._operation_key(queue, verb, "settle"), seconds)
        return True

    def put(self, attempt: Attempt, span: RingSpan) -> None:
        """The attempt's record, before its outcome is reported to the engine or settled. One that has no duration gets
        none: the executor itself broke, and whoever rescues the job will tell."""
        outcome, duration = attempt.outcome, attempt.duration
        if outcome is None or duration is None:
            return
        span.ended = True
        plain = span.extras is None and span.context is None and span.previous is None and self._plain
        if outcome is SUCCEEDED and plain:
            try:
                self._ring.success(self._facts(attempt, span, duration))
                return
            except struct.error:  # a number that is too large for its place
                pass
        self._put_encoded(attempt, span, outcome, duration)

    def _facts(self, attempt: Attempt, span: RingSpan, duration: float) -> bytes:
        """Of a success to which nothing was added: the exporter makes its span. Raises struct.error."""
        lease, creation = attempt.lease, span.creation
        trace_id, made_trace, made_by = bytes.fromhex(span.trace_id), NO_TRACE, NO_SPAN
        flags = SAMPLED if span.sampled and self._spans else 0
        if creation is not None:
            made_by = bytes.fromhex(creation[1])
            if span.parent:
                flags |= LINKED | CHILD
                made_trace = trace_id
            else:
                flags |= LINKED
                made_trace = bytes.fromhex(creation[0])
        if lease.delivery > 1:
            flags |= REDELIVERED
        queue, job_id = lease.queue.encode(), lease.job.id.encode("utf-8", "replace")
        size, pack = packer(len(queue), len(job_id))
        return pack(
            size, FACTS, flags, len(queue), self._ring.pid, len(job_id), duration, attempt.wait, time.time_ns(),
            trace_id, bytes.fromhex(span.span_id), span.started, made_trace, made_by, lease.attempt,
            attempt.options.retry.max_attempts, queue, job_id, size,
        )  # fmt: skip

    def _put_encoded(self, attempt: Attempt, span: RingSpan, outcome: Outcome, duration: float) -> None:
        lease, failure, kind = attempt.lease, outcome.failure, outcome.kind.value
        encoded = b""
        if span.sampled and self._spans:
            encoder = self._encoder(lease.queue, attempt.options.retry.max_attempts)
            encoded = self._encoded(encoder, span, End.of(outcome, lease, attempt.wait, time.time_ns()))
        reason = "" if failure is None else failure.reason
        failed = reason if failure is None else failure.error_type or reason
        known = (lease.queue, kind, kind, failed, reason)
        key = self._keys.get(known) or self._key(*known)
        trace_id, span_id = bytes.fromhex(span.trace_id), bytes.fromhex(span.span_id)
        self._ring.attempt(key, duration, attempt.wait, trace_id, span_id, encoded)

    def _put_lost(self, event: e.AttemptLost) -> None:
        """The record that the killed process could not put."""
        run, lease = event.run, event.lease
        reason = event.reason or ""
        wait = max(0.0, run.started_at - lease.eligible_at)
        encoded = b""
        if run.sampled and self._spans and run.trace_id and run.span_id:
            span = self._span_of_dead(lease, run)
            end = End(
                lease.job.id,
                run.attempt,
                lease.delivery > 1,
                wait,
                event.how,
                int(event.ended_at * 1e9),
                event.failed,
                event.message or reason,
                event.traceback if event.ended else None,
            )
            encoded = self._encoded(self._encoder(lease.queue, event.max_attempts), span, end)
        key = self._key(lease.queue, event.how, event.outcome, event.failed, reason)
        ids = bytes.fromhex(run.trace_id) or bytes(16), bytes.fromhex(run.span_id) or bytes(8)
        self._ring.attempt(key, max(0.0, event.ended_at - run.started_at), wait, *ids, encoded)

    def _span_of_dead(self, lease: Lease, run: RunRecord) -> RingSpan:
        """Ids and decision stand in the run record; parent or root shows in the trace id, so settings that changed
        since cannot tear it apart."""
        span = self.span_of(lease, run.started_at)
        child = span.creation is not None and span.creation[0] == run.trace_id
        parent = span.creation[1] if child and span.creation else ""
        dead = RingSpan(run.trace_id, run.span_id, True, parent, int(run.started_at * 1e9), self._limits)
        dead.creation, dead.previous = span.creation, span.previous
        if child:
            dead.state = origin_of(lease).creation.trace_state
        return dead

    def _key(self, *texts: str) -> bytes:
        key = records.attempt_key(*texts)
        if len(self._keys) < 1000:
            self._keys[texts] = key
        return key

    def _encoder(self, queue: str, max_attempts: int) -> Encoder:
        """Args: max_attempts: the queue's, the same as long as the process lives."""
        encoder = self._encoders.get(queue)
        if encoder is None:
            encoder = self._encoders[queue] = Encoder(queue, self._system, max_attempts)
        return encoder

    def _encoded(self, encoder: Encoder, span: RingSpan, end: End) -> bytes:
        """The span; with less and less of what a handler added, where a record cannot take it: it is never lost."""
        extras = span.extras
        events = list(extras.events) if extras is not None else []
        for step in range(3):
            try:
                if extras is not None:
                    extras.events[:] = events  # without the exception's, which the encoder adds
                    if step == 1:
                        extras.shrink()
                span.extras = extras if step < 2 else None
                encoded = encoder.encode(span, end)
                if len(encoded) < records.MOST_SPAN:
                    return encoded
                log.warning("the span of job %s is too large: it is sent with less", end.message_id)
            except Exception:  # something strange that a handler has set
                log.exception("the span of job %s cannot be encoded: it is sent with less", end.message_id)
        return b""


class RingAttempt:
    """The span around one handler. Context and job are set on entering and put back on leaving, whatever happened, but
    not in a context that ends with the run."""

    __slots__ = ("_attempt", "_job", "_span", "_token", "_tracing")

    def __init__(self, tracing: RingTracing, attempt: Attempt, span: RingSpan) -> None:
        self._tracing = tracing
        self._attempt = attempt
        self._span = span

    def __enter__(self) -> RingSpan:
        span = self._span
        self._job = running.set(self._attempt.lease)
        # Never on top of the ambient context: what leaked into it would reach this handler.
        came = span.context
        self._token = otel_context.attach(
            Context({_SPAN_KEY: span}) if came is None else trace.set_span_in_context(span, came)
        )
        return span

    def __exit__(self, *_: object) -> None:
        try:
            self._tracing.put(self._attempt, self._span)
        except Exception:
            log.exception("the span of job %s could not be kept", self._attempt.lease.job.id)
        finally:
            if not self._attempt.own_context:
                otel_context.detach(self._token)
                running.reset(self._job)


def _is_standard(propagator: object) -> bool:
    """Whether a plain `traceparent` means what the W3C says, and nothing else is looked at without tracestate and
    baggage: true of the SDK's default and of each of its two parts with the first among them."""
    if not isinstance(propagator, CompositePropagator):
        return isinstance(propagator, TraceContextTextMapPropagator)
    parts = getattr(propagator, "_propagators", ())
    kinds = {type(part) for part in parts}
    return TraceContextTextMapPropagator in kinds and kinds <= {TraceContextTextMapPropagator, W3CBaggagePropagator}
