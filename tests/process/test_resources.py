"""Under which resource and schema everything of a real tree arrives, also what a killed process could not send."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import ResourceMetrics
from prometheus_client.parser import text_string_to_metric_families

from framework.telemetry.conventions import SCHEMA_URL
from tests.support.programs import free_ports, listens
from tests.support.received import SeenPoint
from tests.support.receiver import Receiver
from tests.support.registry import violations
from tests.support.services.acts import Task
from tests.support.services.torture import Torture
from tests.support.tree import Tree

OF_PROCESS = ("process.pid", "process.creation.time", "telemetry.sdk.name", "telemetry.sdk.version")
ONE = {"WORKER_QUEUES__SYNC__WORKERS": "1", "WORKER_QUEUES__SYNC__TIMEOUT": "60"}
WAYS = {
    "ring": {},
    "sdk": {"OTEL_METRICS_EXEMPLAR_FILTER": "always_on"},  # one of the variables that only the SDK supports
}


def traced(receiver: Receiver, **more: str) -> dict[str, str]:
    return {"OTEL_SDK_DISABLED": "false", **receiver.env(), **ONE, **more}


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as made:
        yield made


def created(pid: int) -> float:
    """Return when the kernel says that a process was created, in seconds since the epoch, exact to one second."""
    boot = re.search(r"btime (\d+)", Path("/proc/stat").read_text())
    assert boot is not None
    ticks = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    return int(boot[1]) + ticks / os.sysconf("SC_CLK_TCK")


def moment(text: str) -> float:
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", text)
    return datetime.fromisoformat(text).timestamp()


def stable(resource: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in resource.items() if key not in OF_PROCESS}


@pytest.mark.parametrize("way", WAYS)
def test_a_killed_attempt_belongs_to_the_process_that_died(tree: Tree, receiver: Receiver, way: str) -> None:
    tree.start("--queue", "sync", **traced(receiver, **WAYS[way]))
    tree.enqueue(Torture.sync, Task(do="sleep", key="k", until=1, seconds=60))
    pid = int(tree.wait_ledger("start k 1")[0].split()[3])
    born = created(pid)
    os.kill(pid, signal.SIGKILL)
    tree.wait_ledger("end k 2")
    assert tree.stop() == 0
    killed, second = sorted(receiver.spans("process sync"), key=lambda span: span.start)
    assert (killed.attributes["worker.job.outcome"], killed.resource["process.pid"]) == ("lost", pid)
    assert abs(moment(killed.resource["process.creation.time"]) - born) < 2
    assert second.resource["process.pid"] != pid
    assert moment(second.resource["process.creation.time"]) > moment(killed.resource["process.creation.time"])
    assert stable(killed.resource) == stable(second.resource), "one slot"
    _counts_are_of_the_slot(receiver, stable(second.resource), "true" if way == "sdk" else None)
    _everything_has_a_schema(receiver)
    assert violations(receiver.spans(), receiver.metrics()) == set()
    sdk = "opentelemetry" if way == "sdk" else "continuum-worker"
    assert {span.resource["telemetry.sdk.name"] for span in (killed, second)} == {sdk}
    assert {span.resource["telemetry.distro.name"] for span in receiver.spans()} == {"continuum-worker"}


def _counts_are_of_the_slot(receiver: Receiver, slot: dict[str, Any], rescued: str | None) -> None:
    for name in ("worker.job.attempts", "worker.job.retries", "messaging.process.duration"):
        assert {json.dumps(point.resource) for point in receiver.metrics(name)} == {json.dumps(slot)}, name
    lost = {"worker__job__outcome": "lost"}
    assert receiver.value("worker.job.attempts", **lost) == 1
    assert receiver.value("worker.job.attempts") == receiver.value("messaging.process.duration") == 2
    assert receiver.value("worker.job.retries", error__type="worker_lost") == 1
    # Where two processes send of one slot, no series has two writers.
    (point,) = receiver.latest("worker.job.retries")
    assert point.attributes.get("worker.job.rescued") == rescued
    writers = {_series(point) for point in receiver.latest("worker.job.queue_wait.duration")}
    assert len(writers) == (2 if rescued else 1)


def _series(point: SeenPoint) -> str:
    return json.dumps([point.resource, point.attributes], sort_keys=True)


def _everything_has_a_schema(receiver: Receiver) -> None:
    seen: list[Any] = [*receiver.spans(), *receiver.metrics(), *receiver.logs()]
    assert len(receiver.metrics("worker.queue.depth")) > 0
    assert {one.schemas for one in seen} == {(SCHEMA_URL, SCHEMA_URL)}


def test_names_of_both_conventions_and_exceptions_as_log_records(tree: Tree, receiver: Receiver) -> None:
    wanted = {
        "OTEL_SEMCONV_STABILITY_OPT_IN": "http/dup,messaging/dup",
        "OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN": "logs",
        "OTEL_LOGS_EXPORTER": "otlp",
    }
    tree.start("--queue", "sync", **traced(receiver, **wanted))
    tree.enqueue(Torture.sync, Task(do="fail", key="k", until=1))
    receiver.wait_for(lambda: receiver.value("otel.sdk.exporter.span.exported") == 2)
    assert tree.stop() == 0
    points = [point for point in receiver.metrics() if not point.name.startswith("otel.sdk.")]
    both = [*receiver.spans("process sync"), *points]
    assert {(one.attributes["messaging.system.name"], one.attributes["messaging.system"]) for one in both} == {
        ("spool", "spool")
    }
    first, _ = sorted(receiver.spans("process sync"), key=lambda span: span.start)
    assert (first.status, first.events) == ("error", ())
    (record,) = [log for log in receiver.logs() if log.event == "messaging.process.exception"]
    assert (record.trace_id, record.span_id, record.number) == (first.trace_id, first.span_id, 17)
    assert record.attributes["exception.type"] == first.attributes["error.type"]
    assert "Traceback" in record.attributes["exception.stacktrace"]
    assert set(record.attributes) == {"exception.type", "exception.message", "exception.stacktrace"}
    _everything_has_a_schema(receiver)
    _exporter_tells_of_itself(receiver)


def _exporter_tells_of_itself(receiver: Receiver) -> None:
    (exported,) = receiver.latest("otel.sdk.exporter.span.exported")
    host, port = exported.attributes["server.address"], exported.attributes["server.port"]
    assert (exported.value, f"http://{host}:{port}") == (2, receiver.env()["OTEL_EXPORTER_OTLP_ENDPOINT"])
    assert exported.attributes["otel.component.type"] == "otlp_http_span_exporter"
    assert (exported.unit, exported.monotonic) == ("{span}", True)
    values = {name: receiver.latest(f"otel.sdk.{name}")[0].value for name in (
        "exporter.span.inflight", "processor.span.queue.size", "processor.span.queue.capacity",
    )}  # fmt: skip
    assert list(values.values())[:2] == [0, 0]
    assert values["processor.span.queue.capacity"] > 10_000
    durations = receiver.latest("otel.sdk.exporter.operation.duration")
    kinds = {"otlp_http_span_exporter", "otlp_http_metric_exporter"}
    assert {point.attributes["otel.component.type"] for point in durations} == kinds
    assert {point.attributes["http.response.status_code"] for point in durations} == {200}


def test_exceptions_stay_on_the_span_where_logs_are_not_sent(tree: Tree, receiver: Receiver) -> None:
    tree.start("--queue", "sync", **traced(receiver, OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN="logs"))
    tree.enqueue(Torture.sync, Task(do="fail", key="k", until=1))
    tree.wait_ledger("end k 2")
    assert tree.stop() == 0
    first, _ = sorted(receiver.spans("process sync"), key=lambda span: span.start)
    ((name, attributes),) = first.events
    assert (name, set(attributes)) == (
        "exception", {"exception.type", "exception.message", "exception.stacktrace"},
    )  # fmt: skip
    assert not [key for key in first.attributes if key == "messaging.system"]
    (line,) = [event for event in tree.events() if "OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN" in event["event"]]
    assert line["event"].endswith("set OTEL_LOGS_EXPORTER=otlp")


def scraped(port: int) -> dict[str, float]:
    """Return the samples at /metrics, as a parser of Prometheus's own client reads them."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        text = answer.read().decode()
    families = list(text_string_to_metric_families(text))
    assert len({family.name for family in families}) == len(families)
    return {
        json.dumps([sample.name, sample.labels], sort_keys=True): sample.value
        for family in families
        for sample in family.samples
    }


