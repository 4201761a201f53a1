"""Construction of the telemetry of one process. It loads the SDK, so it is not imported where telemetry is off."""

from __future__ import annotations

from framework.service.settings import Settings
from framework.telemetry import Telemetry
from framework.telemetry.export.health import CollectorHealth, Drops, SharedState, say_off
from framework.telemetry.identity import ProcessIdentity
from framework.telemetry.logs.lines import Lines
from framework.telemetry.logs.logs import Logs
from framework.telemetry.logs.otlplogs import LogRecords
from framework.telemetry.names import SCOPE
from framework.telemetry.ring.ringing import open_exporter, open_ring
from framework.telemetry.ring.rings import Rings
from framework.telemetry.sdk.bootstrap import Providers, open_providers
from framework.telemetry.sdk.instrumented import quiet_log_handlers
from framework.telemetry.sdk.metrics import Metrics
from framework.telemetry.sdk.spans import SpanTracing
from framework.telemetry.sending import SendSpans
from framework.telemetry.version import version


def open_telemetry(
    identity: ProcessIdentity,
    settings: Settings,
    logs: Logs,
    drops: Drops,
    tree: SharedState,
    rings: Rings | None,
    *,
    make_global: bool,
) -> Telemetry:
    """Open the telemetry that the environment asks for. `tree`: what the tree has logged about the collector."""
    health = CollectorHealth(tree, logs.say)
    if identity.role == "exporter":
        assert rings is not None
        return Telemetry(Lines(logs), exporter=open_exporter(identity, rings, logs, health, version()))

    def failed(signal: str, error: Exception) -> None:
        say_off(logs.say, signal, error)

    providers = open_providers(identity, health, drops, failed=failed, make_global=make_global)
    return assemble(identity, settings, logs, providers, drops, rings)


def assemble(
    identity: ProcessIdentity,
    settings: Settings,
    logs: Logs,
    providers: Providers,
    drops: Drops,
    rings: Rings | None = None,
) -> Telemetry:
    """Return telemetry that emits through these providers, and through a ring where the tree has rings."""
    tracer, meter = providers.tracer.get_tracer(SCOPE, version()), providers.meter.get_meter(SCOPE, version())
    sending = SendSpans(tracer, meter, identity.system)
    metrics = Metrics(meter, identity.system, drops, slot=identity.slot)
    if providers.logger is not None:
        logs.also = LogRecords(providers.logger)
        quiet_log_handlers()
    if rings is not None:
        ring = open_ring(identity, settings, rings, logs, providers.tracer, metrics, version())
        if ring is not None:
            return Telemetry(
                Lines(logs), tracing=ring, sending=sending, ring=ring, metrics=metrics, closing=providers.closing,
                rings=rings,
            )  # fmt: skip
    spans = SpanTracing(
        tracer,
        logs,
        system=identity.system,
        linkage=settings.trace_linkage,
        parent_within=settings.trace_parent_within,
    )
    return Telemetry(
        Lines(logs), tracing=spans, sending=sending, spans=spans, metrics=metrics, closing=providers.closing
    )
