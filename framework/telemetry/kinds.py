"""The kinds of telemetry that a process can have: by the SDK, by a ring, or as the exporter of a tree's rings.

A process for which OTEL_SDK_DISABLED is set, and the supervisor, have the base class: log lines only. This module loads
the SDK.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import DEFAULT_ON

from framework.model.events import AttemptLost, Event, JobFinished
from framework.model.job import RunRecord
from framework.process.scoreboard import Scoreboard
from framework.service.settings import Settings
from framework.telemetry import ProcessIdentity, Telemetry
from framework.telemetry.costs import CostGroups
from framework.telemetry.export.exporterlife import live
from framework.telemetry.export.exporting import Exporter
from framework.telemetry.export.health import CollectorHealth, Drops, say_off
from framework.telemetry.export.otlp import Destination, Signal, destination
from framework.telemetry.logs.logs import Logs
from framework.telemetry.logs.otlplogs import LogRecords
from framework.telemetry.names import SCOPE, SLOT, version
from framework.telemetry.ring.rings import Rings, known
from framework.telemetry.ring.ringtracing import RingTracing
from framework.telemetry.ring.ringwriter import RingWriter
from framework.telemetry.sdk import exporters
from framework.telemetry.sdk.instrumented import quiet_log_handlers
from framework.telemetry.sdk.lazy import sampler as sampler
from framework.telemetry.sdk.metrics import Metrics
from framework.telemetry.sdk.process_context import publish
from framework.telemetry.sdk.providers import Providers, span_limits
from framework.telemetry.sdk.resource import slot_resource
from framework.telemetry.sdk.spans import SpanTracing
from framework.telemetry.sending import SendSpans

WITHOUT = "the SDK sends from each process instead: what a killed one had not sent is lost"
_SPAN_DELAY, _METRIC_INTERVAL = 1000.0, 60000.0  # ms


class _WithProviders(Telemetry):
    def __init__(self, identity: ProcessIdentity, logs: Logs, providers: Providers) -> None:
        super().__init__(logs)
        self._providers = providers
        if providers.logger is not None:
            logs.also = LogRecords(providers.logger)
            quiet_log_handlers()
        tracer = providers.tracer.get_tracer(SCOPE, version())
        self.sending = SendSpans(tracer, partial(providers.meter.get_meter, SCOPE, version()), identity.system)

    def shutdown(self, budget: float) -> None:
        self._providers.close(budget)


class SdkTelemetry(_WithProviders):
    """Telemetry that the SDK collects and sends from this process: what a killed process had not sent is lost."""

    def __init__(
        self, identity: ProcessIdentity, settings: Settings, logs: Logs, providers: Providers, drops: Drops
    ) -> None:
        super().__init__(identity, logs, providers)
        self._metrics = measured = metrics_of(identity, providers, drops, settings)
        self._measure = measured.on
        self._spans = SpanTracing(
            providers.tracer.get_tracer(SCOPE, version()),
            logs,
            system=identity.system,
            linkage=settings.trace_linkage,
            parent_within=settings.trace_parent_within,
        )
        self.tracing = self._spans

    def emit(self, event: Event) -> None:
        context = self._spans.lost(event) if isinstance(event, AttemptLost) else None
        self._measure(event, context)

    def wants(self, kind: type[Event], outcome: str = "") -> bool:
        return True


class RingTelemetry(_WithProviders):
    """Telemetry of a slot with a ring, which the exporter sends; only what handlers make goes through the SDK.

    The exporter also observes a worker. Maintenance measures by the SDK what makes no record.
    """

    def __init__(
        self,
        identity: ProcessIdentity,
        settings: Settings,
        logs: Logs,
        providers: Providers,
        drops: Drops,
        rings: Rings,
        ring: RingWriter,
    ) -> None:
        super().__init__(identity, logs, providers)
        self._rings = rings
        if identity.role == "worker":
            ring.observe(drops)
        else:
            self._metrics = metrics_of(identity, providers, drops, settings)
        provider, limits = providers.tracer, span_limits()
        usable = isinstance(provider, TracerProvider)
        self._ring = RingTracing(
            logs,
            ring,
            sampler=provider.sampler if isinstance(provider, TracerProvider) else DEFAULT_ON,
            limits=limits,
            spans=usable and bool(exporters.wanted("traces")),
            system=identity.system,
            linkage=settings.trace_linkage,
            parent_within=settings.trace_parent_within,
            groups=CostGroups(settings.cost_key),
        )
        self.tracing = self._ring

    def emit(self, event: Event) -> None:
        if not self._ring.on(event) and self._metrics is not None:
            self._metrics.on(event)

    def wants(self, kind: type[Event], outcome: str = "") -> bool:
        # The ring gets the attempt from the executor.
        return kind is not JobFinished or super().wants(kind, outcome)

    def knows(self, runs: Sequence[RunRecord]) -> set[str]:
        wanted = {run.span_id: run.started_at for run in runs if run.span_id}
        return known(self._rings, wanted) if wanted else set()


class ExporterTelemetry(Telemetry):
    """Telemetry of the exporter process, not started yet."""

    def __init__(self, identity: ProcessIdentity, logs: Logs, health: CollectorHealth, rings: Rings) -> None:
        super().__init__(logs)
        self._exporter = open_exporter(identity, rings, logs, health)

    def export(
        self,
        board: Scoreboard,
        index: int,
        *,
        slots: Mapping[str, tuple[int, Sequence[str]]],
        supervisor: int,
        unblock: Callable[[], None],
        budget: float,
    ) -> None:
        self._exporter.observe(board, slots)
        live(self._exporter, board, index, supervisor=supervisor, unblock=unblock, budget=budget)


def open_telemetry(
    identity: ProcessIdentity,
    settings: Settings,
    logs: Logs,
    drops: Drops,
    health: CollectorHealth,
    rings: Rings | None,
    *,
    failed: Callable[[str, Exception], None] | None = None,
    make_global: bool = True,
) -> Telemetry:
    """Open the telemetry that the environment asks for.

    Args:
        failed: gets the signal that stays off, and why; a log line by default.
    """
    if make_global:
        publish({**slot_resource(identity), "process.pid": os.getpid(), SLOT: identity.slot})
    if identity.role == "exporter":
        assert rings is not None
        return ExporterTelemetry(identity, logs, health, rings)
    ring = open_ring(identity, rings, logs) if rings is not None else None
    lazy = ring is not None and identity.role == "worker"
    off = failed or partial(say_off, logs.say)
    providers = Providers(identity, health, drops, failed=off, make_global=make_global, lazy=lazy)
    if rings is None or ring is None:
        return SdkTelemetry(identity, settings, logs, providers, drops)
    return RingTelemetry(identity, settings, logs, providers, drops, rings, ring)


def metrics_of(identity: ProcessIdentity, providers: Providers, drops: Drops, settings: Settings) -> Metrics:
    meter = providers.meter.get_meter(SCOPE, version())
    return Metrics(meter, identity.system, drops, slot=identity.slot, groups=CostGroups(settings.cost_key))


def open_ring(identity: ProcessIdentity, rings: Rings, logs: Logs) -> RingWriter | None:
    """Return the ring of this process's slot; None: it cannot be used, and the log says so."""
    meta = {"resource": slot_resource(identity), "scope": [SCOPE, version()], "system": identity.system}
    try:
        return RingWriter(rings.path(identity.slot), meta)
    except (OSError, ValueError) as error:
        logs.say("warning", "telemetry_without_ring", slot=identity.slot, cause=str(error), hint=WITHOUT)
        return None


def open_exporter(identity: ProcessIdentity, rings: Rings, logs: Logs, health: CollectorHealth) -> Exporter:
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
        scope=(SCOPE, version()),
        system=identity.system,
        traces=opened("traces"),
        metrics=opened("metrics"),
        health=health,
        span_interval=_milliseconds("OTEL_BSP_SCHEDULE_DELAY", _SPAN_DELAY),
        metric_interval=_milliseconds("OTEL_METRIC_EXPORT_INTERVAL", _METRIC_INTERVAL),
        exemplars=os.environ.get("OTEL_METRICS_EXEMPLAR_FILTER", "").strip().lower() != "always_off",
    )


def _milliseconds(variable: str, default: float) -> float:
    """Return a variable's milliseconds in seconds."""
    try:
        return max(1.0, float(os.environ.get(variable) or default)) / 1000
    except ValueError:
        return default / 1000
