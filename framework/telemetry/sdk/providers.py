"""The OpenTelemetry providers of one process, made in that process.

A provider made before a fork counts everything twice in the child, and a fork during an export deadlocks the child.

Only a private part of the SDK reads which exporter to use, so this package reads the documented variables:

- OTEL_SDK_DISABLED=true: nothing is made (`starting` does not import this module).
- OTEL_TRACES_EXPORTER, OTEL_METRICS_EXPORTER (default otlp), OTEL_LOGS_EXPORTER (default none): otlp, console, none.
- OTEL_EXPORTER_OTLP_PROTOCOL and OTEL_EXPORTER_OTLP_{TRACES,METRICS,LOGS}_PROTOCOL: http/protobuf (default), grpc.
- OTEL_EXPORTER_OTLP_*, OTEL_BSP_*, OTEL_BLRP_*, OTEL_METRIC_EXPORT_*, OTEL_TRACES_SAMPLER*, OTEL_PROPAGATORS,
  OTEL_RESOURCE_ATTRIBUTES, OTEL_SERVICE_NAME and the limits are read by the SDK's own classes.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

from opentelemetry import _logs, metrics, trace
from opentelemetry.sdk._logs import LoggerProvider, ReadWriteLogRecord
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor, LogRecordExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, SynchronousMultiSpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter

from framework.telemetry import ProcessIdentity
from framework.telemetry.export.health import CollectorHealth, Drops
from framework.telemetry.sdk.exporters import exporters, wanted
from framework.telemetry.sdk.lazy import LazyMeterProvider, LazyTracerProvider
from framework.telemetry.sdk.rescued import RescuedSeries
from framework.telemetry.sdk.resource import of_series, resource_of
from framework.telemetry.sdk.snapshot import INTERVAL, Snapshot

P = TypeVar("P")
Q = TypeVar("Q")

# A batch of 256 jobs is sent in one span with a link to each job; the SDK's default limit is 128 links.
_LINKS = 512


def span_limits() -> SpanLimits:
    """Return the limits from OTEL_SPAN_* and OTEL_*_LIMIT, with a default of our own for links."""
    return SpanLimits() if "OTEL_SPAN_LINK_COUNT_LIMIT" in os.environ else SpanLimits(max_links=_LINKS)


class Providers:
    """The providers that the environment asks for and that are not set yet.

    Args:
        health, drops: get failed exports and lost items.
        failed: gets the signal that stays off, and why: a missing certificate, a batch larger than its queue.
        make_global: set the providers globally, for handlers that use the OpenTelemetry API.
        snapshot: a file that always has the last state of all series; None: none is wanted.
        lazy: give the providers of spans and metrics their exporters and threads only when something is made with them.

    Attributes:
        tracer, meter: our own, or those that were set before.
        logger: only with OTEL_LOGS_EXPORTER, or set before.
        foreign: the resource of the provider of spans, where it was set before.
        rescued: makes the meters of dead processes' slots, in maintenance.
    """

    def __init__(
        self,
        identity: ProcessIdentity,
        health: CollectorHealth,
        drops: Drops,
        *,
        failed: Callable[[str, Exception], None],
        make_global: bool = True,
        lazy: bool = False,
        snapshot: Path | None = None,
    ) -> None:
        self._snapshot = snapshot
        self._identity = identity
        self._health = health
        self._drops = drops
        self._failed = failed
        self._global = make_global
        self._lazy = lazy
        self._pid = os.getpid()
        self._closing: dict[str, Callable[[], object]] = {}
        self.foreign: Mapping[str, Any] = {}
        self.rescued = RescuedSeries()
        self.tracer: trace.TracerProvider = self._opened("traces", self._tracer) or trace.NoOpTracerProvider()
        self.meter: metrics.MeterProvider = self._opened("metrics", self._meter) or metrics.NoOpMeterProvider()
        self.logger: _logs.LoggerProvider | None = self._opened("logs", self._logger)

    def close(self, budget: float) -> list[str]:
        """Flush and close all signals in parallel, and return those that were not finished in time. Idempotent.

        The SDK's shutdown takes no timeout and can last 30 s with a silent collector. So the deadline is ours: a daemon
        thread flushes each signal, and the process does not wait for a late one.

        Args:
            budget: seconds.
        """
        calls, self._closing = self._closing, {}
        deadline = time.monotonic() + max(0.0, budget)
        threads = {}
        for signal, call in calls.items():
            thread = threading.Thread(target=_swallow, args=(call,), name=f"flush-{signal}", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # no more threads are available: this signal is lost, but the process leaves in time
                continue
            threads[signal] = thread
        for thread in threads.values():
            thread.join(max(0.0, deadline - time.monotonic()))
        return [signal for signal in calls if signal not in threads or threads[signal].is_alive()]

    def _opened(self, signal: str, make: Callable[[], Any]) -> Any:
        try:
            return make()
        except Exception as error:
            self._failed(signal, error)
            return None

    @cached_property
    def _resource(self) -> Resource:
        return resource_of(self._identity, pid=self._pid)

    def _parts(self, signal: str, part: Callable[[Any], Q]) -> tuple[list[Any], list[Q]]:
        """Return the exporters of a signal and what works with each; of a lazy provider none if one cannot be made."""
        try:
            made = exporters(signal, self._health, self._drops, owner=self._pid)
            return made, [part(exporter) for exporter in made]
        except Exception as error:
            if not self._lazy:
                raise
            self._failed(signal, error)
            return [], []

    def _tracer(self) -> trace.TracerProvider:
        found = trace.get_tracer_provider()
        if self._global and not isinstance(found, trace.ProxyTracerProvider):
            if isinstance(found, TracerProvider):
                self.foreign = found.resource.attributes
            return self._reused("traces", found)
        provider = LazyTracerProvider(self._tracing)
        if not self._lazy:
            provider.open()
        if self._global:
            trace.set_tracer_provider(provider)
        return provider

    def _tracing(self, provider: LazyTracerProvider) -> dict[str, Any]:
        """Return the arguments of the SDK's provider of spans."""
        made, parts = self._parts("traces", partial(CountingSpanProcessor, drops=self._drops))
        processors = SynchronousMultiSpanProcessor()  # type: ignore[no-untyped-call]
        for part in parts:
            processors.add_span_processor(part)
        self._closing["traces"] = partial(_close, provider, made)
        limits = span_limits()
        return {"resource": self._resource, "active_span_processor": processors, "span_limits": limits}

    def _meter(self) -> metrics.MeterProvider | None:
        found = metrics.get_meter_provider()
        if self._global and isinstance(found, MeterProvider):
            return self._reused("metrics", found)
        if not wanted("metrics") and self._snapshot is None:
            return None
        provider = LazyMeterProvider(self._measuring)
        if not self._lazy:
            provider.open()
        if self._global:
            metrics.set_meter_provider(provider)
        return provider

    def _measuring(self, provider: LazyMeterProvider) -> dict[str, Any]:
        """Return the arguments of the SDK's provider of metrics."""
        made, readers = self._parts("metrics", self._reader)
        if self._snapshot is not None:
            readers.append(PeriodicExportingMetricReader(Snapshot(self._snapshot), INTERVAL * 1000))
        stable = of_series(self._resource.attributes)
        self._closing["metrics"] = partial(_close, provider, made)
        return {"metric_readers": readers, "resource": Resource(stable, self._resource.schema_url)}

    def _reader(self, exporter: Any) -> PeriodicExportingMetricReader:
        rescues = self._identity.role == "maintenance"
        return PeriodicExportingMetricReader(self.rescued.send_with(exporter) if rescues else exporter)

    def _logger(self) -> _logs.LoggerProvider | None:
        found = _logs.get_logger_provider()
        if self._global and isinstance(found, LoggerProvider):
            return self._reused("logs", found)
        if not wanted("logs"):
            return None
        made, processors = self._parts("logs", partial(CountingLogProcessor, drops=self._drops))
        provider = LoggerProvider(self._resource, shutdown_on_exit=False)
        for processor in processors:
            provider.add_log_record_processor(processor)
        self._closing["logs"] = partial(_close, provider, made)
        if self._global:
            _logs.set_logger_provider(provider)
        return provider

    def _reused(self, signal: str, provider: P) -> P:
        """Return a provider that was set before ours (by opentelemetry-instrument), instead of making a second one.

        It is closed together with ours, last of all and within their budget, not by its own exit handler.
        """
        close = getattr(provider, "shutdown", None)
        if close is not None:
            self._closing[signal] = close
            atexit.unregister(close)
        return provider


def _close(provider: TracerProvider | MeterProvider | LoggerProvider, exporters: Sequence[Any]) -> None:
    """Flush and close a provider. First tell its exporters to make no more pauses."""
    for exporter in exporters:
        getattr(exporter, "leave", lambda: None)()
    provider.shutdown()


def _swallow(call: Callable[[], object]) -> None:
    try:
        call()
    except Exception:  # at shutdown it cannot be reported any more; failed exports were reported already
        return


class CountingSpanProcessor(BatchSpanProcessor):
    """The SDK's processor, configured by OTEL_BSP_*, with a count of what it drops when its queue is full."""

    def __init__(self, exporter: SpanExporter, drops: Drops) -> None:
        super().__init__(exporter)
        self._drops = drops

    def on_end(self, span: ReadableSpan) -> None:
        if span.context is not None and span.context.trace_flags.sampled and _is_full(self):
            self._drops.add("traces")
        super().on_end(span)


class CountingLogProcessor(BatchLogRecordProcessor):
    """The same for log records, configured by OTEL_BLRP_*."""

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
