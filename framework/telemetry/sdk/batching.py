"""The SDK's batch processors with a count of what they drop.

When their queue is full, the SDK drops the oldest item and only logs a warning.
"""

from __future__ import annotations

from typing import Any

from opentelemetry.sdk._logs import ReadWriteLogRecord
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor, LogRecordExporter
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter

from framework.telemetry.export.health import Drops


class CountingSpanProcessor(BatchSpanProcessor):
    """A batch processor for spans, configured by OTEL_BSP_* as usual."""

    def __init__(self, exporter: SpanExporter, drops: Drops) -> None:
        super().__init__(exporter)
        self._drops = drops

    def on_end(self, span: ReadableSpan) -> None:
        if span.context is not None and span.context.trace_flags.sampled and _is_full(self):
            self._drops.add("traces")
        super().on_end(span)


class CountingLogProcessor(BatchLogRecordProcessor):
    """A batch processor for log records, configured by OTEL_BLRP_* as usual."""

    def __init__(self, exporter: LogRecordExporter, drops: Drops) -> None:
        super().__init__(exporter)
        self._drops = drops

    def on_emit(self, log_record: ReadWriteLogRecord) -> None:
        if _is_full(self):
            self._drops.add("logs")
        super().on_emit(log_record)


def _is_full(processor: Any) -> bool:
    """Return whether the next item pushes out the oldest one. Two threads at the limit may count one too few or many.

    The SDK has no public way to ask. If a later version keeps its queue elsewhere, nothing is counted and the test of
    this function fails.
    """
    queue = getattr(getattr(processor, "_batch_processor", None), "_queue", None)
    return queue is not None and queue.maxlen is not None and len(queue) >= queue.maxlen
