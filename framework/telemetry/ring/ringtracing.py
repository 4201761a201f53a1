"""Process spans and counts of attempts, written into the slot's ring. The SDK handles the spans of handlers."""

from __future__ import annotations

import logging
import re
import struct
import time
from math import inf
from typing import Any, Final

from opentelemetry import context as otel_context
from opentelemetry import propagate, trace
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.sdk.trace import SpanLimits
from opentelemetry.sdk.trace.sampling import DEFAULT_ON, Decision, Sampler
from opentelemetry.trace import SpanKind
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from framework.model import events as e
from framework.model.attempt import Attempt, SpanIdentity
from framework.model.job import NO_IDS, Lease, RunRecord, ids_of, span_bytes, trace_bytes
from framework.model.jobscope import running
from framework.model.outcome import SUCCEEDED, Outcome
from framework.telemetry.instruments import times_of_lost
from framework.telemetry.linkage import Linkage, origin_of
from framework.telemetry.logs.lines import LogTracing
from framework.telemetry.logs.logs import Logs
from framework.telemetry.ring import records
from framework.telemetry.ring.encode import Encoder, End
from framework.telemetry.ring.facts import CHILD, LINKED, NO_SPAN, NO_TRACE, REDELIVERED, packer
from framework.telemetry.ring.records import FACTS, SAMPLED
from framework.telemetry.ring.ringspan import RingSpan, as_numbers
from framework.telemetry.ring.ringwriter import RingWriter

log = logging.getLogger("framework.telemetry")

# Version 00 has nothing after its flags; a later version may have more, and ff is forbidden.
_TRACEPARENT: Final = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
_LATER: Final = re.compile(r"(?!ff|00)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?")
_EMPTY = Context()
# The key under which a context keeps its current span.
_SPAN_KEY: Final = next(iter(trace.set_span_in_context(trace.INVALID_SPAN, _EMPTY)))


