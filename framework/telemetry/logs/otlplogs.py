"""Log lines as OTLP records: everything that is written to standard output also goes to the collector."""

from __future__ import annotations

import time
from collections.abc import MutableMapping
from typing import Any

from opentelemetry import trace
from opentelemetry._logs import LoggerProvider, LogRecord, SeverityNumber
from opentelemetry.context import Context

from framework.telemetry.conventions import scope
from framework.telemetry.logs.values import name_of, value_of

_SEVERITY = {
    "debug": SeverityNumber.DEBUG,
    "info": SeverityNumber.INFO,
    "warning": SeverityNumber.WARN,
    "error": SeverityNumber.ERROR,
}
_OWN_FIELDS = frozenset({"event", "level", "timestamp", "trace_id", "span_id"})


class LogRecords:
    """An emitter that sends finished lines through a logger provider.

    The ids are those of the line: of the current span, or of the attempt about which the framework speaks.
    """

    def __init__(self, provider: LoggerProvider) -> None:
        self._logger = provider.get_logger(*scope())

    def __call__(self, keys: MutableMapping[str, Any]) -> None:
        level = name_of(keys.get("level", "info"))
        now = time.time_ns()
        self._logger.emit(
            LogRecord(
                timestamp=now,
                observed_timestamp=now,
                context=_context_of(keys),
                severity_text=level,
                severity_number=_SEVERITY.get(level, SeverityNumber.INFO),
                body=name_of(keys.get("event", "")),
                attributes={name_of(key): _value(value) for key, value in keys.items() if key not in _OWN_FIELDS},
            )
        )


def _context_of(keys: MutableMapping[str, Any]) -> Context | None:
    """Return a context with the ids of a line; None: they are those of the current span, or there are none."""
    span = trace.get_current_span().get_span_context()
    if "span_id" not in keys or (span.is_valid and keys["span_id"] == f"{span.span_id:016x}"):
        return None
    named = trace.SpanContext(int(keys["trace_id"], 16), int(keys["span_id"], 16), is_remote=False)
    return trace.set_span_in_context(trace.NonRecordingSpan(named), Context())


def _value(value: Any) -> Any:
    plain = value_of(value)
    return plain if isinstance(plain, (bool, int, float)) else name_of(plain)
