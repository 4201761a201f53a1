"""Writes the tables of `observability.md`: what is emitted, found out by emitting it.

Every event is put through the code that a worker uses, into a meter, a tracer and a log that remember; `ABOUT`, `WHO`
and `WHEN` say in words what the code cannot; the words of our own attributes come from `observability/registry/`. A
name without words stops this.

    python -m docs.emitted           writes the tables between their markers
    python -m docs.emitted --check   exit code 1 where they are not up to date
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from ruamel.yaml import YAML

from docs.examples import EVENTS, FAILED, Examples
from framework.telemetry import names
from framework.telemetry.export import points
from framework.telemetry.export.health import CollectorHealth, Drops, Say, SharedState
from framework.telemetry.export.otlp import Answer, destination
from framework.telemetry.export.own_health import OwnHealth
from framework.telemetry.logs.lines import Lines
from framework.telemetry.sdk.metrics import Metrics
from framework.telemetry.sdk.spans import SpanTracing
from framework.telemetry.sending import SendSpans

PAGE = Path(__file__).with_name("observability.md")

WHO = {
    names.SENT_MESSAGES: "who enqueues, with a provider",
    names.OPERATION_DURATION: "who enqueues, with a provider; worker",
    names.UNREADABLE: "worker",
    names.TICKS: "maintenance",
    names.ACTS: "maintenance",
    names.QUEUE_DEPTH: "maintenance of the leader",
    names.UNDECLARED: "maintenance of the leader",
    names.PAUSED: "maintenance of the leader",
    names.HELD: "maintenance of the leader",
    names.OLDEST_JOB_AGE: "maintenance of the leader",
    names.SLOTS_LIMIT: "worker",
    names.SLOTS_USED: "worker",
    names.PROCESSES: "maintenance",
    names.RESTARTS: "maintenance",
    names.PROCESS_MEMORY: "worker, maintenance, hooks",
    names.DROPPED: "every process",
    names.CONSUMED_MESSAGES: "worker",
    names.PROCESS_DURATION: "worker; of a killed one, maintenance",
    names.QUEUE_WAIT_DURATION: "worker; of a killed one, maintenance",
    names.ATTEMPTS: "worker; of a killed one, maintenance",
    names.JOB_CPU_TIME: "worker, with `WORKER_JOB_COSTS`",
    names.JOB_MEMORY: "worker, with `WORKER_JOB_COSTS`",
    names.RETRIES: "worker; of a killed one, maintenance",
    names.DEAD_LETTERS: "worker; of a killed or expired one, maintenance",
}
REGISTRY = Path(__file__).parents[1] / "observability" / "registry" / "attributes.yaml"
# The words of our own attributes, by name.
OURS: dict[str, str] = {
    one["id"]: one["brief"] for group in YAML(typ="safe").load(REGISTRY)["groups"] for one in group["attributes"]
}
ABOUT = {
    names.SYSTEM: "the engine: `spool`",
    names.DESTINATION: "the queue",
    names.OPERATION: "what is done, in the engine's words",
    names.OPERATION_TYPE: "the same in the words of the conventions",
    names.MESSAGE_ID: "the job's id",
    names.BODY_SIZE: "bytes of the encoded payload",
    names.BATCH_COUNT: "jobs of the batch",
    **OURS,
    names.ERROR_TYPE: "the exception's class, or `timeout`, `worker_lost`, `expired`, `invalid_payload`",
    names.EXCEPTION_TYPE: "event `exception`: its class",
    names.EXCEPTION_MESSAGE: "event `exception`: its text",
    names.FUNCTION_NAME: "event `worker.black_box`: the innermost function of the service's own code",
    names.FILE_PATH: "event `worker.black_box`: its file",
    names.LINE_NUMBER: "event `worker.black_box`: its line",
    names.STACKTRACE: "event `worker.black_box`: the handler's stack, the innermost frame last",
    names.EXCEPTION_STACKTRACE: "event `exception`: its traceback",
}


def tables() -> dict[str, str]:
    """By the name of their marker."""
    return {"metrics": _metrics(), "spans": _spans(), "log lines": _lines()}


def written(page: str, made: dict[str, str], *, by: str = "docs/emitted.py") -> str:
    """The page with these tables between the markers of this generator. Raises ValueError: a marker is missing."""
    for name, rows in made.items():
        begin, end = f"<!-- {name} by {by} -->\n", f"<!-- end of {name} -->"
        pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
        if len(pattern.findall(page)) != 1:
            raise ValueError(f"the page needs {begin.strip()} and {end} once")
        page = pattern.sub(lambda _, text=begin + rows + end: text, page)  # type: ignore[misc]
    return page


def main() -> int:
    page = PAGE.read_text(encoding="utf-8")
    new = written(page, tables())
    if "--check" in sys.argv[1:]:
        return int(new != page)
    PAGE.write_text(new, encoding="utf-8")
    return 0


# --- metrics --------------------------------------------------------------------------------------------------------


def _metrics() -> str:
    reader = InMemoryMetricReader()
    meter = MeterProvider([reader], shutdown_on_exit=False).get_meter("docs")
    metrics = Metrics(meter, "spool", Drops(), slot="deliveries/0")
    metrics.observe_slots(lambda: (1, 1), "deliveries")
    metrics.observe_processes(lambda: [("ready", 1)], lambda: {"crashed": 1})
    for event in EVENTS:
        metrics.on(event)
    _send(TracerProvider(shutdown_on_exit=False), meter)
    data = reader.get_metrics_data()
    assert data is not None
    found = [
        metric for resource in data.resource_metrics for scope in resource.scope_metrics for metric in scope.metrics
    ]
    rows = _own()
    for metric in sorted(found, key=lambda metric: (metric.name.startswith("worker."), metric.name)):
        keys = sorted({key for point in metric.data.data_points for key in point.attributes or {}})
        own = [f"`{key}`" for key in keys if key not in (names.DESTINATION, names.SYSTEM)]
        queue = "queue" if names.DESTINATION in keys else ""
        attributes = ", ".join(filter(None, [queue, *own])) or "-"
        rows.append((f"`{metric.name}`", _kind(metric), metric.description, attributes, WHO[metric.name]))
    return table(("Metric", "Kind, unit", "What", "Attributes", "From"), rows)


def _own() -> list[tuple[str, ...]]:
    """What the exporter process says of itself, after an export and two failed ones."""
    own = OwnHealth({"traces": destination("traces")})
    for answer in (Answer(accepted=True, status=200), Answer(status=503, error="503"), Answer(status="UNAVAILABLE")):
        own.began(1)
        own.ended("traces", 1, answer, 0.1, final=True)
    made = points.of_slot(own.series(), own.values(1, 2), {}, "", ["docs"], start=0, now=0, exemplars=False)
    rows: list[tuple[str, ...]] = []
    for metric in sorted(made.scope_metrics[0].metrics, key=lambda metric: metric.name):
        data = getattr(metric, str(metric.WhichOneof("data")))
        keys = sorted({f"`{pair.key}`" for point in data.data_points for pair in point.attributes})
        kind = "histogram" if metric.HasField("histogram") else "counter" if data.is_monotonic else "up-down counter"
        rows.append((f"`{metric.name}`", f"{kind}, `{metric.unit}`", metric.description, ", ".join(keys), "exporter"))
    return rows


def _kind(metric: Any) -> str:
    kind = type(metric.data).__name__
    if kind == "Sum":
        kind = "counter" if metric.data.is_monotonic else "up-down counter"
    return f"{kind.lower()}, `{metric.unit}`"


def _send(provider: Any, meter: Any) -> None:
    """One job, one that cannot be stored, a batch."""
    sending = SendSpans(provider.get_tracer("docs"), lambda: meter, "spool")
    with sending.one("deliveries", "job-1", 100):
        pass
    try:
        with sending.one("deliveries", "job-1", 100):
            raise OSError("no space")
    except OSError:
        pass
    with sending.many("deliveries", ["job-1", "job-2"]):
        pass


# --- spans ----------------------------------------------------------------------------------------------------------


def _spans() -> str:
    memory = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(memory))
    tracing = SpanTracing(provider.get_tracer("docs"), _silent(), system="spool", linkage="auto", parent_within=300.0)
    _send(provider, MeterProvider(shutdown_on_exit=False).get_meter("docs"))
    for run in Examples.attempts(tracing):
        run()
    tracing.lost(FAILED)
    kinds: dict[str, set[str]] = {}
    for span in memory.get_finished_spans():
        verb = "send (batch)" if span.name.startswith("send") and span.kind.name == "CLIENT" else span.name.split()[0]
        keys = kinds.setdefault(f"{verb}, {span.kind.name}", set())
        keys |= set(span.attributes or {})
        for event in span.events:
            keys |= set(event.attributes or {})
    used = set().union(*kinds.values())
    rows = [
        (f"`{key}`", ABOUT[key], *("×" if key in keys else "" for keys in kinds.values()))
        for key in ABOUT
        if key in used
    ]
    strange = used - set(ABOUT)
    if strange:
        raise ValueError(f"no words for {sorted(strange)}: add them to ABOUT in docs/emitted.py")
    return table(("Attribute", "What", *kinds), rows)


def _silent() -> Any:
    return SimpleNamespace(bound=lambda keys: None)


# --- log lines ------------------------------------------------------------------------------------------------------


def _lines() -> str:
    said: list[tuple[str, str, dict[str, object]]] = []

    def say(level: str, event: str, **keys: object) -> None:
        said.append((level, event, keys))

    lines = Lines(SimpleNamespace(successes=True, say=say, passes=lambda level: True))  # type: ignore[arg-type]
    of_event: dict[str, tuple[set[str], dict[str, None], str]] = {}
    for event in EVENTS:
        said.clear()
        lines.on(event)
        for level, name, keys in said:
            shown = f"`{name}`" if re.fullmatch("[a-z_]+", name) else "a sentence"
            levels, seen, _ = of_event.setdefault(f"{shown} {type(event).__name__}", (set(), {}, shown))
            levels.add(level)
            seen |= dict.fromkeys(keys)
    said.clear()
    _outage(say)
    for level, name, keys in said:
        of_event[f"`{name}` {name}"] = ({level}, dict.fromkeys(keys), f"`{name}`")
    rows = [
        (
            shown,
            ", ".join(sorted(levels)),
            ", ".join(f"`{key}`" for key in seen) or "-",
            _sentence(shown, name.split()[-1]),
        )
        for name, (levels, seen, shown) in of_event.items()
    ]
    return table(("`event`", "Level", "Keys", "When"), rows)


def _outage(say: Say) -> None:
    """A collector that is gone and comes back."""
    health = CollectorHealth(SharedState(), say)
    health.failed("traces", endpoint="http://localhost:4318/v1/traces", cause="refused", unreachable=True)
    health.worked("traces")


WHEN = {
    "JobFinished": "an attempt ended in a process that lived to see it",
    "AttemptLost": "its process died under an attempt; said by maintenance",
    "LeasesLost": "another process settled or took these jobs meanwhile",
    "JobsExpired": "their ttl ended before a handler could take them",
    "schedule_fired": "a tick of a schedule has its job",
    "schedule_missed": "ticks of a schedule came too late, and `missed` of them have no job",
    "ScheduleRefused": "the queue of a schedule is full; the tick is tried again",
    "OperatorActed": "a person has acted on `count` jobs, or paused or resumed a queue; `at`: when",
    "FileBad": "a stored file cannot be a job: kept aside, see `worker bad`",
    "QueueUndeclared": "a queue of the spool has jobs, and no running service has declared it within the last minute",
    "QueuePaused": "workers take no jobs of a queue until `worker resume`; `by` says who did it",
    "QueueResumed": "the pause of a queue has ended",
    "QueueHeld": "the breaker of a queue holds it for `hold` seconds, see [steering.md](steering.md)",
    "QueueReopened": "an attempt of a held queue has succeeded",
    "JobsRescued": "claims of a dead process that had not started: runnable again",
    "EngineFailed": "the engine refused; it is tried again",
    "EngineRecovered": "and works again",
    "HookFailed": "`on_failure` of the service raised, took too long, or its process died",
    "HooksNotCalled": "`on_failure` is not called for so many lost attempts: too many wait, or the service has ended",
    "LoopBlocked": "an async handler blocks the event loop",
    "ServiceMistake": "something that only the service's author can mend",
    "ProcessStarted": "by the supervisor",
    "ProcessBecameReady": "by the supervisor",
    "ProcessKilled": "by the supervisor, with why, and where the handler stood; `waited` seconds after it was due",
    "ProcessExited": "by the supervisor, however it ended",
    "WorkerReady": "by the worker",
    "WorkerLeaving": "by the worker",
    "Draining": "SIGTERM or SIGINT has come",
    "telemetry_unreachable": "no process reaches the collector, or it refuses a signal; one line for the whole service",
    "telemetry_recovered": "and takes it again",
    "SupervisorNote": "at start and stop, and what is doubtful about the place",
}


def _sentence(shown: str, event: str) -> str:
    """Return when a line is written: by its name where an event has several, else by the event."""
    return WHEN.get(shown.strip("`")) or WHEN[event]


def table(titles: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """In Markdown."""

    def line(cells: tuple[str, ...]) -> Iterator[str]:
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"

    ruler = ("---",) * len(titles)
    return "".join(part for cells in (titles, ruler, *rows) for part in line(cells))


if __name__ == "__main__":
    sys.exit(main())
