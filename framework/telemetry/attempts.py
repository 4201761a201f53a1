"""The span of an attempt, whoever emits it: its relations to other spans, its attributes, and how it ends."""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import inf
from typing import Any, Final, Literal

from opentelemetry import propagate, trace
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, TraceState
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from framework.model.black_box import BlackBox
from framework.model.events import AttemptLost
from framework.model.job import NO_IDS, Lease, RunRecord, ids_of, span_bytes, trace_bytes
from framework.model.outcome import Outcome
from framework.telemetry import names
from framework.telemetry.instruments import at, times_of_lost

Linkage = Literal["auto", "parent", "link"]

NO_TRACE, NO_SPAN = bytes(16), bytes(8)
# Version 00 has nothing after its flags; a later version may have more, and ff is forbidden.
_TRACEPARENT: Final = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
_LATER: Final = re.compile(r"(?!ff|00)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?")


class Relations:
    """The ids of an attempt's span and its relations to others. It serves as the attempt's SpanIdentity.

    Ids are a trace id and a span id, 24 bytes.

    Attributes:
        ids: its own.
        sampled: whether it is exported.
        parent: span id of the creation, if the span is its child; empty for a root.
        creation: ids of the span that made the job; None where the job carries none.
        flags: trace flags of the creation.
        previous: ids of the previous attempt, if it failed; for a dead letter, those of the last failed one.
        state: trace state of the creation.
        context: baggage and whatever else came with the job; None: nothing.
    """

    ids = NO_IDS
    sampled = False
    parent = b""
    creation: bytes | None = None
    flags = 0
    previous: bytes | None = None
    state: TraceState | None = None
    context: Context | None = None

    @property
    def trace_id(self) -> str:
        return self.ids[:16].hex()

    @property
    def span_id(self) -> str:
        return self.ids[16:].hex()

    def context_of_parent(self) -> Context:
        """Return the context in which the span starts: its parent, if it has one, and the baggage."""
        found = self.context or Context()
        if self.parent and self.creation is not None:
            return trace.set_span_in_context(NonRecordingSpan(self._remote(self.creation, self.flags)), found)
        return trace.set_span_in_context(trace.INVALID_SPAN, found)

    def links(self) -> tuple[trace.Link, ...]:
        """Return links to the creation and to the previous attempt."""
        found = []
        if self.creation is not None:
            found.append(trace.Link(self._remote(self.creation, self.flags)))
        if self.previous is not None:
            # The history does not say whether that span was sampled. In the creation's trace it has the same flag.
            same = self.creation is not None and self.creation[:16] == self.previous[:16]
            found.append(trace.Link(self._remote(self.previous, self.flags if same else 0)))
        return tuple(found)

    def _remote(self, ids: bytes, flags: int) -> SpanContext:
        state = self.state if ids == self.creation else None
        return SpanContext(*as_numbers(ids), True, TraceFlags(flags), state)


class Planner:
    """The relation of attempts to the spans that made their jobs.

    Args:
        linkage, parent_within: as in Settings (trace_linkage, trace_parent_within).
    """

    def __init__(self, linkage: Linkage, parent_within: float) -> None:
        # The longest time in seconds from enqueue to start, including delay, backoff and the wait in a dead-letter
        # queue, at which a span is a child of the creation.
        self._child_within = {"parent": inf, "auto": parent_within, "link": -inf}[linkage]
        # Read once: a propagator that is set later applies only to jobs with baggage or tracestate.
        self._direct = _is_standard(propagate.get_global_textmap())

    def relate(self, span: Relations, lease: Lease, started_at: float) -> bool:
        """Set the relations of an attempt's span; return whether the flags of its parent, if any, say `sampled`."""
        job = lease.job
        creation, flags, span.context = self._creation(span, lease)
        span_id = span_bytes(job.uid, lease.delivery)
        if job.history:
            last = ids_of(job.history[-1].trace_id, job.history[-1].span_id)
            span.previous = None if last == NO_IDS else last
        span.creation, span.flags = creation, flags
        if creation is not None and started_at - job.enqueued_at <= self._child_within:
            span.ids, span.parent = creation[:16] + span_id, creation[16:]
            return flags & 1 == 1
        span.ids = trace_bytes(job.uid, lease.delivery) + span_id
        return True

    def relate_lost(self, span: Relations, lease: Lease, run: RunRecord) -> None:
        """Set the relations of a killed attempt, with the ids and the sampling decision of its run record.

        The trace id shows whether the span is a child or a root, so changed settings cannot break the trace.
        """
        self.relate(span, lease, run.started_at)
        made = span.creation
        span.parent = made[16:] if made is not None and made[:16] == run.ids[:16] else b""
        span.ids, span.sampled = run.ids, True

    def _creation(self, span: Relations, lease: Lease) -> tuple[bytes | None, int, Context | None]:
        """Return the ids and flags of the creation, and the job's context; None where it carries no more."""
        headers = lease.job.headers
        if self._direct and "tracestate" not in headers and "baggage" not in headers:
            header = headers.get("traceparent")
            found = header and (_TRACEPARENT.fullmatch(header) or _LATER.fullmatch(header))
            if not found:
                return None, 0, None
            ids = bytes.fromhex(found[1] + found[2])
            if ids[:16] == NO_TRACE or ids[16:] == NO_SPAN:
                return None, 0, None
            return ids, int(found[3], 16), None
        # The global propagator (OTEL_PROPAGATORS) reads the headers. The current context is not used.
        context = propagate.extract(headers, context=Context())
        made = trace.get_current_span(context).get_span_context()
        came = made.trace_id.to_bytes(16, "big") + made.span_id.to_bytes(8, "big") if made.is_valid else None
        span.state = made.trace_state
        return came, int(made.trace_flags), context


