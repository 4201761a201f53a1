"""The process span without the SDK: it can be the current span like any other, and is encoded to OTLP when it ends.

Plain fields hold what the framework knows. What a handler adds goes into the SDK's own containers, made at the first
addition, so that the SDK's cleaning and limits apply.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Mapping
from typing import Any

from opentelemetry.attributes import BoundedAttributes
from opentelemetry.sdk.trace import SpanLimits
from opentelemetry.trace import Span, SpanContext, Status, StatusCode, TraceFlags

from framework.model.text.exceptions import error_type
from framework.telemetry import names
from framework.telemetry.attempts import Relations, as_numbers
from framework.telemetry.logs.values import attributes_of, name_of, time_of
from framework.telemetry.ring import wire

_SHORT, _FEW = 4096, 64  # characters and attributes that are kept of a span that is too large for a record


class Extras:
    """The additions to a span beyond what every process span has.

    Attributes:
        attributes: in the order in which they were set; encoded after ours, and replacing ours with the same key.
        events, links: encoded fields of a span.
        name: the span's new name; empty = unchanged.
    """

    def __init__(self, limits: SpanLimits) -> None:
        self.limits = limits
        self.attributes: dict[str, Any] = {}
        self.events: list[bytes] = []
        self.links: list[bytes] = []
        self.dropped_events = 0
        self.name = ""
        self.status = StatusCode.UNSET
        self.message = ""

    def event(self, name: str, attributes: Mapping[str, Any] | None, timestamp: int | None) -> None:
        """Add an event. Above the limit the oldest one is dropped, as in the SDK."""
        limit = self.limits.max_events
        if limit is not None and len(self.events) >= limit:
            self.dropped_events += 1
            if not self.events:
                return
            del self.events[0]
        values = self._bounded(self.limits.max_event_attributes, attributes_of(attributes))
        at = time_of(timestamp)
        body = wire.fixed64(1, time.time_ns() if at is None else at) + wire.text(2, name_of(name))
        body += wire.attributes(wire.EVENT_ATTRIBUTES, values) + wire.number(4, values.dropped)
        self.events.append(wire.block(11, body))

    def link(self, context: SpanContext, attributes: Mapping[str, Any] | None) -> None:
        """Add a link."""
        values = self._bounded(self.limits.max_link_attributes, attributes_of(attributes))
        trace_id, span_id = context.trace_id.to_bytes(16, "big"), context.span_id.to_bytes(8, "big")
        encoded = wire.attributes(4, values) + wire.number(5, values.dropped)
        self.links.append(wire.link(trace_id, span_id, remote=context.is_remote, values=encoded))

    def shrink(self) -> None:
        """Keep the beginning of long texts, and only the last events and links that fit."""
        self.name = self.name[:_SHORT]
        self.message = self.message[:_SHORT]
        self.attributes = {
            key[:_SHORT]: value[:_SHORT] if isinstance(value, (str, bytes)) else name_of(value)[:_SHORT]
            for key, value in list(self.attributes.items())[:_FEW]
        }
        for kept in (self.events, self.links):
            while sum(map(len, kept)) > _FEW * _SHORT // 4:
                self.dropped_events += kept is self.events
                del kept[0]

    def bounded(self, ours: Mapping[str, Any]) -> BoundedAttributes:
        """Return our attributes and the added ones, within the limits."""
        bounded = self._bounded(self.limits.max_span_attributes, None)
        for key, value in {**ours, **self.attributes}.items():
            bounded[key] = value
        return bounded

    def _bounded(self, limit: int | None, values: Mapping[str, Any] | None) -> BoundedAttributes:
        return BoundedAttributes(limit, values, immutable=False, max_value_len=self.limits.max_attribute_length)


class RingSpan(Relations, Span):
    """A process span, which is also the attempt's SpanIdentity.

    Attributes:
        started: ns since the epoch.
        extras: what a handler added; None = nothing.
        ended: nothing more can be added.
    """

    extras: Extras | None = None
    _span_context: SpanContext | None = None
    ended = False

    def __init__(self, started: int, limits: SpanLimits) -> None:
        self.started = started
        self.limits = limits

    def get_span_context(self) -> SpanContext:
        found = self._span_context
        if found is None:
            flags = TraceFlags(TraceFlags.SAMPLED if self.sampled else TraceFlags.DEFAULT)
            found = SpanContext(*as_numbers(self.ids), False, flags, self.state if self.parent else None)
            self._span_context = found
        return found

    def is_recording(self) -> bool:
        return self.sampled and not self.ended

    def end(self, end_time: int | None = None) -> None:
        """Do nothing: the span lasts as long as the attempt, and the framework ends it."""

    def over(self) -> Extras | None:
        """End the span and return what was added to it."""
        self.ended = True
        return self.extras

    def _more(self) -> Extras | None:
        if not self.is_recording():
            return None
        if self.extras is None:
            self.extras = Extras(self.limits)
        return self.extras

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        more = self._more()
        if more is not None:
            for key, value in attributes_of(attributes).items():
                more.attributes.pop(key, None)
                more.attributes[key] = value

    def set_attribute(self, key: str, value: Any) -> None:
        self.set_attributes({name_of(key): value})

    def add_event(self, name: str, attributes: Mapping[str, Any] | None = None, timestamp: int | None = None) -> None:
        more = self._more()
        if more is not None:
            more.event(name, attributes, timestamp)

    def add_link(self, context: SpanContext, attributes: Mapping[str, Any] | None = None) -> None:
        more = self._more()
        if more is None or not isinstance(context, SpanContext):
            return
        if context.is_valid or attributes or context.trace_state:
            more.link(context, attributes)

    def update_name(self, name: str) -> None:
        more = self._more()
        if more is not None:
            more.name = name_of(name)

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        more = self._more()
        code = status.status_code if isinstance(status, Status) else status
        known = isinstance(code, StatusCode) and code is not StatusCode.UNSET
        if more is None or more.status is StatusCode.OK or not known:
            return
        more.status = code
        text = status.description if isinstance(status, Status) else description
        more.message = name_of(text or "") if code is StatusCode.ERROR else ""

    def record_exception(
        self,
        exception: BaseException,
        attributes: Mapping[str, Any] | None = None,
        timestamp: int | None = None,
        escaped: bool = False,
    ) -> None:
        found = {
            names.EXCEPTION_TYPE: error_type(exception),
            names.EXCEPTION_MESSAGE: name_of(exception),
            names.EXCEPTION_STACKTRACE: _stack_of(exception),
        }
        self.add_event("exception", found | attributes_of(attributes), timestamp)


def _stack_of(exception: BaseException) -> str:
    try:
        return "".join(traceback.format_exception(exception))
    except Exception:  # the exception's causes or their texts may raise
        return ""
