"""Events become metrics: names, units, buckets, attributes, exemplars, as they arrive at a receiver."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from framework.model import events as e
from framework.model.black_box import BlackBox
from framework.telemetry import ProcessIdentity, names
from framework.telemetry.export.health import Drops
from framework.telemetry.sdk.metrics import STALE_SECONDS, Metrics
from tests.telemetry.helpers import Relay, lease_of
from tests.telemetry.test_lost_attempts import lost, record_of

SHORT = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
LONG = (*SHORT, 30, 60, 120, 300, 600, 1800, 3600, 14400)

UNITS = {
    "messaging.client.sent.messages": "{message}",
    "messaging.client.consumed.messages": "{message}",
    "messaging.client.operation.duration": "s",
    "messaging.process.duration": "s",
    "worker.queue.depth": "{job}",
    "worker.queue.undeclared": "{job}",
    "worker.queue.paused": "{queue}",
    "worker.queue.held": "{queue}",
    "worker.queue.oldest_job.age": "s",
    "worker.job.queue_wait.duration": "s",
    "worker.job.attempts": "{attempt}",
    "worker.job.retries": "{retry}",
    "worker.job.dead_letters": "{job}",
    "worker.slots.limit": "{slot}",
    "worker.slots.used": "{slot}",
    "worker.processes": "{process}",
    "worker.process.restarts": "{restart}",
    "worker.process.memory": "By",
    "worker.telemetry.dropped": "{item}",
}
ATTRIBUTES = {
    "messaging.system.name",
    "messaging.destination.name",
    "messaging.operation.name",
    "messaging.operation.type",
    "error.type",
    "signal",
    "worker.queue.state",
    "worker.job.outcome",
    "worker.dead_letter.reason",
    "worker.process.state",
    "worker.process.exit_reason",
    "worker.process.slot",
}


def finished(outcome: str, **changes: Any) -> e.JobFinished:
    values = {"attempt": 1, "max_attempts": 4, "delivery": 1, "wait": 0.02, "duration": 0.3} | changes
    return e.JobFinished(queue="deliveries", job_id="job-1", outcome=outcome, **values)


def everything(station: Any) -> None:
    """Every event that makes a metric, and every observer."""
    emit = station.bus.emit
    emit(e.JobsClaimed("deliveries", 3, 0.001))
    emit(e.JobsClaimed("deliveries", 0, 0.9))
    emit(finished("succeeded"))
    emit(finished("retried", reason="error", error_type="ValueError"))
    emit(finished("dead_lettered", reason="rejected", error_type="framework.Reject"))
    emit(finished("released"))
    for verb in ("ack", "retry", "dead_letter", "archive", "release"):
        emit(e.JobsSettled("deliveries", verb, 1, 0.002))
    lease = lease_of()
    emit(lost(lease, record_of(lease, trace_id="1" * 32)))
    emit(lost(lease, record_of(lease, trace_id="1" * 32), outcome="dead_lettered", reason="timeout"))
    emit(e.QueueObserved("deliveries", ready=5, delayed=4, in_flight=3, dead=2, bad=1, oldest_age=7.5))
    emit(e.QueueUndeclared("retired", 6, first=True))
    with station.telemetry.sending.one("deliveries", "job-2", 3):
        pass
    station.telemetry.observe_slots(lambda: (20, 7), "deliveries")
    station.telemetry.observe_processes(lambda: [("ready", 4), ("starting", 1)], lambda: {"crashed": 2, "timeout": 1})


def test_every_metric_of_the_tables_arrives_with_its_unit_and_cumulative(receiver, stations):
    station = stations()
    everything(station)
    station.close()
    assert {point.name: point.unit for point in receiver.metrics() if point.name in UNITS} == UNITS
    assert all(point.cumulative for point in receiver.metrics())
    assert set(UNITS) == {v for k, v in vars(names).items() if k.isupper() and v in UNITS}


def test_no_attribute_beyond_the_allowed_is_ever_used(receiver, stations):
    station = stations()
    everything(station)
    station.close()
    used = {key for point in receiver.metrics() for key in point.attributes}
    assert used == ATTRIBUTES
    values = " ".join(str(v) for point in receiver.metrics() for v in point.attributes.values())
    assert "job-" not in values
    assert all(point.attributes["messaging.system.name"] == "spool" for point in receiver.metrics())


def test_attempts_retries_and_dead_letters_are_counted_by_outcome_and_error(receiver, stations):
    station = stations()
    everything(station)
    station.close()
    outcomes = {p.attributes["worker.job.outcome"]: p.value for p in receiver.latest("worker.job.attempts")}
    assert outcomes == {"succeeded": 1, "retried": 1, "dead_lettered": 1, "released": 1, "lost": 2}
    retries = {p.attributes["error.type"]: p.value for p in receiver.latest("worker.job.retries")}
    assert retries == {"ValueError": 1, "worker_lost": 1}
    dead = {
        (p.attributes["worker.dead_letter.reason"], p.attributes["error.type"]): p.value
        for p in receiver.latest("worker.job.dead_letters")
    }
    assert dead == {("rejected", "framework.Reject"): 1, ("timeout", "timeout"): 1}
    assert receiver.value("messaging.client.consumed.messages") == 3
    durations = {p.attributes.get("error.type"): p.count for p in receiver.latest("messaging.process.duration")}
    assert durations == {None: 2, "ValueError": 1, "framework.Reject": 1, "worker_lost": 1, "timeout": 1}
    operations = {
        (p.attributes["messaging.operation.name"], p.attributes["messaging.operation.type"]): p.count
        for p in receiver.latest("messaging.client.operation.duration")
    }
    assert operations == {("receive", "receive"): 2, ("send", "send"): 1} | {
        (verb, "settle"): 1 for verb in ("ack", "retry", "dead_letter", "archive", "release")
    }


def test_observers_are_read_at_collection(receiver, stations):
    station = stations()
    everything(station)
    station.close()
    depth = {p.attributes["worker.queue.state"]: p.value for p in receiver.latest("worker.queue.depth")}
    assert depth == {"ready": 5, "delayed": 4, "in_flight": 3, "dead": 2, "bad": 1}
    assert receiver.value("worker.queue.undeclared") == 6
    assert receiver.value("worker.queue.oldest_job.age") == 7.5
    assert (receiver.value("worker.slots.limit"), receiver.value("worker.slots.used")) == (20, 7)
    states = {p.attributes["worker.process.state"]: p.value for p in receiver.latest("worker.processes")}
    assert states == {"ready": 4, "starting": 1}
    (restarts, _) = receiver.latest("worker.process.restarts")
    assert restarts.monotonic
    assert receiver.value("worker.process.restarts", worker__process__exit_reason="crashed") == 2


@pytest.mark.parametrize(
    ("name", "bounds"),
    [
        ("messaging.client.operation.duration", SHORT),
        ("messaging.process.duration", LONG),
        ("worker.job.queue_wait.duration", LONG),
    ],
)
def test_buckets_are_in_seconds_and_stated_once(receiver, stations, name, bounds):
    station = stations()
    everything(station)
    station.close()
    assert {point.bounds for point in receiver.metrics(name)} == {bounds}


def test_an_exemplar_leads_from_a_bucket_to_the_attempts_trace(receiver, stations):
    station = stations()
    app = Relay()
    app.behaviours = {"ok": lambda ctx: None}
    attempt, _ = station.run(app, lease_of())
    lease = lease_of()
    record = record_of(lease, trace_id="1" * 32)
    station.bus.emit(lost(lease, record))
    station.close()
    for name in ("messaging.process.duration", "worker.job.queue_wait.duration"):
        # In any export: each tells an exemplar once, and one may come before the end.
        seen = {exemplar for point in receiver.metrics(name) for exemplar in point.exemplars}
        assert (attempt.identity.trace_id, attempt.identity.span_id) in seen
        assert (record.trace_id, record.span_id) in seen


def test_an_observation_of_a_queue_grows_stale(receiver):
    reader, now = InMemoryMetricReader(), [100.0]
    metrics = Metrics(MeterProvider([reader]).get_meter("x"), "spool", Drops(), clock=lambda: now[0])
    metrics.on(e.QueueObserved("deliveries", 5, 4, 3, 2, 0, 7.5))
    metrics.on(e.QueueUndeclared("retired", 6, first=False))

    def names_now() -> set[str]:
        data = reader.get_metrics_data()
        assert data is not None
        return {m.name for r in data.resource_metrics for s in r.scope_metrics for m in s.metrics if m.data.data_points}

    assert {"worker.queue.depth", "worker.queue.undeclared"} <= names_now()
    now[0] += STALE_SECONDS + 1
    assert not {"worker.queue.depth", "worker.queue.oldest_job.age", "worker.queue.undeclared"} & names_now()


def test_what_an_engine_cannot_know_is_no_point(receiver):
    reader = InMemoryMetricReader()
    metrics = Metrics(MeterProvider([reader]).get_meter("x"), "far", Drops())
    metrics.on(e.QueueObserved("deliveries", 5, None, 0, None, None, None))
    data = reader.get_metrics_data()
    assert data is not None
    points = {
        (metric.name, dict(point.attributes).get("worker.queue.state")): point.value
        for resource in data.resource_metrics for scope in resource.scope_metrics for metric in scope.metrics
        for point in metric.data.data_points if metric.name.startswith("worker.queue.")
    }  # fmt: skip
    known = {("worker.queue.depth", "ready"): 5, ("worker.queue.depth", "in_flight"): 0}
    assert points == known | {("worker.queue.paused", None): 0, ("worker.queue.held", None): 0}


def test_a_process_reports_its_own_memory_under_the_name_of_its_slot(receiver, stations):
    station = stations()
    station.close()
    (point,) = receiver.latest("worker.process.memory")
    assert point.attributes["worker.process.slot"] == "deliveries/0"
    assert 2**20 < point.value < 2**36


def test_an_observer_that_raises_does_not_take_the_others_along(receiver, stations):
    station = stations()
    station.telemetry.observe_slots(lambda: 1 / 0, "deliveries")  # type: ignore[arg-type,return-value]
    station.telemetry.observe_processes(lambda: 1 / 0, lambda: {"crashed": 2})  # type: ignore[arg-type,return-value]
    station.close()
    assert receiver.value("worker.process.restarts") == 2
    assert receiver.latest("worker.slots.limit") == []


def test_spans_pushed_out_of_a_full_queue_are_counted_as_dropped(receiver, stations, monkeypatch):
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "10")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "10")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "60000")
    receiver.hang()  # the first batch of 10 is on its way and stuck
    station = stations()
    for number in range(10):
        with station.telemetry.sending.one("deliveries", f"a{number}", 1):
            pass
    receiver.wait_for(lambda: receiver.asked)
    for number in range(25):  # 10 find room
        with station.telemetry.sending.one("deliveries", f"b{number}", 1):
            pass
    receiver.resume()
    receiver.wait_for(lambda: receiver.value("worker.telemetry.dropped", signal="traces") == 15)
    station.close()
    assert len(receiver.spans()) == 20


def test_exports_that_fail_are_counted_as_dropped(receiver, stations, monkeypatch):
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "60000")
    receiver.status = 400
    station = stations()
    with station.telemetry.sending.one("deliveries", "a", 1):
        pass
    receiver.wait_for(lambda: receiver.asked)
    receiver.wait_for(lambda: station.drops.counts()["traces"] == 1)
    receiver.status = 200
    station.close()
    assert receiver.value("worker.telemetry.dropped", signal="traces") == 1


def test_only_the_maintenance_process_observes_what_is_shared(receiver, stations):
    """Two processes and one observer: the sums over all processes are right."""
    worker = stations()
    keeper = stations(identity=ProcessIdentity("relay", "maintenance", "maintenance", 0, "spool"))
    worker.telemetry.observe_slots(lambda: (20, 7), "deliveries")
    keeper.telemetry.observe_processes(lambda: [("ready", 4)], dict)
    keeper.bus.emit(e.QueueObserved("deliveries", 5, 0, 0, 0, 0, 1.0))
    worker.close()
    keeper.close()
    assert receiver.value("worker.queue.depth", worker__queue__state="ready") == 5
    assert receiver.value("worker.processes") == 4


def test_every_event_is_known_to_the_lines_or_the_metrics_and_none_raises(receiver, stations):
    station = stations(log_level="debug")
    lease = lease_of()
    samples = {
        "str": "text",
        "bytes": b"",
        "int": 3,
        "int | None": 3,
        "float": 1.5,
        "bool": True,
        "float | None": 1.5,
        "Lease": lease,
        "RunRecord": record_of(lease, trace_id="1" * 32),
        "Sequence[str]": ["a", "b"],
        "BlackBox | None": BlackBox("fetch", "relay.py", 41, "stack", ["line"], 1000, 1.5),
        "Reason | None": "error",
        "Literal['ack', 'retry', 'dead_letter', 'archive', 'release']": "ack",
        "Literal['info', 'warning', 'error']": "info",
    }
    silent = {"JobsClaimed", "JobCost", "JobsSettled", "QueueObserved"}
    kinds = [kind for _, kind in inspect.getmembers(e, inspect.isclass) if issubclass(kind, e.Event)]
    for kind in kinds:
        if kind is e.Event:
            continue
        before = len(station.lines())
        arguments = {f: samples[t.replace('"', "'")] for f, t in kind.__annotations__.items()}
        if kind is e.JobFinished:
            arguments["outcome"] = "released"
        if kind is e.AttemptLost:
            arguments["ended"] = False  # else its worker has said how it ended
        station.bus.emit(kind(**arguments))
        assert station.bus.errors == 0, kind
        assert (len(station.lines()) > before) == (kind.__name__ not in silent), kind
    station.close()


def test_expired_jobs_are_counted_as_dead_letters(receiver, stations):
    """Nobody runs them, so no attempt could count them."""
    station = stations()
    station.bus.emit(e.JobsExpired("deliveries", 3))
    station.telemetry.shutdown(10)
    assert receiver.value("worker.job.dead_letters", worker__dead_letter__reason="expired") == 3


def test_ticks_of_schedules_and_acts_of_people_are_counted(receiver, stations):
    station = stations()
    station.bus.emit(e.OperatorActed("replay", "reports", 3, "ada"))
    station.bus.emit(e.ScheduleFired("reports", "weekly", 1.7e9, "job-1", 0, 0.01))
    station.bus.emit(e.ScheduleFired("reports", "weekly", 1.7e9, "job-2", 3, 7200.0))
    station.bus.emit(e.ScheduleFired("reports", "weekly", 1.7e9, "", 4, 7200.0))
    station.telemetry.shutdown(10)
    who = {"messaging__destination__name": "reports", "worker__operator__verb": "replay"}
    assert receiver.value("worker.operator.acts", **who, worker__operator__name="ada") == 3
    of = {"messaging__destination__name": "reports", "worker__schedule__key": "weekly"}
    assert receiver.value("worker.schedule.ticks", **of, worker__schedule__outcome="fired") == 2
    assert receiver.value("worker.schedule.ticks", **of, worker__schedule__outcome="missed") == 7
