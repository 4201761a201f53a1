"""Puts the parts together for one process."""

from __future__ import annotations

import importlib.metadata
from functools import cache

from framework.settings import Settings
from framework.telemetry import Telemetry
from framework.telemetry.bootstrap import Providers, open_providers
from framework.telemetry.exporters import complaints, is_disabled, preload
from framework.telemetry.health import CollectorHealth, Drops, SharedState
from framework.telemetry.identity import ProcessIdentity
from framework.telemetry.lines import Lines
from framework.telemetry.logs import Logs
from framework.telemetry.metrics import Metrics
from framework.telemetry.names import DISTRIBUTION, SCOPE
from framework.telemetry.otlplogs import LogRecords
from framework.telemetry.ringing import open_exporter, open_ring
from framework.telemetry.rings import Rings
from framework.telemetry.sending import SendSpans
from framework.telemetry.spans import LogOnlyTracing, SpanTracing
from framework.telemetry.writer import LineWriter

# Made by the supervisor and inherited: what it said, its children need not say again.
_tree: SharedState | None = None


def start_process(
    identity: ProcessIdentity, settings: Settings, *, rings: Rings | None = None, make_global: bool = True
) -> Telemetry:
    """See `framework.telemetry.start`; a test may leave the process's global providers alone."""
    drops = Drops()
    logs = Logs(settings, LineWriter(dropped=lambda: drops.add("logs")), process=identity.slot)
    logs.configure()
    tree = _shared(logs)
    if identity.role == "supervisor":
        if not is_disabled():
            preload()
            version()  # read once for all children
        return Telemetry(Lines(logs))
    if is_disabled():
        return Telemetry(Lines(logs), tracing=LogOnlyTracing(logs))
    health = CollectorHealth(tree, logs.say)
    if identity.role == "exporter":
        assert rings is not None
        return Telemetry(Lines(logs), exporter=open_exporter(identity, rings, logs, health, version()))

    def failed(signal: str, error: Exception) -> None:
        hint = "jobs run without it; the variables are those that begin with OTEL_"
        logs.say("error", "telemetry_off", signal=signal, cause=f"{type(error).__name__}: {error}", hint=hint)

    providers = open_providers(identity, health, drops, failed=failed, make_global=make_global)
    return assemble(identity, settings, logs, providers, drops, rings)


def _shared(logs: Logs) -> SharedState:
    """The tree's; whoever makes it complains of the environment."""
    global _tree
    if _tree is None:
        _tree = SharedState()
        for line in () if is_disabled() else complaints():
            logs.say("warning", line)
    return _tree


def assemble(
    identity: ProcessIdentity,
    settings: Settings,
    logs: Logs,
    providers: Providers,
    drops: Drops,
    rings: Rings | None = None,
) -> Telemetry:
    """Telemetry that emits through these providers, and through a ring where there are rings."""
    tracer, meter = providers.tracer.get_tracer(SCOPE, version()), providers.meter.get_meter(SCOPE, version())
    sending = SendSpans(tracer, meter, identity.system)
    metrics = Metrics(meter, identity.system, drops)
    if providers.logger is not None:
        logs.also = LogRecords(providers.logger)
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


@cache
def version() -> str:
    try:
        return importlib.metadata.version(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:  # run from a source tree
        return ""
