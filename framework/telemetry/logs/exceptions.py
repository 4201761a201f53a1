"""The exception of an attempt as a log record, where OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN asks for it.

The conventions deprecate the event on the span. Like every log record it goes through the SDK: what a killed process
had not sent is lost.
"""

from __future__ import annotations

import time
from typing import Final

from opentelemetry import trace
from opentelemetry._logs import LoggerProvider, LogRecord, SeverityNumber
from opentelemetry.context import Context
from opentelemetry.trace import NonRecordingSpan, SpanContext

from framework.telemetry.attempts import End
from framework.telemetry.conventions import ExceptionSignal, scope

EVENT: Final = "messaging.process.exception"


class ExceptionRecords:
    """A writer of these records.

    Args:
        provider: None: logs are not sent, so exceptions stay on their spans.
        signal: what the environment asks for.

    Attributes:
        on_span: whether the span has the event.
    """

    def __init__(self, provider: LoggerProvider | None = None, signal: ExceptionSignal = "events") -> None:
        self._logger = None if provider is None or signal == "events" else provider.get_logger(*scope())
        self.on_span = self._logger is None or signal == "logs/dup"

    def emit(self, end: End, span: SpanContext) -> None:
        """Write the record of an attempt, if it had an exception."""
        attributes = end.exception()
        if self._logger is None or attributes is None:
            return
        self._logger.emit(
            LogRecord(
                timestamp=end.end or time.time_ns(),
                observed_timestamp=time.time_ns(),
                context=trace.set_span_in_context(NonRecordingSpan(span), Context()),
                severity_text="ERROR",
                severity_number=SeverityNumber.ERROR,
                event_name=EVENT,
                attributes=attributes,
            )
        )
