"""The OpenTelemetry providers of one process, made in that process.

A provider made before a fork counts everything twice in the child, and a fork during an export deadlocks the child.

Only a private part of the SDK reads which exporter to use, so this package reads the documented variables:

- OTEL_SDK_DISABLED=true: nothing is made (`starting` does not call this module).
- OTEL_TRACES_EXPORTER, OTEL_METRICS_EXPORTER (default otlp), OTEL_LOGS_EXPORTER (default none): otlp, console, none.
- OTEL_EXPORTER_OTLP_PROTOCOL and OTEL_EXPORTER_OTLP_{TRACES,METRICS,LOGS}_PROTOCOL: http/protobuf (default), grpc.
- OTEL_EXPORTER_OTLP_*, OTEL_BSP_*, OTEL_BLRP_*, OTEL_METRIC_EXPORT_*, OTEL_TRACES_SAMPLER*, OTEL_PROPAGATORS,
  OTEL_RESOURCE_ATTRIBUTES, OTEL_SERVICE_NAME and the limits are read by the SDK's own classes.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from opentelemetry import _logs, metrics, trace
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits, TracerProvider

from framework.telemetry.export.health import CollectorHealth, Drops
from framework.telemetry.identity import ProcessIdentity
from framework.telemetry.sdk.batching import CountingLogProcessor, CountingSpanProcessor
from framework.telemetry.sdk.exporters import exporters
from framework.telemetry.sdk.resource import resource_of

P = TypeVar("P")

# A batch of 256 jobs is sent in one span with a link to each job; the SDK's default limit is 128 links.
_LINKS = 512


def span_limits() -> SpanLimits:
    """Return the limits from OTEL_SPAN_* and OTEL_*_LIMIT, with a default of our own for links."""
    return SpanLimits() if "OTEL_SPAN_LINK_COUNT_LIMIT" in os.environ else SpanLimits(max_links=_LINKS)


@dataclass
class Providers:
    """The providers through which a process emits.

    Attributes:
        tracer, meter: our own, or those that were set before.
        logger: only with OTEL_LOGS_EXPORTER, or set before.
        closing: by signal, the call that flushes and closes its provider.
    """

    tracer: trace.TracerProvider = field(default_factory=trace.NoOpTracerProvider)
    meter: metrics.MeterProvider = field(default_factory=metrics.NoOpMeterProvider)
    logger: _logs.LoggerProvider | None = None
    closing: dict[str, Callable[[], object]] = field(default_factory=dict)


def open_providers(
    identity: ProcessIdentity,
    health: CollectorHealth,
    drops: Drops,
    *,
    failed: Callable[[str, Exception], None],
    make_global: bool = True,
) -> Providers:
    """Make the providers that the environment asks for and that are not set yet.

    Args:
        identity: this process.
        health, drops: are told of failed exports and lost items.
        failed: is told which signal stays off and why: a missing certificate, a batch larger than its queue.
        make_global: set the providers globally, for handlers that use the OpenTelemetry API.
    """
    opening = _Opening(resource_of(identity), health, drops, make_global)
    made = Providers(closing=opening.closing)
    for signal, attribute, make in (
        ("traces", "tracer", opening.tracer),
        ("metrics", "meter", opening.meter),
        ("logs", "logger", opening.logger),
    ):
        try:
            setattr(made, attribute, make())
        except Exception as error:
            failed(signal, error)
    return made


def _close(provider: TracerProvider | MeterProvider | LoggerProvider, exporters: Sequence[Any]) -> None:
    """Flush and close a provider. First tell its exporters to make no more pauses."""
    for exporter in exporters:
        getattr(exporter, "leave", lambda: None)()
    provider.shutdown()


class _Opening:
    def __init__(self, resource: Resource, health: CollectorHealth, drops: Drops, make_global: bool) -> None:
        self._resource = resource
        self._health = health
        self._drops = drops
        self._global = make_global
        self.closing: dict[str, Callable[[], object]] = {}

    def tracer(self) -> trace.TracerProvider:
        found = trace.get_tracer_provider()
        if self._global and not isinstance(found, trace.ProxyTracerProvider):
            return self._reused("traces", found)
        made = exporters("traces", self._health, self._drops)
        provider = TracerProvider(resource=self._resource, shutdown_on_exit=False, span_limits=span_limits())
        for exporter in made:
            provider.add_span_processor(CountingSpanProcessor(exporter, self._drops))
        self.closing["traces"] = partial(_close, provider, made)
        if self._global:
            trace.set_tracer_provider(provider)
        return provider

    def meter(self) -> metrics.MeterProvider:
        found = metrics.get_meter_provider()
        if self._global and isinstance(found, MeterProvider):
            return self._reused("metrics", found)
        made = exporters("metrics", self._health, self._drops)
        if not made:
            return metrics.NoOpMeterProvider()
        readers = [PeriodicExportingMetricReader(exporter) for exporter in made]
        # A series belongs to a slot and outlives its processes: a pid would start a new target for each of them.
        stable = {key: value for key, value in self._resource.attributes.items() if key != "process.pid"}
        provider = MeterProvider(readers, Resource(stable, self._resource.schema_url), shutdown_on_exit=False)
        self.closing["metrics"] = partial(_close, provider, made)
        if self._global:
            metrics.set_meter_provider(provider)
        return provider

    def logger(self) -> _logs.LoggerProvider | None:
        found = _logs.get_logger_provider()
        if self._global and isinstance(found, LoggerProvider):
            return self._reused("logs", found)
        made = exporters("logs", self._health, self._drops)
        if not made:
            return None
        provider = LoggerProvider(self._resource, shutdown_on_exit=False)
        for exporter in made:
            provider.add_log_record_processor(CountingLogProcessor(exporter, self._drops))
        self.closing["logs"] = partial(_close, provider, made)
        if self._global:
            _logs.set_logger_provider(provider)
        return provider

    def _reused(self, signal: str, provider: P) -> P:
        """Return a provider that was set before ours (by opentelemetry-instrument), instead of making a second one.

        It is closed together with ours, last of all and within their budget, not by its own exit handler.
        """
        close = getattr(provider, "shutdown", None)
        if close is not None:
            self.closing[signal] = close
            atexit.unregister(close)
        return provider
