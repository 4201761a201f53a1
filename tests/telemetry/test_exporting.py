"""From rings to a receiver: every count once, every span at least once, whatever dies, refuses or is full."""

from __future__ import annotations

import fcntl
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from framework.model import events as e
from framework.model.job import span_id_of, trace_id_of
from framework.telemetry import ProcessIdentity
from framework.telemetry.export.exporting import Exporter
from framework.telemetry.ring.ring import RingReader
from framework.telemetry.ring.rings import readers_lock
from tests.support.receiver import GrpcReceiver, Receiver
from tests.telemetry.helpers import IDENTITY, TRACEPARENT, Relay, lease_of
from tests.telemetry.rings import Post, post, ring_station, rings_in
from tests.telemetry.test_lost_attempts import check_ended, ended, lost, record_of

AGE = 5.5  # seconds, far from the bounds of its bucket: the machine may be slow


def relay() -> Relay:
    app = Relay()
    app.behaviours = {"ok": lambda ctx: None, "bad": lambda ctx: 1 / 0}
    return app


def work(place: Any, rings: Any, count: int = 10, **settings: Any) -> list[str]:
    """A worker's life of so many jobs, each fourth of which fails; span ids."""
    station = ring_station(place, rings, **settings)
    app, ids = relay(), []
    for number in range(count):
        lease = lease_of("bad" if number % 4 == 3 else "ok", headers={"traceparent": TRACEPARENT}, age=AGE)
        attempt, outcome = station.run(app, lease)
        ids.append(attempt.identity.span_id)
        verb: Any = "retry" if outcome.kind == "retried" else "ack"
        station.bus.emit(e.JobsSettled("deliveries", verb, 1, 0.0003))
    station.bus.emit(e.JobsClaimed("deliveries", count, 0.002))
    station.close()
    return ids


def test_metrics_and_spans_are_those_of_the_sdks_path(tmp_path, receiver, stations):
    rings = rings_in(tmp_path)
    ids = work(tmp_path, rings)
    post(tmp_path, rings).flush()
    through_ring = shape(receiver)
    assert sorted(span.span_id for span in receiver.spans()) == sorted(ids)
    with receiver.changed:
        receiver.requests.clear()
    station = stations()
    for number in range(10):
        _, outcome = station.run(relay(), lease_of("bad" if number % 4 == 3 else "ok", age=AGE))
        station.bus.emit(e.JobsSettled("deliveries", "retry" if outcome.kind == "retried" else "ack", 1, 0.0003))
    station.bus.emit(e.JobsClaimed("deliveries", 10, 0.002))
    station.close()
    assert shape(receiver) == through_ring
    assert len(through_ring) == 10


def shape(receiver: Receiver) -> dict[Any, Any]:
    """All series of jobs, by everything that a backend tells them apart by, and their counts."""
    found = {}
    others = {"worker.telemetry.dropped", "worker.process.memory"}
    names = {point.name for point in receiver.metrics() if not point.name.startswith("otel.")}
    for name in names - others:
        for p in receiver.latest(name):
            resource = tuple(sorted(p.resource.items()))
            kind = (name, p.unit, p.kind, p.cumulative, p.monotonic, p.bounds)
            key = (*kind, tuple(sorted(p.attributes.items())), resource)
            # How long an attempt takes, a loaded machine decides.
            buckets = () if name == "messaging.process.duration" else p.buckets
            found[key] = (p.count, buckets) if p.kind == "histogram" else p.value
    return found


def test_exemplars_lead_to_the_spans(tmp_path, receiver):
    rings = rings_in(tmp_path)
    ids = work(tmp_path, rings, 1)
    post(tmp_path, rings).flush()
    for name in ("messaging.process.duration", "worker.job.queue_wait.duration"):
        assert [span_id for point in receiver.metrics(name) for _, span_id in point.exemplars] == ids


def test_a_slots_resource_is_the_same_for_each_of_its_processes_and_spans_name_the_process(tmp_path, receiver):
    rings = rings_in(tmp_path)
    work(tmp_path, rings, 2)
    work(tmp_path, rings, 3)
    post(tmp_path, rings).flush()
    (point,) = [p for p in receiver.latest("worker.job.attempts") if p.attributes["worker.job.outcome"] == "succeeded"]
    assert point.value == 5
    assert "process.pid" not in point.resource
    assert all(span.resource["process.pid"] > 0 for span in receiver.spans())


