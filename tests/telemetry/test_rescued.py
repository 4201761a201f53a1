"""A rescuer's record: span and counts go to whom the attempt belonged, whichever exporter reads it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from framework.model.job import trace_id_of
from framework.telemetry import ProcessIdentity
from framework.telemetry.sdk.resource import attributes_of
from tests.telemetry.helpers import IDENTITY, Relay, lease_of
from tests.telemetry.rings import post, ring_station, rings_in
from tests.telemetry.test_lost_attempts import lost, record_of

MAINTENANCE = ProcessIdentity("relay", "maintenance", "maintenance", 0, "spool")
INSTANCE = "service.instance.id"


def test_an_attempt_of_this_tree_counts_for_its_slot_one_of_another_tree_for_the_rescuer(tmp_path, receiver):
    rings = rings_in(tmp_path, IDENTITY.slot, MAINTENANCE.slot)
    worker = ring_station(tmp_path, rings)
    rescuer = ring_station(tmp_path, rings, identity=MAINTENANCE)
    app = Relay()
    app.behaviours = {"ok": lambda ctx: None}
    worker.run(app, lease_of())
    mine = json.loads(worker.telemetry.about())
    other = {**mine, INSTANCE: "of another tree", "process.pid": 7, "telemetry.sdk.name": "a lie"}
    for about in (json.dumps(mine).encode(), json.dumps(other).encode(), b"", b"not of this version"):
        lease = lease_of()
        event = lost(lease, record_of(lease, trace_id=trace_id_of(lease.job.uid, 1)))
        rescuer.bus.emit(replace(event, about=about))
    worker.close()
    rescuer.close()
    post(tmp_path, rings).flush()
    post(tmp_path, rings).flush()  # its successor repeats the counts, and no span
    spans = receiver.spans("process deliveries")
    own = next(span.resource for span in spans if span.resource[INSTANCE] == mine[INSTANCE])
    (found,) = [span.resource for span in spans if span.resource["process.pid"] == 7]
    assert len(spans) == 5
    assert found == {**own, INSTANCE: "of another tree", "process.pid": 7}
    points = {
        (point.resource[INSTANCE] == own[INSTANCE], point.attributes["worker.job.outcome"]): point.value
        for point in receiver.latest("worker.job.attempts")
    }
    assert points == {(True, "succeeded"): 1, (True, "lost"): 1, (False, "lost"): 3}
    assert receiver.value("messaging.process.duration") == 5
    keys = {key for point in receiver.metrics() for key in point.attributes}
    assert "" not in keys, "what marks another slot is never sent"


def test_a_killed_attempt_whose_span_has_no_room_counts_for_its_slot(tmp_path, receiver):
    rings = rings_in(tmp_path, IDENTITY.slot, MAINTENANCE.slot, capacity=64 << 10)
    worker = ring_station(tmp_path, rings)
    rescuer = ring_station(tmp_path, rings, identity=MAINTENANCE)
    for _ in range(300):
        lease = lease_of()
        event = lost(lease, record_of(lease, trace_id=trace_id_of(lease.job.uid, 1)))
        rescuer.bus.emit(replace(event, about=worker.telemetry.about()))
    post(tmp_path, rings).flush()
    (point,) = receiver.latest("worker.job.attempts")
    assert point.resource[INSTANCE] == attributes_of(worker.telemetry.about())[INSTANCE]
    assert 0 < len(receiver.spans("process deliveries")) < 300
    lost_counts = receiver.value("worker.telemetry.dropped", signal="metrics")
    assert point.value + lost_counts == 300


@pytest.mark.parametrize("said", [b"", b"{", b"[]", b"{}", b"\xff", b'{"service.instance.id": "i"}'])
def test_what_a_dead_process_said_is_read_whatever_it_is(said):
    assert set(attributes_of(said)) <= {INSTANCE}
