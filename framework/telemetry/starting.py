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
from framework.telemetry.sending import SendSpans
from framework.telemetry.spans import LogOnlyTracing, SpanTracing
from framework.telemetry.writer import LineWriter

# Made by the supervisor and inherited: what it said, its children need not say again.
_tree: SharedState | None = None


def start_process(identity: ProcessIdentity, settings: Settings, *, make_global: bool = True) -> Telemetry:
    """See `framework.telemetry.start`; a test may leave the process's global providers alone."""
    global _tree
    drops = Drops()
    logs = Logs(settings, LineWriter(dropped=lambda: drops.add("logs")), process=identity.slot)
    logs.configure()
    if _tree is None:
        _tree = SharedState()
        if not is_disabled():
            for line in complaints():
                logs.say("warning", line)
    if identity.role == "supervisor":
        if not is_disabled():
            preload()
            _version()  # read once for all children
        return Telemetry(Lines(logs))
    if is_disabled():
        return Telemetry(Lines(logs), tracing=LogOnlyTracing(logs))
    health = CollectorHealth(_tree, logs.say)

    def failed(signal: str, error: Exception) -> None:
        hint = "jobs run without it; the variables are those that begin with OTEL_"
        logs.say("error", "telemetry_off", signal=signal, cause=f"{type(error).__name__}: {error}", hint=hint)

    providers = open_providers(identity, health, drops, failed=failed, make_global=make_global)
    return assemble(identity, settings, logs, providers, drops)


def assemble(
    identity: ProcessIdentity, settings: Settings, logs: Logs, providers: Providers, drops: Drops
) -> Telemetry:
    """Telemetry that emits through these providers."""
    version = _version()
    tracer, meter = providers.tracer.get_tracer(SCOPE, version), providers.meter.get_meter(SCOPE, version)
    spans = SpanTracing(
        tracer,
        logs,
        system=identity.system,
        linkage=settings.trace_linkage,
        parent_within=settings.trace_parent_within,
    )
    if providers.logger is not None:
        logs.also = LogRecords(providers.logger)
    return Telemetry(
        Lines(logs),
        tracing=spans,
        sending=SendSpans(tracer, meter, identity.system),
        spans=spans,
        metrics=Metrics(meter, identity.system, drops),
        closing=providers.closing,
    )


@cache
def _version() -> str:
    try:
        return importlib.metadata.version(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:  # run from a source tree
        return ""
