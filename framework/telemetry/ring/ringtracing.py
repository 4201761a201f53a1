"""Process spans and counts of attempts, written into the slot's ring. The SDK handles the spans of handlers."""

from __future__ import annotations

import logging
import struct
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Final

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import SpanLimits
from opentelemetry.sdk.trace.sampling import DEFAULT_ON, Decision, Sampler
from opentelemetry.trace import SpanKind

from framework.model import events as e
from framework.model.attempt import Attempt, SpanIdentity
from framework.model.job import NO_IDS, Lease, running, span_bytes, trace_bytes
from framework.model.outcome import SUCCEEDED, Outcome
from framework.telemetry.attempts import End, Linkage, Planner, as_numbers
from framework.telemetry.costs import CostGroups
from framework.telemetry.instruments import times_of_lost
from framework.telemetry.logs.exceptions import ExceptionRecords
from framework.telemetry.logs.lines import LogTracing
from framework.telemetry.logs.logs import Logs
from framework.telemetry.ring import records
from framework.telemetry.ring.encode import Encoder
from framework.telemetry.ring.facts import CHILD, COSTED, LINKED, REDELIVERED, packer
from framework.telemetry.ring.records import FACTS, SAMPLED
from framework.telemetry.ring.ringspan import RingSpan
from framework.telemetry.ring.ringwriter import RingWriter
from framework.telemetry.sdk.batches import batch_span
from framework.telemetry.sdk.resource import attributes_of

log = logging.getLogger("framework.telemetry")

# The key under which a context keeps its current span.
_SPAN_KEY: Final = next(iter(trace.set_span_in_context(trace.INVALID_SPAN, Context())))


MOST_ENCODERS = 1000  # queues, with the retries of their jobs


class RingTracing(LogTracing):
    """Tracing for the executor and metrics for the Bus, both written as one record per attempt.

    Args:
        ring: the ring of this slot.
        sampler: the SDK's sampler, from the environment.
        limits: limits for what handlers add to a span.
        spans: whether spans are wanted; attempts are always counted.
        exceptions: writes exceptions as log records, if that is asked for.
        system, linkage, parent_within: as for SpanTracing.
        groups: name what costs are counted by besides the queue.
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
        exceptions: ExceptionRecords | None = None,
        groups: CostGroups | None = None,
    ) -> None:
        super().__init__(logs)
        self._ring = ring
        self._sampler = sampler
        self._limits = limits
        self._spans = spans
        self._exceptions = exceptions or ExceptionRecords()
        self._system = system
        self._groups = groups or CostGroups("")
        self._planner = Planner(linkage, parent_within)
        self._encoders: dict[tuple[str, int], Encoder] = {}
        self._keys: dict[tuple[str, ...], bytes] = {}
        few = limits.max_span_attributes is not None and limits.max_span_attributes < 16
        self._plain = limits.max_attribute_length is None and not few

    # --- used by the executor ---------------------------------------------------------------------------------------

    def identify(self, lease: Lease, started_at: float) -> SpanIdentity:
        found: Any  # it has the attributes of a SpanIdentity
        try:
            found = self.span_of(lease, started_at)
        except Exception:  # the service's propagator or sampler failed: the job must not be lost with it
            log.exception("no span could be planned for job %s", lease.job.id)
            found = RingSpan(int(started_at * 1e9), self._limits)
            found.ids = trace_bytes(lease.job.uid, lease.delivery) + span_bytes(lease.job.uid, lease.delivery)
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

    def batch(self, attempts: Sequence[Attempt]) -> AbstractContextManager[object]:
        return batch_span(self._system, attempts)

    def span_of(self, lease: Lease, started_at: float) -> RingSpan:
        """Return the span that an attempt will have."""
        span = RingSpan(int(started_at * 1e9), self._limits)
        span.sampled = self._planner.relate(span, lease, started_at)
        if self._sampler is not DEFAULT_ON:
            trace_id, name = as_numbers(span.ids)[0], f"process {lease.queue}"
            context = span.context_of_parent()
            decided = self._sampler.should_sample(context, trace_id, name, SpanKind.CONSUMER, None, ())
            span.sampled = decided.decision is Decision.RECORD_AND_SAMPLE
        return span

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
            case e.JobCost():
                key = records.cost_key(event.lease.queue, *self._groups.of(event.lease))
                self._ring.cost(key, event.cpu_time, event.memory_growth)
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
        cost: tuple[float, ...] = ()
        if attempt.cost is not None:
            cost, flags = attempt.cost, flags | COSTED
        size, pack = packer(len(queue), len(job_id), cost != ())
        return pack(
            size, FACTS, flags, len(queue), self._ring.pid, len(job_id), duration, attempt.wait, time.time_ns(),
            ids[:16], ids[16:], span.started, made[:16], made[16:], lease.attempt,
            attempt.options.retry.max_attempts, queue, job_id, *cost, size,
        )  # fmt: skip

    def _put_encoded(self, attempt: Attempt, span: RingSpan, outcome: Outcome, duration: float) -> None:
        lease, failure, kind = attempt.lease, outcome.failure, outcome.kind.value
        encoded, end = b"", End.of(outcome, lease, attempt.wait, time.time_ns(), attempt.cost)
        if span.sampled and self._spans:
            encoder = self._encoder(lease.queue, attempt.options.retry.max_attempts)
            encoded = self._encoded(encoder, span, end)
        reason = ("invalid_payload" if outcome.is_unreadable else "") if failure is None else failure.reason
        failed = "" if failure is None else failure.error_type or reason
        known = (lease.queue, kind, kind, failed, reason)
        key = self._keys.get(known) or self._key(*known)
        self._ring.attempt(key, duration, attempt.wait, span.ids[:16], span.ids[16:], encoded)
        if failure is not None:
            self._exceptions.emit(end, span.get_span_context())

    def _put_lost(self, event: e.AttemptLost) -> None:
        """Write the record that the killed process could not write."""
        run, lease = event.run, event.lease
        took, wait = times_of_lost(event)
        about = event.about if attributes_of(event.about) else b""
        encoded, end = b"", End.of_lost(event)
        span = RingSpan(int(run.started_at * 1e9), self._limits)
        span.ids, span.sampled = run.ids, run.sampled
        if run.sampled and self._spans and run.trace_id and run.span_id:
            self._planner.relate_lost(span, lease, run)
            encoded = self._encoded(self._encoder(lease.queue, event.max_attempts), span, end)
        key = self._key(lease.queue, event.how, event.outcome, event.failed, event.reason or "")
        self._ring.attempt(key, took, wait, run.ids[:16], run.ids[16:], encoded, about)
        self._exceptions.emit(end, span.get_span_context())

    def _key(self, *texts: str) -> bytes:
        key = records.attempt_key(*texts)
        if len(self._keys) < 1000:
            self._keys[texts] = key
        return key

    def _encoder(self, queue: str, max_attempts: int) -> Encoder:
        """Return the encoder of a queue's jobs. Jobs with retries of their own have encoders of their own."""
        encoder = self._encoders.get((queue, max_attempts))
        if encoder is None:
            encoder = Encoder(queue, self._system, max_attempts, exceptions=self._exceptions.on_span)
            if len(self._encoders) < MOST_ENCODERS:
                self._encoders[queue, max_attempts] = encoder
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
