"""The spans, metrics and log lines of a process. Only this package knows how they leave the process.

Importing this package loads the OpenTelemetry API only. `start` imports the SDK and structlog, so a web container that
only enqueues never loads them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from framework.model.attempt import Tracing
from framework.model.events import Event
from framework.model.job import RunRecord
from framework.service.sender import NoSending, Sending

if TYPE_CHECKING:
    from framework.process.scoreboard import Scoreboard
    from framework.service.settings import Settings
    from framework.telemetry.logs.logs import Logs
    from framework.telemetry.ring.rings import Rings
    from framework.telemetry.sdk.metrics import Metrics

__all__ = ["ProcessIdentity", "Role", "Telemetry", "environment_of", "for_host", "prepare_rings", "rings_from", "start"]

Role = Literal["worker", "maintenance", "hooks", "exporter", "supervisor"]


@dataclass(frozen=True)
class ProcessIdentity:
    """The identity of one process in its tree. It is known before OpenTelemetry is imported.

    Attributes:
        app: the service's name; `service.name` unless the environment names another.
        role: what the process does.
        slot: the slot that the process fills, such as `deliveries/0`; its replacement has the same.
        instance: number of the supervisor among those that share a store.
        system: `messaging.system.name`, the engine's name, such as `spool`.
    """

    app: str
    role: Role
    slot: str
    instance: int
    system: str


class Telemetry:
    """The telemetry of a process that writes log lines only. `kinds` has those of processes that emit more.

    Attributes:
        tracing: makes the executor's spans.
        sending: makes the spans and metrics of a worker's producer.
    """

    _metrics: Metrics | None = None  # what the SDK measures in this process

    def __init__(self, logs: Logs) -> None:
        from framework.telemetry.logs.lines import Lines, LogTracing

        self.tracing: Tracing = LogTracing(logs)
        self.sending: Sending = NoSending()
        self._lines = Lines(logs)

    def subscribe(self, event: Event) -> None:
        """Turn an event into metrics, the span of a killed attempt, and log lines.

        This is a Bus subscriber. When one part fails, log lines are still written; the Bus counts the failure.
        """
        try:
            self.emit(event)
        finally:
            self._lines.on(event)

    def emit(self, event: Event) -> None:
        """Turn an event into metrics and the span of a killed attempt."""

    def wants(self, kind: type[Event], outcome: str = "") -> bool:
        """Return whether telemetry uses such an event.

        Asked once at a start, so that events without a use are not made for every job.

        Args:
            outcome: the outcome of a JobFinished.
        """
        return self._lines.wants(kind, outcome)

    def say_lost(self) -> None:
        """Write how many log lines were dropped, as soon as a line can be written. Every log line also does this."""
        self._lines.say_lost()

    def about(self) -> bytes:
        """Return what a rescuer must know to send telemetry of this process when it is dead; empty: nothing."""
        return b""

    def remember_lines(self, remember: Callable[[str, int, bytes], None]) -> None:
        """Give each line that a job logs also to `remember`, with the job's id and delivery."""
        self._lines.remember(remember)

    def observe_slots(self, read: Callable[[], tuple[int, int]], queue: str) -> None:
        """Observe worker.slots.limit and worker.slots.used. `read` returns (limit, used); each collection calls it."""
        if self._metrics is not None:
            self._metrics.observe_slots(read, queue)

    def observe_processes(
        self, read: Callable[[], Sequence[tuple[str, int]]], restarts: Callable[[], Mapping[str, int]]
    ) -> None:
        """Observe worker.processes by state, and worker.process.restarts so far by reason.

        Only the maintenance process calls this: N processes that observe the same numbers would multiply them by N.
        """
        if self._metrics is not None:
            self._metrics.observe_processes(read, restarts)

    def knows(self, runs: Sequence[RunRecord]) -> set[str]:
        """Return the span ids of those attempts of dead processes that the rings contain; without rings, none."""
        return set()

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
        """Run the exporter process; see `exporterlife.live`.

        Args:
            slots: by the worker's slot, its concurrency and the names of its queues.
        """
        raise NotImplementedError

    def shutdown(self, budget: float) -> None:
        """Flush and close all signals in parallel, within `budget` seconds. Idempotent. Log lines still work."""


def start(identity: ProcessIdentity, settings: Settings, rings: Rings | None = None) -> Telemetry:
    """Start the telemetry of this process: configure structlog, logging and (not in the supervisor) OpenTelemetry.

    Call it in a forked process after the fork. In the supervisor it makes no provider and no thread; it only imports
    what the children need. A variable that cannot be read causes a warning, never an exception.

    Args:
        rings: the rings of the tree, if it has any: telemetry then outlives this process.
    """
    from framework.telemetry import environment
    from framework.telemetry.sdk import exporters

    if not (environment.is_settled() or exporters.is_disabled()):
        environment.settle()  # before anything reads the variables
    from framework.telemetry.starting import start_process

    return start_process(identity, settings, rings=rings)


def prepare_rings(
    run: Path, number: int, *, app: str, system: str, slots: Sequence[str], scraped: str = ""
) -> tuple[Rings | None, str]:
    """Make the shared files that outlive their writers. The supervisor calls this before it starts its first child.

    Args:
        scraped: where metrics are to be served (WORKER_METRICS); empty: nowhere.

    Returns:
        (the rings, ""), or (None, a line that says why each process sends with the SDK), or (None, "") where there is
        nothing to send. A tree with rings needs an exporter process, see `Telemetry.export`.
    """
    from framework.telemetry.ring import rings

    made, reason = rings.prepare(run, number, app=app, system=system, slots=slots, scraped=bool(scraped))
    unserved = f"; WORKER_METRICS={scraped} is ignored: only the exporter process serves metrics" if scraped else ""
    return made, f"telemetry does not outlive a killed process: {reason}{unserved}" if reason else ""


def rings_from(run: Path, number: int, mark: str, slots: Sequence[str]) -> Rings:
    """Return the rings that a supervisor prepared. A child that was not forked calls it."""
    from framework.telemetry.ring.rings import Rings

    return Rings(str(run), number, mark, tuple(slots))


def environment_of(identity: ProcessIdentity) -> Mapping[str, str]:
    """Return the extra variables for a child that is not forked. The process that starts the child calls this."""
    from framework.telemetry.sdk import instrumented

    return instrumented.environment_of(identity)


def for_host(system: str) -> Sending:
    """Return what makes spans and metrics around enqueueing in a process that the framework did not start.

    It uses the host's global providers, which may be set before or after this call. It configures nothing.

    Args:
        system: `messaging.system.name` of the engine.
    """
    from framework.telemetry.sdk import plugins

    def made() -> Sending:
        from framework.telemetry.environment import OF_API, lines, settle

        settle(OF_API)
        for line in lines():
            log.warning("%s", line)
        from opentelemetry import metrics, trace

        from framework.telemetry.conventions import scope
        from framework.telemetry.sending import SendSpans

        name, version, schema = scope()
        meter = metrics.get_meter(name, version, schema_url=schema)  # here, because a plugin may hang or fail
        tracer = trace.get_tracer(name, version, schema_url=schema)
        return SendSpans(tracer, lambda: meter, system)

    log = logging.getLogger("framework.telemetry")
    try:
        return plugins.within(made, plugins.LIMIT)
    except (Exception, SystemExit) as error:  # jobs never depend on telemetry
        log.warning("enqueue makes no spans: OpenTelemetry cannot be used (%s)", type(error).__name__)
        return NoSending()
