"""Construction of the parts that use rings: the writer of a slot, and the exporter."""

from __future__ import annotations

import os
from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import DEFAULT_ON

from framework.service.settings import Settings
from framework.telemetry.export.exporting import Exporter
from framework.telemetry.export.health import CollectorHealth, say_off
from framework.telemetry.export.otlp import Destination, Signal, destination
from framework.telemetry.identity import ProcessIdentity
from framework.telemetry.logs.logs import Logs
from framework.telemetry.names import SCOPE
from framework.telemetry.ring.rings import Rings
from framework.telemetry.ring.ringtracing import RingTracing
from framework.telemetry.ring.ringwriter import RingWriter
from framework.telemetry.sdk import exporters
from framework.telemetry.sdk.bootstrap import span_limits
from framework.telemetry.sdk.metrics import Metrics
from framework.telemetry.sdk.resource import resource_of

_SPAN_DELAY, _METRIC_INTERVAL = 1000.0, 60000.0  # ms


def open_ring(
    identity: ProcessIdentity,
    settings: Settings,
    rings: Rings,
    logs: Logs,
    provider: trace.TracerProvider,
    metrics: Metrics,
    version: str,
) -> RingTracing | None:
    """Return what a worker or maintenance emits through; None: its ring cannot be used, and the log says so."""
    resource = slot_resource(identity)
    meta = {"resource": resource, "scope": [SCOPE, version], "system": identity.system}
    try:
        ring = RingWriter(rings.path(identity.slot), meta)
    except (OSError, ValueError) as error:
        logs.say("warning", "telemetry_without_ring", slot=identity.slot, cause=str(error), hint=WITHOUT)
        return None
    usable = isinstance(provider, TracerProvider)
    return RingTracing(
        logs,
        ring,
        sampler=provider.sampler if isinstance(provider, TracerProvider) else DEFAULT_ON,
        limits=span_limits(),
        spans=usable and bool(exporters.wanted("traces")),
        inner=metrics,
        system=identity.system,
        linkage=settings.trace_linkage,
        parent_within=settings.trace_parent_within,
    )


WITHOUT = "the SDK sends from each process instead: what a killed one had not sent is lost"


def open_exporter(
    identity: ProcessIdentity, rings: Rings, logs: Logs, health: CollectorHealth, version: str
) -> Exporter:
    """Return the exporter of a tree, not started yet."""

    def opened(signal: Signal) -> Destination | None:
        try:
            return destination(signal)
        except Exception as error:  # a certificate is missing, or a number is invalid
            say_off(logs.say, signal, error)
            return None

    return Exporter(
        rings,
        resource=slot_resource(identity),
        scope=(SCOPE, version),
        system=identity.system,
        traces=opened("traces"),
        metrics=opened("metrics"),
        health=health,
        span_interval=_milliseconds("OTEL_BSP_SCHEDULE_DELAY", _SPAN_DELAY),
        metric_interval=_milliseconds("OTEL_METRIC_EXPORT_INTERVAL", _METRIC_INTERVAL),
        exemplars=os.environ.get("OTEL_METRICS_EXEMPLAR_FILTER", "").strip().lower() != "always_off",
    )


def slot_resource(identity: ProcessIdentity) -> dict[str, Any]:
    """Return the resource of a slot's series: the resource of its processes without the pid."""
    resource = dict(resource_of(identity).attributes)
    resource.pop("process.pid", None)
    return resource


def _milliseconds(variable: str, default: float) -> float:
    """Return a variable's milliseconds in seconds."""
    try:
        return max(1.0, float(os.environ.get(variable) or default)) / 1000
    except ValueError:
        return default / 1000