class RingTracing(LogTracing):
    """Tracing for the executor and metrics for the Bus, both written as one record per attempt.

    Args:
        ring: the ring of this slot.
        sampler: the SDK's sampler, from the environment.
        limits: limits for what handlers add to a span.
        spans: whether spans are wanted; attempts are always counted.
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
        system: str,
        linkage: Linkage,
        parent_within: float,
    ) -> None:
        super().__init__(logs)
        self._ring = ring
        self._sampler = sampler
        self._limits = limits
        self._spans = spans
        self._system = system
        # The longest time in seconds from enqueue to start at which a span is a child of the creation.
        self._child_within = {"parent": inf, "auto": parent_within, "link": -inf}[linkage]
        self._encoders: dict[str, Encoder] = {}
        self._keys: dict[tuple[str, ...], bytes] = {}
        few = limits.max_span_attributes is not None and limits.max_span_attributes < 16
        self._plain = limits.max_attribute_length is None and not few
        # Read once: a propagator that is set later applies only to jobs with baggage or tracestate.
        self._direct = _is_standard(propagate.get_global_textmap())

    # --- used by the executor ---------------------------------------------------------------------------------------

    def identify(self, lease: Lease, started_at: float) -> SpanIdentity:
        found: Any  # it has the attributes of a SpanIdentity
        try:
            found = self.span_of(lease, started_at)
        except Exception:  # the service's propagator or sampler failed: the job must not be lost with it
            log.exception("no span could be planned for job %s", lease.job.id)
            ids = trace_bytes(lease.job.uid, lease.delivery) + span_bytes(lease.job.uid, lease.delivery)
            found = RingSpan(ids, False, b"", int(started_at * 1e9), self._limits)
        return found  # type: ignore[no-any-return]

    def enter(self, attempt: Attempt) -> Any:
        found: Any = attempt.identity
        span: RingSpan = found
        came = span.context
        # Never on top of the current context: anything that leaked into it would reach this handler.
        context = Context({_SPAN_KEY: span}) if came is None else trace.set_span_in_context(span, came)
        return running.set(attempt.lease), otel_context.attach(context)

    def leave(self, attempt: Attempt, entered: Any) -> None:
        """Write the record and always restore the previous context, unless the context ends with the run."""
        found: Any = attempt.identity
        try:
            self.put(attempt, found)
        except Exception:
            log.exception("the span of job %s could not be kept", attempt.lease.job.id)
        finally:
            if not attempt.own_context:
                otel_context.detach(entered[1])
                running.reset(entered[0])

    def span_of(self, lease: Lease, started_at: float) -> RingSpan:
        """Return the span that an attempt will have."""
        job, started = lease.job, int(started_at * 1e9)
        creation, flags, context = self._creation(lease)
        span_id = span_bytes(job.uid, lease.delivery)
        child = creation is not None and started_at - job.enqueued_at <= self._child_within
        if child and creation is not None:
            span = RingSpan(creation[:16] + span_id, flags & 1 == 1, creation[16:], started, self._limits)
        else:
            span = RingSpan(trace_bytes(job.uid, lease.delivery) + span_id, True, b"", started, self._limits)
        span.creation = creation
        if job.history:
            last = ids_of(job.history[-1].trace_id, job.history[-1].span_id)
            span.previous = None if last == NO_IDS else last
        if context is not None:
            span.context = context
            span.state = trace.get_current_span(context).get_span_context().trace_state if child else None
            if not child:
                span.context = trace.set_span_in_context(trace.INVALID_SPAN, context)
        if self._sampler is not DEFAULT_ON:
            span.sampled = self._asked(span, lease, child, flags)
        return span

    def _creation(self, lease: Lease) -> tuple[bytes | None, int, Context | None]:
        """Return (ids of the creation, its flags, the rest of the job's context); the last is None without a rest."""
        headers = lease.job.headers
        if self._direct and "tracestate" not in headers and "baggage" not in headers:
            header = headers.get("traceparent")
            if not header:
                return None, 0, None
            found = _TRACEPARENT.fullmatch(header) or _LATER.fullmatch(header)
            if found is None:
                return None, 0, None
            ids = bytes.fromhex(found[1] + found[2])
            if ids[:16] == NO_TRACE or ids[16:] == NO_SPAN:
                return None, 0, None
            return ids, int(found[3], 16), None
        origin = origin_of(lease)
        made = origin.creation
        came = made.trace_id.to_bytes(16, "big") + made.span_id.to_bytes(8, "big") if made.is_valid else None
        return came, int(made.trace_flags), origin.context

    def _asked(self, span: RingSpan, lease: Lease, child: bool, flags: int) -> bool:
        """Return the decision of a sampler that is not the default one; it is asked once."""
        context = span.context or _EMPTY
        if child and span.creation is not None and span.context is None:
            made = trace.SpanContext(*as_numbers(span.creation), True, trace.TraceFlags(flags))
            context = trace.set_span_in_context(trace.NonRecordingSpan(made), context)
        decided = self._sampler.should_sample(
            context, as_numbers(span.ids)[0], f"process {lease.queue}", SpanKind.CONSUMER, None, ()
        )
        return decided.decision is Decision.RECORD_AND_SAMPLE

    # --- records ----------------------------------------------------------------------------------------------------

    def on(self, event: e.Event) -> bool:
        """Write an event's record, or return False: it makes none. `leave` writes the record of a finished attempt."""
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
                return False
        return True

    def _operation_key(self, queue: str, operation: str, kind: str) -> bytes:
        key = self._keys.get((queue, operation))
        if key is None:
            key = self._keys[queue, operation] = records.operation_key(queue, operation, kind)
        return key

    def settled(self, queue: str, verb: str, seconds: float) -> bool:
        self._ring.settled(self._keys.get((queue, verb)) or self._operation_key(queue, verb, "settle"), seconds)
        return True

    def put(self, attempt: Attempt, span: RingSpan) -> None:
        """Write the attempt's record, before its outcome is reported to the engine or settled.

        An attempt without a duration gets none: the executor itself failed, and the rescuer of the job records it.
        """
        outcome, duration = attempt.outcome, attempt.duration
        if outcome is None or duration is None:
            return
        span.ended = True
        plain = span.extras is None and span.context is None and span.previous is None and self._plain
        if outcome is SUCCEEDED and plain:
            try:
                self._ring.success(self._facts(attempt, span, duration))
                return
            except struct.error:  # a number is too large for its field
                pass
        self._put_encoded(attempt, span, outcome, duration)

    def _facts(self, attempt: Attempt, span: RingSpan, duration: float) -> bytes:
        """Return the facts of a success without additions: the exporter makes its span. Raises struct.error."""
        lease, ids, made = attempt.lease, span.ids, span.creation
        flags = SAMPLED if span.sampled and self._spans else 0
        if made is not None:
            flags |= LINKED | CHILD if span.parent else LINKED
        else:
            made = NO_IDS
        if lease.delivery > 1:
            flags |= REDELIVERED
        queue, job_id = lease.queue.encode(), lease.job.id.encode("utf-8", "replace")
        size, pack = packer(len(queue), len(job_id))
        return pack(
            size, FACTS, flags, len(queue), self._ring.pid, len(job_id), duration, attempt.wait, time.time_ns(),
            ids[:16], ids[16:], span.started, made[:16], made[16:], lease.attempt,
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
        self._ring.attempt(key, duration, attempt.wait, span.ids[:16], span.ids[16:], encoded)

    def _put_lost(self, event: e.AttemptLost) -> None:
        """Write the record that the killed process could not write."""
        run, lease = event.run, event.lease
        reason = event.reason or ""
        took, wait = times_of_lost(event)
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
        self._ring.attempt(key, took, wait, run.ids[:16], run.ids[16:], encoded)

    def _span_of_dead(self, lease: Lease, run: RunRecord) -> RingSpan:
        """Return the span of a killed attempt, with the ids and the sampling decision of its run record.

        The trace id shows whether the span is a child or a root, so changed settings cannot break the trace.
        """
        span = self.span_of(lease, run.started_at)
        child = span.creation is not None and span.creation[:16] == run.ids[:16]
        parent = span.creation[16:] if child and span.creation else b""
        dead = RingSpan(run.ids, True, parent, int(run.started_at * 1e9), self._limits)
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
        """Return the queue's encoder. `max_attempts` stays the same as long as the process lives."""
        encoder = self._encoders.get(queue)
        if encoder is None:
            encoder = self._encoders[queue] = Encoder(queue, self._system, max_attempts)
        return encoder

    def _encoded(self, encoder: Encoder, span: RingSpan, end: End) -> bytes:
        """Encode the span. If a record cannot take it, drop more and more of the handler's additions, not the span."""
        extras = span.extras
        events = list(extras.events) if extras is not None else []
        for step in range(3):
            try:
                if extras is not None:
                    extras.events[:] = events  # without the exception's event, which the encoder adds
                    if step == 1:
                        extras.shrink()
                span.extras = extras if step < 2 else None
                encoded = encoder.encode(span, end)
                if len(encoded) < records.MOST_SPAN:
                    return encoded
                log.warning("the span of job %s is too large: it is sent with less", end.message_id)
            except Exception:  # a handler has set something that cannot be encoded
                log.exception("the span of job %s cannot be encoded: it is sent with less", end.message_id)
        return b""


def _is_standard(propagator: object) -> bool:
    """Return whether the propagator reads only `traceparent`, as the W3C defines it, and tracestate and baggage.

    This is true of the SDK's default and of each subset of its two parts that contains TraceContext.
    """
    if not isinstance(propagator, CompositePropagator):
        return isinstance(propagator, TraceContextTextMapPropagator)
    parts = getattr(propagator, "_propagators", ())
    kinds = {type(part) for part in parts}
    return TraceContextTextMapPropagator in kinds and kinds <= {TraceContextTextMapPropagator, W3CBaggagePropagator}
