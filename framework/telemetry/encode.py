"""A process span as OTLP bytes. What all spans of a queue have in common is encoded once."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

from opentelemetry.trace import StatusCode

from framework.job import Lease
from framework.outcome import Outcome
from framework.telemetry import names, wire
from framework.telemetry.ringspan import Extras, RingSpan

_CONSUMER = 5
_TIMES = struct.Struct("<BQBQ")
_ATTRIBUTE = wire.SPAN_ATTRIBUTES
_WAIT = wire.double_prefix(_ATTRIBUTE, names.QUEUE_WAIT)
_LOCAL = wire.fixed32(16, wire.HAS_IS_REMOTE)
_REMOTE = wire.fixed32(16, wire.HAS_IS_REMOTE | wire.IS_REMOTE)
_LINK = b"\x6a\x21\x0a\x10"  # a link without attributes: 33 bytes, of which 16 are a trace id, then
_LINK_FLAGS = wire.fixed32(6, wire.HAS_IS_REMOTE | wire.IS_REMOTE)
_pack_times, _pack_double = _TIMES.pack, wire.DOUBLE.pack


@dataclass(frozen=True, slots=True)
class Facts:
    """What the framework knows of an attempt that ended.

    Attributes:
        wait: seconds from the moment it was eligible.
        outcome: worker.job.outcome.
        failed: error.type; empty = no error.
        message: of the error, or why the job was discarded.
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
    def of(cls, outcome: Outcome, lease: Lease, wait: float, end: int) -> Facts:
        """Of a run that ended in a process that lived to see it."""
        known = (lease.job.id, lease.attempt, lease.delivery > 1, wait, outcome.kind.value, end)
        failure = outcome.failure
        if failure is None:
            return cls(*known, message=outcome.message)
        return cls(*known, failure.error_type or failure.reason, failure.message, failure.traceback)


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
        self._prefixes: dict[int, bytes] = {}

    def encode(self, span: RingSpan, facts: Facts) -> bytes:
        """Any span, as it stands in a ScopeSpans."""
        extras = span.over()
        parts = [wire.block(1, bytes.fromhex(span.trace_id)), wire.block(2, bytes.fromhex(span.span_id))]
        parts += (wire.block(4, bytes.fromhex(span.parent)), _REMOTE) if span.parent else (_LOCAL,)
        parts.append(_pack_times(0x39, span.started, 0x41, max(span.started, facts.end)))
        if span.state:
            parts.append(wire.text(3, ",".join(f"{key}={value}" for key, value in span.state.items())))
        for found in (span.creation, span.previous):
            if found is not None:
                parts.append(wire.link(bytes.fromhex(found[0]), bytes.fromhex(found[1]), remote=True))
        parts += self._thorough(span, facts, extras)
        return wire.span_block(b"".join(parts))

    def is_plain(self, span: RingSpan) -> bool:
        """Whether `plain` may encode it, if it has not failed: nobody added anything, and nothing is to be cut."""
        return self._plain and span.extras is None and span.state is None

    def plain(
        self, span: RingSpan, trace_id: bytes, span_id: bytes, lease: Lease, outcome: str, wait: float, end: int
    ) -> bytes:
        """The same for the span of nearly every job, at a third of the price: nine tenths of it are made already.

        Args:
            trace_id, span_id: the span's.
            outcome: worker.job.outcome; no error.
            wait: seconds from the moment it was eligible.
            end: ns since the epoch.
        """
        span.over()
        kind = (lease.attempt, lease.delivery > 1, outcome)
        static = self._static.get(kind) or self._remember(kind)
        message_id = lease.job.id.encode("utf-8", "replace")
        prefix = self._prefixes.get(len(message_id)) or self._prefix(len(message_id))
        started, creation, link, parent = span.started, span.creation, b"", _LOCAL
        if creation is not None:
            made = bytes.fromhex(creation[1])
            origin = trace_id
            if span.parent:
                parent = b"".join((b"\x22\x08", made, _REMOTE))
            else:
                origin = bytes.fromhex(creation[0])
            link = b"".join((_LINK, origin, b"\x12\x08", made, _LINK_FLAGS))
        if span.previous is not None:
            link += wire.link(bytes.fromhex(span.previous[0]), bytes.fromhex(span.previous[1]), remote=True)
        times = _pack_times(0x39, started, 0x41, max(started, end))
        body = b"".join(
            (b"\x0a\x10", trace_id, b"\x12\x08", span_id, parent, times, static, prefix, message_id, _WAIT,
             _pack_double(wait), link)
        )  # fmt: skip
        return wire.span_block(body)

    def _remember(self, kind: tuple[int, bool, str]) -> bytes:
        changing = dict(zip((names.ATTEMPT, names.REDELIVERED, names.OUTCOME), kind, strict=True))
        static = self._head + wire.attributes(_ATTRIBUTE, self._common | changing)
        if len(self._static) < 256:
            self._static[kind] = static
        return static

    def _prefix(self, length: int) -> bytes:
        prefix = wire.text_prefix(_ATTRIBUTE, names.MESSAGE_ID, length)
        if len(self._prefixes) < 256:
            self._prefixes[length] = prefix
        return prefix

    def _thorough(self, span: RingSpan, facts: Facts, extras: Extras | None) -> list[bytes]:
        """The same of any span, in the order in which the SDK would have met it."""
        more = extras or Extras(span.limits)
        ours = self._common | {
            names.ATTEMPT: facts.attempt,
            names.REDELIVERED: facts.redelivered,
            names.MESSAGE_ID: facts.message_id,
            names.QUEUE_WAIT: facts.wait,
        }
        last = {names.OUTCOME: facts.outcome}
        if facts.failed:
            last[names.ERROR_TYPE] = facts.failed
        elif facts.message:
            last[names.DISCARD_REASON] = facts.message
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