def test_grpc_carries_the_same(tmp_path, monkeypatch):
    with GrpcReceiver() as receiver:
        for name, value in receiver.env().items():
            monkeypatch.setenv(name, value)
        rings = rings_in(tmp_path)
        ids = work(tmp_path, rings)
        post(tmp_path, rings).flush()
        assert sorted(span.span_id for span in receiver.spans()) == sorted(ids)
        assert receiver.value("worker.job.attempts") == 10


@pytest.mark.parametrize("compression", ["gzip", "deflate", "none"])
def test_headers_and_compression_are_honoured(tmp_path, receiver, monkeypatch, compression):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", compression)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Basic%20eHg=,x-tenant=blue")
    rings = rings_in(tmp_path)
    work(tmp_path, rings, 3)
    post(tmp_path, rings).flush()
    assert len(receiver.spans()) == 3
    mine = [headers for headers in receiver.headers if headers["user-agent"] == "continuum-worker"]
    assert {(h["authorization"], h["x-tenant"], h.get("content-encoding", "none")) for h in mine} == {
        ("Basic eHg=", "blue", compression)
    }


class Killed(BaseException): ...


def dies_at(reader: RingReader, call: str, number: int) -> None:
    """The exporter is killed just before its `number`th call of something."""
    inner, left = getattr(reader, call), [number]

    def dying(*args: Any, **kwargs: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise Killed
        return inner(*args, **kwargs)

    setattr(reader, call, dying)


@pytest.mark.parametrize("call", ["commit", "set_sent"])
@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_killed_exporter_counts_nothing_twice_and_loses_no_span(tmp_path, receiver, call, number):
    rings = rings_in(tmp_path)
    ids: list[str] = []
    for _ in range(3):
        ids += work(tmp_path, rings, 5)
        victim = post(tmp_path, rings).exporter
        victim.turn()
        for source in victim._sources.values():
            dies_at(source.ring, call, number)
        ids += work(tmp_path, rings, 5)
        try:
            for _ in range(3):
                victim.turn()
                batch = victim._take_spans()
                if batch is not None:
                    assert victim._spans is not None
                    assert victim._spans._destination.send(batch.body, 5).accepted
                    batch.accepted(0)
        except Killed:
            pass
        leave(victim)
    post(tmp_path, rings).flush()
    assert {span.span_id for span in receiver.spans("process deliveries")} == set(ids)
    assert receiver.value("worker.job.attempts") == len(ids) == 30
    assert receiver.value("messaging.process.duration") == 30
    assert receiver.value("messaging.client.consumed.messages") == 30


def leave(exporter: Exporter) -> None:
    """As the death of its process would: the locks are free."""
    for lock in exporter._locks.values():
        lock.release()


def until(happened: Callable[[], object], exporter: Exporter) -> None:
    deadline = time.monotonic() + 20
    exporter.turn()
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.002)
        exporter.turn()


def test_a_collector_that_comes_back_gets_what_waited(tmp_path, receiver):
    receiver.status = 503
    rings = rings_in(tmp_path)
    ids = work(tmp_path, rings)
    sender = post(tmp_path, rings)
    sender.exporter.start()
    until(lambda: receiver.asked >= 2, sender.exporter)
    assert receiver.spans() == []
    receiver.status = 200
    until(lambda: len(receiver.spans()) == 10, sender.exporter)
    sender.exporter.close(5)
    assert {span.span_id for span in receiver.spans()} == set(ids)
    assert receiver.value("worker.telemetry.dropped", signal="traces") == 0


def test_what_a_collector_refuses_for_good_is_counted_and_not_repeated(tmp_path, receiver):
    receiver.status = 400
    rings = rings_in(tmp_path)
    work(tmp_path, rings)
    sender = post(tmp_path, rings)
    sender.exporter.start()
    until(lambda: next(iter(sender.exporter._sources.values())).cells.dropped["traces"], sender.exporter)
    receiver.status = 200
    sender.exporter.close(5)
    assert receiver.spans("process deliveries") == []
    assert receiver.value("worker.telemetry.dropped", signal="traces") == 10
    assert receiver.value("worker.job.attempts") == 10


