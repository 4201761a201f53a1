"""OpenTelemetry for the programs beside the worker: receiver and traffic are hosts and bring their own providers."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager

from opentelemetry import metrics, trace

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


def configured() -> bool:
    """Whether the environment names a collector and does not switch the SDK off."""
    off = os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    return not off and any(os.environ.get(name) for name in _ENDPOINTS)


@contextmanager
def exported(service: str, *, budget: float = 2.0) -> Generator[None, None, None]:
    """Inside the block spans and metrics go to the collector that `OTEL_*` names; without one nothing is set up.

    Args:
        service: the service's name unless `OTEL_SERVICE_NAME` says another.
        budget: seconds for the last flush. A provider's own shutdown may take half a minute with a dead collector.
    """
    if not configured():
        yield
        return
    closers = _start(service)
    try:
        yield
    finally:
        threads = [threading.Thread(target=close, daemon=True) for close in closers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(budget)


def _start(service: str) -> list[Callable[[], None]]:
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    # The environment's attributes are merged by Resource.create, but a name given in code would win over them.
    name = {} if os.environ.get("OTEL_SERVICE_NAME") else {"service.name": service}
    resource = Resource.create(name)
    traces = TracerProvider(resource=resource, shutdown_on_exit=False)
    traces.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(traces)
    reader = PeriodicExportingMetricReader(OTLPMetricExporter())
    meters = MeterProvider(resource=resource, metric_readers=[reader], shutdown_on_exit=False)
    metrics.set_meter_provider(meters)
    return [traces.shutdown, meters.shutdown]
