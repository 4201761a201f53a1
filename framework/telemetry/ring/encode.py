"""A process span as OTLP bytes, with all that a handler or an error adds. The exporter makes plain ones (shapes.py)."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

from opentelemetry.trace import StatusCode

from framework.model.job import Lease
from framework.model.outcome import Outcome
from framework.telemetry import names
from framework.telemetry.ring import wire
from framework.telemetry.ring.ringspan import Extras, RingSpan
from framework.telemetry.ring.shapes import CONSUMER, LOCAL, REMOTE

_TIMES = struct.Struct("<BQBQ")
_ATTRIBUTE = wire.SPAN_ATTRIBUTES


@dataclass(frozen=True, slots=True)
class End:
    """The framework's facts about an attempt that ended.

    Attributes:
        wait: seconds from the moment the job was eligible to the attempt's start.
        outcome: worker.job.outcome.
        failed: error.type; empty = no error.
        message: the error's message, or why the job was discarded.
        traceback: the error's traceback; None = no exception event.
        end: ns since the epoch.
    """

    message_id: str
    attempt: int
    redelivered: bool
    wait: float
    outcome: str
    end: int
    failed: str = ""
    message: str = ""
    traceback: str | None = None

    @classmethod
    def of(cls, outcome: Outcome, lease: Lease, wait: float, end: int) -> End:
        """Return the facts of an attempt that its own process saw end."""
        known = (lease.job.id, lease.attempt, lease.delivery > 1, wait, outcome.kind.value, end)
        failure = outcome.failure
        if failure is None:
            return cls(*known, message=outcome.message)
        return cls(*known, failure.error_type or failure.reason, failure.message, failure.traceback)


class Encoder:
    """An encoder for the spans of one queue.

    Args:
        queue, system: values of messaging.destination.name and messaging.system.
        max_attempts: the greatest number of attempts in the queue's policy.
    """

    def __init__(self, queue: str, system: str, max_attempts: int) -> None:
        self._name = f"process {queue}"
        self._common: dict[str, Any] = {
            names.OPERATION: "process",
            names.OPERATION_TYPE: "process",
            names.SYSTEM: system,
            names.DESTINATION: queue,
            names.MAX_ATTEMPTS: max_attempts,
        }

    def encode(self, span: RingSpan, end: End) -> bytes:
        """Encode any span as a field of a ScopeSpans."""
        extras = span.over()
        parts = [wire.block(1, span.ids[:16]), wire.block(2, span.ids[16:])]
        parts += (wire.block(4, span.parent), REMOTE) if span.parent else (LOCAL,)
        parts.append(_TIMES.pack(0x39, span.started, 0x41, max(span.started, end.end)))
        if span.state:
            parts.append(wire.text(3, ",".join(f"{key}={value}" for key, value in span.state.items())))
        for found in (span.creation, span.previous):
            if found is not None:
                parts.append(wire.link(found[:16], found[16:], remote=True))
        parts += self._thorough(span, end, extras)
        return wire.span_block(b"".join(parts))

    def _thorough(self, span: RingSpan, end: End, extras: Extras | None) -> list[bytes]:
        """Encode name, attributes, events, links and status, in the order in which the SDK would have got them."""
        more = extras or Extras(span.limits)
        ours = self._common | {
            names.ATTEMPT: end.attempt,
            names.REDELIVERED: end.redelivered,
            names.MESSAGE_ID: end.message_id,
            names.QUEUE_WAIT: end.wait,
        }
        last = {names.OUTCOME: end.outcome}
        if end.failed:
            last[names.ERROR_TYPE] = end.failed
        elif end.message:
            last[names.DISCARD_REASON] = end.message
        for key in last:
            more.attributes.pop(key, None)
        if end.traceback is not None:
            exception = {
                names.EXCEPTION_TYPE: end.failed,
                names.EXCEPTION_MESSAGE: end.message,
                names.EXCEPTION_STACKTRACE: end.traceback,
            }
            more.event("exception", exception, end.end)
        bounded = more.bounded(ours)
        for key, value in last.items():
            bounded[key] = value
        status, message = more.status, more.message
        if end.failed and status is not StatusCode.OK:
            status, message = StatusCode.ERROR, end.message
        parts = [wire.text(5, more.name or self._name), wire.number(6, CONSUMER)]
        parts += (wire.attributes(_ATTRIBUTE, bounded), wire.number(10, bounded.dropped))
        parts += (*more.events, wire.number(12, more.dropped_events), *more.links)
        parts.append(wire.status(status.value, message))
        return parts