def test_a_dead_collector_costs_spans_that_are_counted_and_no_count(tmp_path, receiver):
    """The ring is small; nobody listens; an exporter dies in between. What is not dropped arrives in the end."""
    receiver.status = 503
    rings = rings_in(tmp_path, capacity=1 << 16)
    ids: list[str] = []
    for _ in range(3):
        sender = post(tmp_path, rings).exporter
        for _ in range(20):
            ids += work_silently(tmp_path, rings, 20)
            sender.turn()
        leave(sender)
    receiver.status = 200
    post(tmp_path, rings).flush()
    dropped = receiver.value("worker.telemetry.dropped", signal="traces")
    arrived = {span.span_id for span in receiver.spans("process deliveries")}
    assert arrived < set(ids)
    assert len(arrived) + dropped == len(ids) == 1200
    assert receiver.value("worker.telemetry.dropped", signal="metrics") == 0
    assert receiver.value("worker.job.attempts") == 1200


def work_silently(place: Any, rings: Any, count: int) -> list[str]:
    """As `work`, without spending a provider's life on it."""
    station = _stations.get(rings)
    if station is None:
        station = _stations[rings] = ring_station(place, rings)
    return [station.run(relay(), lease_of())[0].identity.span_id for _ in range(count)]


_stations: dict[Any, Any] = {}


def test_a_request_that_hangs_holds_up_no_count(tmp_path, receiver):
    receiver.hang()
    rings = rings_in(tmp_path)
    work_silently(tmp_path, rings, 5)
    sender = post(tmp_path, rings).exporter
    sender.start()
    until(lambda: receiver.asked, sender)
    work_silently(tmp_path, rings, 50)
    until(
        lambda: next(iter(sender._sources.values())).cells.counted == RingReader(rings.path(IDENTITY.slot)).head, sender
    )
    sender.close(0.2)  # returns though no answer will ever come
    receiver.resume()


def test_a_killed_attempts_record_comes_through_the_rescuers_ring(tmp_path, receiver):
    keeper = ProcessIdentity(app="relay", role="maintenance", slot="maintenance", instance=0, system="spool")
    rings = rings_in(tmp_path, IDENTITY.slot, keeper.slot)
    station = ring_station(tmp_path, rings, identity=keeper)
    lease = lease_of(headers={"traceparent": TRACEPARENT, "tracestate": "vendor=1"})
    record = record_of(lease, trace_id=TRACEPARENT[3:35])
    root = lease_of(headers={"traceparent": TRACEPARENT})
    station.bus.emit(lost(lease, record))
    station.bus.emit(lost(root, record_of(root, trace_id=trace_id_of(root.job.uid, 1)), reason="timeout"))
    station.bus.emit(lost(lease_of(), record_of(lease_of(), trace_id="1" * 32, sampled=False)))
    planned = lease_of()
    planned_record = record_of(planned, trace_id="2" * 32)
    station.bus.emit(lost(planned, planned_record, outcome="released", reason=None, message=""))
    known = station.telemetry.knows([record, planned_record, record_of(lease_of(), trace_id="3" * 32)])
    assert known == {record.span_id, planned_record.span_id}
    station.close()
    post(tmp_path, rings).flush()
    child, timeout, released = receiver.spans("process deliveries")
    assert (child.trace_id, child.parent_id, child.trace_state) == (TRACEPARENT[3:35], TRACEPARENT[36:52], "vendor=1")
    assert (child.status, child.message, child.attributes["worker.job.outcome"]) == (
        "error",
        "killed by signal 9",
        "lost",
    )
    assert child.span_id == span_id_of(lease.job.uid, 1)
    assert (child.start, child.end) == (int(record.started_at * 1e9), int((record.started_at + 2.5) * 1e9))
    assert (timeout.parent_id, timeout.attributes["error.type"]) == ("", "timeout")
    assert (released.status, released.attributes["worker.job.outcome"]) == ("unset", "released")
    assert receiver.value("worker.job.attempts", worker__job__outcome="lost") == 3
    assert receiver.value("worker.job.attempts", worker__job__outcome="released") == 1
    assert receiver.value("worker.job.retries", error__type="worker_lost") == 2


