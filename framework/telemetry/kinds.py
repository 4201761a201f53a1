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
from framework.telemetry.conventions import exception_signal, scope
from framework.telemetry.costs import CostGroups
from framework.telemetry.export.exporterlife import live
from framework.telemetry.export.exporting import Exporter
from framework.telemetry.export.health import CollectorHealth, Drops, say_off
from framework.telemetry.export.otlp import Destination, Signal, destination
from framework.telemetry.export.scrape import ScrapeServer
from framework.telemetry.logs.exceptions import ExceptionRecords
from framework.telemetry.logs.logs import Logs
from framework.telemetry.logs.otlplogs import LogRecords
from framework.telemetry.names import SLOT
from framework.telemetry.ring.rings import Rings, known
from framework.telemetry.ring.ringtracing import RingTracing
from framework.telemetry.ring.ringwriter import RingWriter
from framework.telemetry.sdk import exporters
from framework.telemetry.sdk.instrumented import quiet_log_handlers
from framework.telemetry.sdk.lazy import sampler as sampler
from framework.telemetry.sdk.metrics import Metrics
from framework.telemetry.sdk.process_context import publish
from framework.telemetry.sdk.providers import Providers, span_limits
from framework.telemetry.sdk.resource import about_of, created_at, of_process, ring_resource
from framework.telemetry.sdk.spans import SpanTracing
from framework.telemetry.sending import SendSpans

WITHOUT = "the SDK sends from each process instead: what a killed one had not sent is lost"
_SPAN_DELAY, _METRIC_INTERVAL = 1000.0, 60000.0  # ms


class _WithProviders(Telemetry):
    def __init__(self, identity: ProcessIdentity, logs: Logs, providers: Providers) -> None:
        super().__init__(logs)
        self._providers = providers
        self._resource = providers.foreign or ring_resource(identity)[0]
        if providers.logger is not None:
            logs.also = LogRecords(providers.logger)
            quiet_log_handlers()
        self._exceptions = ExceptionRecords(providers.logger, exception_signal())
        tracer = providers.tracer.get_tracer(*scope())
        self.sending = SendSpans(tracer, partial(providers.meter.get_meter, *scope()), identity.system)

    def about(self) -> bytes:
        return about_of(self._resource, os.getpid())

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
            providers.tracer.get_tracer(*scope()),
            logs,
            system=identity.system,
            linkage=settings.trace_linkage,
            parent_within=settings.trace_parent_within,
            exceptions=self._exceptions,
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
            exceptions=self._exceptions,
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

    def __init__(
        self, identity: ProcessIdentity, logs: Logs, health: CollectorHealth, rings: Rings, scraped: str
    ) -> None:
        super().__init__(logs)
        self._exporter = open_exporter(identity, rings, logs, health)
        self._scraped, self._say = scraped, logs.say

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
        if self._scraped:
            ScrapeServer(self._scraped, self._exporter.collect, partial(self._say, "warning"))
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
        pid = os.getpid()
        publish({**ring_resource(identity)[0], **of_process(pid, created_at(pid)), SLOT: identity.slot})
    if identity.role == "exporter":
        assert rings is not None
        return ExporterTelemetry(identity, logs, health, rings, settings.metrics)
    ring = open_ring(identity, rings, logs) if rings is not None else None
    lazy = ring is not None and identity.role == "worker"
    snapshot = rings.snapshot(identity.slot) if rings is not None and ring is not None and settings.metrics else None
    off = failed or partial(say_off, logs.say)
    providers = Providers(identity, health, drops, failed=off, make_global=make_global, lazy=lazy, snapshot=snapshot)
    if rings is None or ring is None:
        return SdkTelemetry(identity, settings, logs, providers, drops)
    return RingTelemetry(identity, settings, logs, providers, drops, rings, ring)


def metrics_of(identity: ProcessIdentity, providers: Providers, drops: Drops, settings: Settings) -> Metrics:
    meter, groups = providers.meter.get_meter(*scope()), CostGroups(settings.cost_key)
    return Metrics(meter, identity.system, drops, slot=identity.slot, rescued=providers.rescued.meter, groups=groups)


def open_ring(identity: ProcessIdentity, rings: Rings, logs: Logs) -> RingWriter | None:
    """Return the ring of this process's slot; None: it cannot be used, and the log says so."""
    resource, schema = ring_resource(identity)
    meta = {"resource": resource, "schema": schema, "scope": scope(), "system": identity.system}
    try:
        return RingWriter(rings.path(identity.slot), meta, created_at(os.getpid()))
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
        resource=ring_resource(identity),
        scope=scope(),
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
