"""A process span as OTLP bytes, with all that a handler or an error adds. The exporter makes plain ones (shapes.py)."""

from __future__ import annotations

import struct

from opentelemetry.trace import StatusCode

from framework.telemetry import names
from framework.telemetry.attempts import End, of_queue
from framework.telemetry.ring import wire
from framework.telemetry.ring.ringspan import Extras, RingSpan
from framework.telemetry.ring.shapes import CONSUMER, LOCAL, REMOTE

_TIMES = struct.Struct("<BQBQ")
_ATTRIBUTE = wire.SPAN_ATTRIBUTES


class Encoder:
    """An encoder for the spans of one queue.

    Args:
        queue, system: values of messaging.destination.name and messaging.system.name.
        max_attempts: the greatest number of attempts in the queue's policy.
        exceptions: whether the exception of an attempt is an event of its span.
    """

    def __init__(self, queue: str, system: str, max_attempts: int, *, exceptions: bool = True) -> None:
        self._exceptions = exceptions
        self._name = f"process {queue}"
        self._common = of_queue(system, queue, max_attempts)

    def encode(self, span: RingSpan, end: End) -> bytes:
        """Encode any span as a field of a ScopeSpans."""
        extras = span.over()
        parts = [wire.block(1, span.ids[:16]), wire.block(2, span.ids[16:])]
        parts += (wire.block(4, span.parent), REMOTE) if span.parent else (LOCAL,)
        parts.append(_TIMES.pack(0x39, span.started, 0x41, max(span.started, end.end)))
        if span.state and span.parent:
            parts.append(wire.text(3, ",".join(f"{key}={value}" for key, value in span.state.items())))
        for found in (span.creation, span.previous):
            if found is not None:
                parts.append(wire.link(found[:16], found[16:], remote=True))
        parts += self._thorough(span, end, extras)
        return wire.span_block(b"".join(parts))

    def _thorough(self, span: RingSpan, end: End, extras: Extras | None) -> list[bytes]:
        """Encode name, attributes, events, links and status, in the order in which the SDK would have got them."""
        more = extras or Extras(span.limits)
        ours = self._common | end.known_at_start()
        last = end.known_at_end()
        for key in last:
            more.attributes.pop(key, None)
        exception = end.exception() if self._exceptions else None
        if exception is not None:
            more.event("exception", exception, end.end)
        box = end.black_box()
        if box is not None:
            more.event(names.BLACK_BOX, box, end.end)
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