def test_the_record_of_an_attempt_that_had_ended_comes_through_the_rescuers_ring(tmp_path, receiver):
    keeper = ProcessIdentity(app="relay", role="maintenance", slot="maintenance", instance=0, system="spool")
    rings = rings_in(tmp_path, IDENTITY.slot, keeper.slot)
    station = ring_station(tmp_path, rings, identity=keeper)
    span_ids = ended(station.bus.emit)
    station.close()
    post(tmp_path, rings).flush()
    check_ended(receiver, span_ids)


def test_what_a_worker_told_before_it_was_killed_is_known_to_the_rescuer(tmp_path, receiver):
    rings = rings_in(tmp_path, IDENTITY.slot, "maintenance")
    dead = ring_station(tmp_path, rings)
    lease = lease_of("bad")
    attempt, _ = dead.run(relay(), lease)
    keeper = ProcessIdentity(app="relay", role="maintenance", slot="maintenance", instance=0, system="spool")
    record = record_of(lease, trace_id=attempt.identity.trace_id)
    other = record_of(lease_of(), trace_id=attempt.identity.trace_id)
    assert ring_station(tmp_path, rings, identity=keeper).telemetry.knows([record, other]) == {record.span_id}


def test_one_exporter_at_a_time_reads_the_rings_of_an_instance(tmp_path, receiver):
    rings = rings_in(tmp_path)
    lock = readers_lock(tmp_path / "run", 0)
    assert lock.take()
    work(tmp_path, rings)
    waiting = post(tmp_path, rings).exporter
    waiting.turn()
    assert waiting._sources == {}
    lock.release()
    post(tmp_path, rings).flush()
    assert len(receiver.spans()) == 10


def test_rings_of_a_tree_that_is_gone_are_drained_and_removed(tmp_path, receiver):
    theirs = rings_in(tmp_path, number=3, mark="theirs")
    ids = work(tmp_path, theirs)
    ours = rings_in(tmp_path)
    exporter = post(tmp_path, ours).exporter
    exporter.start()
    until(lambda: not theirs.path(IDENTITY.slot).exists(), exporter)
    exporter.close(5)
    assert {span.span_id for span in receiver.spans()} == set(ids)
    assert receiver.value("worker.job.attempts") == 10
    assert ours.path(IDENTITY.slot).exists()


def test_rings_of_a_living_tree_are_left_to_its_own_exporter(tmp_path, receiver):
    theirs = rings_in(tmp_path, number=3, mark="theirs")
    work(tmp_path, theirs)
    with open(tmp_path / "instances" / "3.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        exporter = post(tmp_path, rings_in(tmp_path)).exporter
        exporter.turn()
        assert exporter._sources == {}
    assert theirs.path(IDENTITY.slot).exists()


def test_a_ring_of_an_earlier_deployment_is_drained_under_its_own_name(tmp_path, receiver):
    before = rings_in(tmp_path, mark="before")
    work(tmp_path, before, 4)
    now = rings_in(tmp_path, mark="now")
    work(tmp_path, now, 4)
    exporter = post(tmp_path, now).exporter
    exporter.start()
    until(lambda: not before.path(IDENTITY.slot).exists(), exporter)
    exporter.close(5)
    assert len({span.span_id for span in receiver.spans()}) == 8


def test_threads_of_one_process_may_put_at_once(tmp_path, receiver):
    rings = rings_in(tmp_path)
    station = ring_station(tmp_path, rings)

    def settle() -> None:
        for _ in range(500):
            station.bus.emit(e.JobsSettled("deliveries", "ack", 1, 0.001))

    threads = [threading.Thread(target=settle) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    station.close()
    post(tmp_path, rings).flush()
    assert receiver.value("messaging.client.operation.duration") == 2000


def test_expired_jobs_are_counted(tmp_path, receiver):
    rings = rings_in(tmp_path)
    station = ring_station(tmp_path, rings)
    station.bus.emit(e.JobsExpired("deliveries", 7))
    station.close()
    Post(post(tmp_path, rings).exporter, tmp_path).flush()
    assert receiver.value("worker.job.dead_letters", worker__dead_letter__reason="expired") == 7
