"""The SDK's batch processors, counting what they drop: when their queue is full the oldest item goes, with a warning
only."""

from __future__ import annotations

from typing import Any

from opentelemetry.sdk._logs import ReadWriteLogRecord
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor, LogRecordExporter
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter

from framework.telemetry.export.health import Drops


class CountingSpanProcessor(BatchSpanProcessor):
    """Batches spans; OTEL_BSP_* as everywhere."""

    def __init__(self, exporter: SpanExporter, drops: Drops) -> None:
        super().__init__(exporter)
        self._drops = drops

    def on_end(self, span: ReadableSpan) -> None:
        if span.context is not None and span.context.trace_flags.sampled and _is_full(self):
            self._drops.add("traces")
        super().on_end(span)


class CountingLogProcessor(BatchLogRecordProcessor):
    """Batches log records; OTEL_BLRP_* as everywhere."""

    def __init__(self, exporter: LogRecordExporter, drops: Drops) -> None:
        super().__init__(exporter)
        self._drops = drops

    def on_emit(self, log_record: ReadWriteLogRecord) -> None:
        if _is_full(self):
            self._drops.add("logs")
        super().on_emit(log_record)


def _is_full(processor: Any) -> bool:
    """Whether the next item pushes out the oldest. Two threads at the very brim may count one too few or too many.

    The SDK has no public way to ask; where a later one keeps its queue elsewhere, nothing is counted and the test of it
    fails.
    """
    queue = getattr(getattr(processor, "_batch_processor", None), "_queue", None)
    return queue is not None and queue.maxlen is not None and len(queue) >= queue.maxlen