def total(samples: dict[str, float], name: str, **labels: str) -> float:
    found = [(json.loads(key), value) for key, value in samples.items()]
    return sum(value for (one, has), value in found if one == name and labels.items() <= has.items())


def test_who_scrapes_gets_the_same_metrics_exact_under_kills(tree: Tree) -> None:
    """Nothing is pushed here: metrics are off, and no receiver listens for spans."""
    (port,) = free_ports(1)
    off = {"OTEL_TRACES_EXPORTER": "none", "OTEL_METRICS_EXPORTER": "none", "OTEL_SDK_DISABLED": "false"}
    tree.start("--queue", "sync", WORKER_METRICS=f"127.0.0.1:{port}", **off, **ONE)
    tree.wait(lambda: listens(port), "the address of the metrics")
    tree.enqueue(Torture.sync, Task(do="sleep", key="k", until=1, seconds=60))
    os.kill(int(tree.wait_ledger("start k 1")[0].split()[3]), signal.SIGKILL)
    tree.wait_ledger("end k 2")
    tree.wait(lambda: total(scraped(port), "worker_job_attempts_total") == 2, "both attempts")
    exporter = next(slot for slot in tree.slots() if slot.name == "exporter")
    os.kill(exporter.pid, signal.SIGKILL)
    tree.wait(lambda: tree.events("process_exited", slot="exporter"), "the end of the exporter")
    tree.wait(lambda: listens(port), "the next exporter")
    samples = scraped(port)
    assert total(samples, "worker_job_attempts_total") == 2
    assert total(samples, "worker_job_attempts_total", worker_job_outcome="lost") == 1
    assert total(samples, "messaging_process_duration_seconds_count") == 2
    assert total(samples, "messaging_process_duration_seconds_bucket", le="+Inf") == 2
    assert total(samples, "worker_slots_limit", messaging_destination_name="sync") == 1
    tree.wait(lambda: total(scraped(port), "worker_process_restarts_total") >= 2, "what the SDK measures")
    assert total(scraped(port), "target_info", job="Torture") >= 2
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10)
    snapshot = _what_stands_still_is_not_served(tree, port)
    assert tree.stop() == 0
    assert stat.S_IMODE(snapshot.stat().st_mode) == 0o600
    left = ResourceMetrics()  # as if the tree before had measured it a moment ago
    left.scope_metrics.add().metrics.add(name="left").gauge.data_points.add(as_int=1)
    snapshot.write_bytes(ExportMetricsServiceRequest(resource_metrics=[left]).SerializeToString())
    tree.start("--queue", "sync", WORKER_METRICS=f"127.0.0.1:{port}", **off, **ONE)
    tree.wait(lambda: listens(port), "the address of the next tree's metrics")
    samples = scraped(port)
    assert total(samples, "worker_job_attempts_total") == 2
    assert total(samples, "left") == 0
    assert tree.stop() == 0


def _what_stands_still_is_not_served(tree: Tree, port: int) -> Path:
    (snapshot,) = (tree.root / "run").glob("*.maintenance.*.metrics")
    maintenance = tree.pid("maintenance")
    os.kill(maintenance, signal.SIGSTOP)
    try:
        state = Path(f"/proc/{maintenance}/stat")
        tree.wait(lambda: state.read_text().rpartition(")")[2].split()[0] == "T", "maintenance to stand still")
        os.utime(snapshot, (time.time() - 60,) * 2)
        samples = scraped(port)
        assert total(samples, "worker_process_restarts_total") == 0
        assert total(samples, "worker_job_attempts_total") == 2
    finally:
        os.kill(maintenance, signal.SIGCONT)
    return snapshot