def _is_standard(propagator: object) -> bool:
    """Return whether the propagator reads only `traceparent`, as the W3C defines it, and tracestate and baggage.

    This is true of the SDK's default and of each subset of its two parts that contains TraceContext.
    """
    if not isinstance(propagator, CompositePropagator):
        return isinstance(propagator, TraceContextTextMapPropagator)
    parts = getattr(propagator, "_propagators", ())
    kinds = {type(part) for part in parts}
    return TraceContextTextMapPropagator in kinds and kinds <= {TraceContextTextMapPropagator, W3CBaggagePropagator}


def as_numbers(ids: bytes) -> tuple[int, int]:
    """Return trace id and span id as the API's integers."""
    return int.from_bytes(ids[:16], "big"), int.from_bytes(ids[16:], "big")


def of_queue(system: str, queue: str, most: int | None = None) -> dict[str, Any]:
    """Return the attributes that all attempts of a queue share. `most`: how many its retry policy allows."""
    found: dict[str, Any] = {names.OPERATION: "process", names.OPERATION_TYPE: "process", **at(system, queue)}
    return found if most is None else found | {names.MAX_ATTEMPTS: most}


@dataclass(frozen=True, slots=True)
class End:
    """The framework's facts about an attempt, when it has ended.

    Attributes:
        wait: seconds from the moment the job was eligible to the attempt's start.
        outcome: worker.job.outcome.
        failed: error.type; empty = no error.
        message: the error's message, or why the job was discarded.
        traceback: the error's traceback; None = no exception event.
        chosen: the handler has rejected the job, and the message says why.
        end: ns since the epoch.
        box: what is known of where it was killed.
        cost: processor seconds, and bytes by which the peak of memory grew; None: not measured.
    """

    message_id: str
    attempt: int
    redelivered: bool
    wait: float
    outcome: str = ""
    end: int = 0
    failed: str = ""
    message: str = ""
    traceback: str | None = None
    chosen: bool = False
    box: BlackBox | None = None
    cost: tuple[float, int] | None = None

    @classmethod
    def of(cls, outcome: Outcome, lease: Lease, wait: float, end: int, cost: tuple[float, int] | None = None) -> End:
        """Return the facts of an attempt that its own process saw end. A failed run is an error even if it is retried.

        A run that was released, discarded or archived is not an error.
        """
        known = (lease.job.id, lease.attempt, lease.delivery > 1, wait, outcome.kind.value, end)
        failure = outcome.failure
        if failure is None:
            return cls(*known, message=outcome.message, cost=cost)
        rejected = failure.reason == "rejected"
        failed = failure.error_type or failure.reason
        return cls(*known, failed, failure.message, failure.traceback, rejected, cost=cost)

    @classmethod
    def of_lost(cls, event: AttemptLost) -> End:
        """Return the facts of an attempt whose process was killed."""
        lease, (_, wait) = event.lease, times_of_lost(event)
        known = (lease.job.id, event.run.attempt, lease.delivery > 1, wait, event.how, int(event.ended_at * 1e9))
        traceback = event.traceback if event.ended else None
        message = event.message or (event.reason or "")
        return cls(*known, event.failed, message, traceback, event.reason == "rejected", event.box)

    def known_at_start(self) -> dict[str, Any]:
        """Return the attributes that are known when the attempt starts."""
        return {
            names.ATTEMPT: self.attempt,
            names.REDELIVERED: self.redelivered,
            # A lone surrogate would make the export of a whole batch fail.
            names.MESSAGE_ID: self.message_id.encode("utf-8", "replace").decode(),
            names.QUEUE_WAIT: self.wait,
        }

    def known_at_end(self) -> dict[str, Any]:
        """Return the attributes that are known when it has ended."""
        found: dict[str, Any] = {names.OUTCOME: self.outcome}
        if self.cost is not None:
            found |= {names.JOB_CPU_TIME: self.cost[0], names.JOB_MEMORY: float(self.cost[1])}
        if self.failed:
            found[names.ERROR_TYPE] = self.failed
        if self.message and (self.chosen or not self.failed):
            found[names.JOB_REASON] = self.message
        return found

    def black_box(self) -> dict[str, Any] | None:
        """Return the attributes of its black box event, if it has one."""
        box = self.box
        if box is None:
            return None
        found: dict[str, Any] = {names.FUNCTION_NAME: box.function, names.FILE_PATH: box.file}
        found |= {names.LINE_NUMBER: box.line, names.STACKTRACE: box.stack, names.LAST_LINES: tuple(box.log)}
        found |= {names.PEAK_MEMORY: box.peak_memory, names.CPU_TIME: box.cpu_time}
        found[names.MEMORY_EVENTS] = tuple(f"{name} {count}" for name, count in box.memory_events.items())
        return {name: value for name, value in found.items() if value}

    def exception(self) -> dict[str, Any] | None:
        """Return the attributes of its exception event, if it has one."""
        if self.traceback is None:
            return None
        return {
            names.EXCEPTION_TYPE: self.failed,
            names.EXCEPTION_MESSAGE: self.message,
            names.EXCEPTION_STACKTRACE: self.traceback,
        }
