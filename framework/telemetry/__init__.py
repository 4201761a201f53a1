"""Spans, metrics and log lines of a process, behind one door. How they leave the process is known only in here.

Importing this costs the OpenTelemetry API; the SDK and structlog are imported by `start`, so a web container that only
enqueues never loads them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from framework.model.attempt import NoTracing, Tracing
from framework.model.events import AttemptLost, Event, JobFinished
from framework.model.job import RunRecord
from framework.service.producer import NoSending, Sending
from framework.telemetry.identity import ProcessIdentity, Role

if TYPE_CHECKING:
    from framework.process.scoreboard import Scoreboard
    from framework.service.settings import Settings
    from framework.telemetry.export.exporting import Exporter
    from framework.telemetry.logs.lines import Lines
    from framework.telemetry.ring.rings import Rings
    from framework.telemetry.ring.ringtracing import RingTracing
    from framework.telemetry.sdk.metrics import Metrics
    from framework.telemetry.sdk.spans import SpanTracing

__all__ = ["ProcessIdentity", "Role", "Telemetry", "environment_of", "for_host", "prepare_rings", "rings_from", "start"]


class Telemetry:
    """What one process says about itself.

    Attributes:
        tracing: for the executor.
        sending: for the producer of a worker process.
    """

    def __init__(
        self,
        lines: Lines,
        *,
        tracing: Tracing | None = None,
        sending: Sending | None = None,
        spans: SpanTracing | None = None,
        metrics: Metrics | None = None,
        closing: Mapping[str, Callable[[], object]] | None = None,
        ring: RingTracing | None = None,
        rings: Rings | None = None,
        exporter: Exporter | None = None,
    ) -> None:
        self.tracing: Tracing = tracing or NoTracing()
        self.sending: Sending = sending or NoSending()
        self._lines = lines
        self._spans = spans
        self._metrics = metrics
        self._closing = dict(closing or {})
        self._ring = ring
        self._rings = rings
        self._exporter = exporter

    def subscribe(self, event: Event) -> None:
        """A Bus subscriber: metrics, the spans of killed attempts, log lines. A fault in one leaves the others alone;
        the Bus counts it."""
        try:
            context = None
            if self._ring is not None:
                self._ring.on(event)
                return
            if self._spans is not None and isinstance(event, AttemptLost):
                context = self._spans.lost(event)
            if self._metrics is not None:
                self._metrics.on(event, context)
        finally:
            self._lines.on(event)

    def wants(self, kind: type[Event], outcome: str = "") -> bool:
        """Whether anything comes of such an event. Asked once at a start: what nobody hears need not be made for every
        job. Args: outcome: of a JobFinished."""
        if kind is JobFinished and self._ring is not None:  # it has the attempt itself
            return self._lines.wants(kind, outcome)
        return self._ring is not None or self._metrics is not None or self._lines.wants(kind, outcome)

    def say_lost(self) -> None:
        """Says how many log lines found no room, once there is some. With every line it happens by itself."""
        self._lines.say_lost()

    def observe_slots(self, read: Callable[[], tuple[int, int]], queue: str) -> None:
        """worker.slots.limit and worker.slots.used: `read` gives (limit, used) and is called at collection."""
        if self._metrics is not None:
            self._metrics.observe_slots(read, queue)

    def observe_processes(
        self, read: Callable[[], Sequence[tuple[str, int]]], restarts: Callable[[], Mapping[str, int]]
    ) -> None:
        """worker.processes by state, and worker.process.restarts so far by reason. In the maintenance process only:
        N processes that observe the same would count it N times."""
        if self._metrics is not None:
            self._metrics.observe_processes(read, restarts)

    def knows(self, runs: Sequence[RunRecord]) -> set[str]:
        """Return the span ids of those attempts of dead processes that telemetry has, as far as it outlives them."""
        wanted = {run.span_id: run.started_at for run in runs if run.span_id}
        if self._rings is None or not wanted:
            return set()
        from framework.telemetry.ring.rings import known

        return known(self._rings, wanted)

    def export(
        self, board: Scoreboard, index: int, *, supervisor: int, unblock: Callable[[], None], budget: float
    ) -> None:
        """The life of the exporter process; see `exporterlife.live`."""
        from framework.telemetry.export.exporterlife import live

        assert self._exporter is not None
        live(self._exporter, board, index, supervisor=supervisor, unblock=unblock, budget=budget)

    def shutdown(self, budget: float) -> None:
        """Flushes all signals at once and closes them, within `budget` seconds. Idempotent. Log lines still work."""
        closing, self._closing = self._closing, {}
        if closing:
            from framework.telemetry.sdk.shutdown import flush

            flush(closing, budget)


def start(identity: ProcessIdentity, settings: Settings, rings: Rings | None = None) -> Telemetry:
    """Telemetry of this process. Configures structlog, logging and, but for the supervisor, OpenTelemetry.

    Call it in a forked process after the fork. In the supervisor it makes no provider and no thread, only imports what
    the children will need. A variable that cannot be read makes a warning, never an exception.

    Args:
        rings: of the tree, where it has some: telemetry then survives this process.
    """
    from framework.telemetry import environment
    from framework.telemetry.sdk import exporters

    if not exporters.is_disabled():
        environment.settle()  # before anything reads them
    from framework.telemetry.starting import start_process

    return start_process(identity, settings, rings=rings)


def prepare_rings(run: Path, number: int, *, app: str, system: str, slots: Sequence[str]) -> tuple[Rings | None, str]:
    """By the supervisor before its first child: shared files that outlive the processes which write into them.

    Returns:
        (the rings, ""), or (None, a line that says why the SDK sends from each process), or (None, "") where nothing is
        to be sent. With rings the tree needs an exporter process, see `Telemetry.export`.
    """
    from framework.telemetry.ring import rings

    made, reason = rings.prepare(run, number, app=app, system=system, slots=slots)
    return made, f"telemetry does not outlive a killed process: {reason}" if reason else ""


def rings_from(run: Path, number: int, mark: str, slots: Sequence[str]) -> Rings:
    """The rings that a supervisor prepared, in a child that was not forked."""
    from framework.telemetry.ring.rings import Rings

    return Rings(str(run), number, mark, tuple(slots))


def environment_of(identity: ProcessIdentity) -> Mapping[str, str]:
    """What a child that is not forked needs in its environment besides ours; by the process that starts it."""
    from framework.telemetry.sdk import instrumented

    return instrumented.environment_of(identity)


def for_host(system: str) -> Sending:
    """Spans and metrics around enqueueing in a process that is not ours, through the host's global providers, set now
    or later. Configures nothing.

    Args:
        system: `messaging.system` of the engine.
    """
    from framework.telemetry.sdk import plugins

    def made() -> Sending:
        from framework.telemetry.environment import OF_API, lines, settle

        settle(OF_API)
        for line in lines():
            log.warning("%s", line)
        from opentelemetry import metrics, trace

        from framework.telemetry.names import SCOPE
        from framework.telemetry.sending import SendSpans

        return SendSpans(trace.get_tracer(SCOPE), metrics.get_meter(SCOPE), system)

    log = logging.getLogger("framework.telemetry")
    try:
        return plugins.within(made, plugins.LIMIT)
    except (Exception, SystemExit) as error:  # jobs never depend on telemetry
        log.warning("enqueue makes no spans: OpenTelemetry cannot be used (%s)", type(error).__name__)
        return NoSending()
