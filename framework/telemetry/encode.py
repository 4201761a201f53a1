"""A process span as OTLP bytes. What all spans of a queue have in common is encoded once."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

from opentelemetry.trace import StatusCode

from framework.outcome import Outcome
from framework.telemetry import names, wire
from framework.telemetry.ringspan import Extras, RingSpan

_CONSUMER = 5
_TIMES = struct.Struct("<BQBQ")
_ATTRIBUTE = wire.SPAN_ATTRIBUTES
_WAIT = wire.double_prefix(_ATTRIBUTE, names.QUEUE_WAIT)
_LOCAL = wire.fixed32(16, wire.HAS_IS_REMOTE)
_REMOTE = wire.fixed32(16, wire.HAS_IS_REMOTE | wire.IS_REMOTE)
_pack_times, _pack_double = _TIMES.pack, wire.DOUBLE.pack


@dataclass(frozen=True, slots=True)
class Facts:
    """What the framework knows of an attempt that ended.

    Attributes:
        wait: seconds from the moment it was eligible.
        outcome: worker.job.outcome.
        failed: error.type; empty = no error.
        message: of the error.
        traceback: empty = no exception event.
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
    def of(cls, outcome: Outcome, **known: Any) -> Facts:
        """Of a run that ended in a process that lived to see it."""
        failure = outcome.failure
        if failure is None:
            return cls(outcome=outcome.kind.value, **known)
        failed = failure.error_type or failure.reason
        return cls(
            outcome=outcome.kind.value, failed=failed, message=failure.message, traceback=failure.traceback, **known
        )


class Encoder:
    """Encodes the spans of one queue.

    Args:
        queue, system: messaging.destination.name and messaging.system.
        max_attempts: of the queue's policy.
        plain: no limit applies that could shorten what the framework itself sets.
    """

    def __init__(self, queue: str, system: str, max_attempts: int, *, plain: bool) -> None:
        self._plain = plain
        self._name = f"process {queue}"
        self._common: dict[str, Any] = {
            names.OPERATION: "process",
            names.OPERATION_TYPE: "process",
            names.SYSTEM: system,
            names.DESTINATION: queue,
            names.MAX_ATTEMPTS: max_attempts,
        }
        self._head = wire.text(5, self._name) + wire.number(6, _CONSUMER)
        self._static: dict[tuple[int, bool, str], bytes] = {}

    def encode(self, span: RingSpan, facts: Facts) -> bytes:
        """The span as it stands in a ScopeSpans."""
        extras = span.over()
        trace_id = bytes.fromhex(span.trace_id)
        parts = [b"\x0a\x10", trace_id, b"\x12\x08", bytes.fromhex(span.span_id)]
        if span.parent:
            parts += (b"\x22\x08", bytes.fromhex(span.parent), _REMOTE)
        else:
            parts.append(_LOCAL)
        parts.append(_pack_times(0x39, span.started, 0x41, max(span.started, facts.end)))
        if span.state:
            parts.append(wire.text(3, ",".join(f"{key}={value}" for key, value in span.state.items())))
        for found in (span.creation, span.previous):
            if found is not None:
                parts.append(wire.link(bytes.fromhex(found[0]), bytes.fromhex(found[1]), remote=True))
        if extras is None and not facts.failed and self._plain:
            parts += self._quick(facts)
        else:
            parts += self._thorough(span, facts, extras)
        return wire.span_block(b"".join(parts))

    def _quick(self, facts: Facts) -> tuple[bytes, ...]:
        """Name and attributes of a span to which nobody added anything."""
        key = (facts.attempt, facts.redelivered, facts.outcome)
        static = self._static.get(key)
        if static is None:
            static = self._head + wire.attributes(_ATTRIBUTE, self._common | _changing(facts))
            if len(self._static) < 256:
                self._static[key] = static
        message_id = facts.message_id.encode("utf-8", "replace")
        prefix = wire.text_prefix(_ATTRIBUTE, names.MESSAGE_ID, len(message_id))
        return static, prefix, message_id, _WAIT, _pack_double(facts.wait)

    def _thorough(self, span: RingSpan, facts: Facts, extras: Extras | None) -> list[bytes]:
        """The same of any span, in the order in which the SDK would have met it."""
        more = extras or Extras(span.limits)
        ours = self._common | _changing(facts)
        ours |= {names.MESSAGE_ID: facts.message_id, names.QUEUE_WAIT: facts.wait}
        last = {names.OUTCOME: facts.outcome}
        if facts.failed:
            last[names.ERROR_TYPE] = facts.failed
        for key in last:
            more.attributes.pop(key, None)
        if facts.traceback is not None:
            exception = {
                names.EXCEPTION_TYPE: facts.failed,
                names.EXCEPTION_MESSAGE: facts.message,
                names.EXCEPTION_STACKTRACE: facts.traceback,
            }
            more.event("exception", exception, facts.end)
        bounded = more.bounded(ours)
        for key, value in last.items():
            bounded[key] = value
        status, message = more.status, more.message
        if facts.failed and status is not StatusCode.OK:
            status, message = StatusCode.ERROR, facts.message
        parts = [wire.text(5, more.name or self._name), wire.number(6, _CONSUMER)]
        parts += (wire.attributes(_ATTRIBUTE, bounded), wire.number(10, bounded.dropped))
        parts += (*more.events, wire.number(12, more.dropped_events), *more.links)
        parts.append(wire.status(status.value, message))
        return parts


def _changing(facts: Facts) -> dict[str, Any]:
    return {
        names.ATTEMPT: facts.attempt,
        names.REDELIVERED: facts.redelivered,
        names.OUTCOME: facts.outcome,
    }
