"""A worker with a ring makes the SDK's providers when a handler first uses them; the exporter observes the worker."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from opentelemetry.sdk.version import __version__ as SDK_VERSION

from framework.process.scoreboard import READY, Scoreboard
from framework.telemetry import names
from framework.telemetry.export.health import Drops
from tests.support.receiver import Receiver
from tests.telemetry.helpers import IDENTITY, Relay, lease_of, run
from tests.telemetry.rings import post, ring_station, rings_in

RINGED = """
from pathlib import Path
from opentelemetry import metrics, trace
from tests.telemetry.rings import rings_in
at_import = trace.get_tracer("at import")
def threads():
    return sorted(thread.name for thread in threading.enumerate() if thread.name.startswith(("Otel", "opentel")))
telemetry = start(identity(), load_settings(), rings_in(Path(os.environ["PLACE"])))
"""


def test_a_worker_that_makes_nothing_with_the_sdk_has_none_of_its_threads(receiver: Receiver, tmp_path: Path) -> None:
    run(
        RINGED
        + """
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider
assert isinstance(trace.get_tracer_provider(), TracerProvider)
assert isinstance(metrics.get_meter_provider(), MeterProvider)
trace.get_tracer("made in the worker")
run_jobs(telemetry, 5)
assert threading.active_count() == 1, threads()
telemetry.shutdown(5)
""",
        receiver.env() | {"PLACE": str(tmp_path), "WORKER_LOG_LEVEL": "error"},
    )
    assert receiver.asked == 0


def test_what_a_handler_makes_hangs_under_the_attempt_and_has_the_slots_resource(
    receiver: Receiver, tmp_path: Path
) -> None:
    env = receiver.env() | {"PLACE": str(tmp_path), "WORKER_LOG_LEVEL": "error"}
    out = run(
        RINGED
        + """
in_worker = trace.get_tracer("in the worker")
seen = []
def work(ctx):
    seen.append(trace.get_current_span().get_span_context())
    with at_import.start_as_current_span("outer"):
        with in_worker.start_as_current_span("inner"):
            pass
    metrics.get_meter("service").create_counter("orders").add(2)
run_jobs(telemetry, 2, "work", work)
assert threads() == ["OtelBatchSpanRecordProcessor", "OtelPeriodicExportingMetricReader"], threads()
print(os.getpid(), *(f"{context.span_id:016x}" for context in seen))
telemetry.shutdown(10)
""",
        env,
    )
    pid, *attempts = out.split()
    outer, inner = receiver.spans("outer"), receiver.spans("inner")
    assert [span.parent_id for span in outer] == attempts
    assert [span.parent_id for span in inner] == [span.span_id for span in outer]
    assert {span.scope for span in inner} == {"in the worker"}
    assert receiver.value("orders") == 4
    post(tmp_path, rings_in(tmp_path)).flush()
    processes = receiver.spans("process deliveries")
    assert [span.span_id for span in processes] == attempts
    by_sdk = {"telemetry.sdk.name": "opentelemetry", "telemetry.sdk.version": SDK_VERSION}
    assert [span.resource for span in outer + inner] == [processes[0].resource | by_sdk] * 4
    assert processes[0].resource["telemetry.sdk.name"] == "continuum-worker"
    assert processes[0].resource["process.pid"] == int(pid)
    (orders,), consumed = receiver.latest("orders"), receiver.latest(names.ATTEMPTS)
    assert orders.resource == consumed[0].resource


def test_a_handler_that_forks_before_the_first_use_sends_the_childs_spans_and_counts_nothing_there(
    receiver: Receiver, tmp_path: Path
) -> None:
    run(
        RINGED
        + """
counter = None
def child():
    with trace.get_tracer("service").start_as_current_span("in the child"): pass
    metrics.get_meter("service").create_counter("orders").add(1)
    trace.get_tracer_provider().force_flush()
    metrics.get_meter_provider().force_flush()
def fork(ctx):
    reap(forked(child))
    with trace.get_tracer("service").start_as_current_span("in the worker"): pass
    metrics.get_meter("service").create_counter("orders").add(1)
run_jobs(telemetry, 1, "fork", fork)
telemetry.shutdown(10)
""",
        receiver.env(fast=False) | {"PLACE": str(tmp_path), "WORKER_LOG_LEVEL": "error"},
    )
    (child,), (parent,) = receiver.spans("in the child"), receiver.spans("in the worker")
    assert child.parent_id == parent.parent_id != ""
    assert receiver.value("orders") == 1


@pytest.mark.parametrize("broken", [True, False])
def test_a_signal_that_cannot_be_sent_is_named_at_its_first_use_and_costs_no_job(
    receiver: Receiver, tmp_path: Path, broken: bool
) -> None:
    out = run(
        RINGED
        + """
from framework.telemetry.sdk import providers
def refused(*args, **kwargs):
    raise OSError("no certificate")
if os.environ["BROKEN"]:
    providers.exporters = refused
def work(ctx):
    with at_import.start_as_current_span("outer"): pass
run_jobs(telemetry, 2, "work", work)
telemetry.shutdown(5)
""",
        receiver.env() | {"PLACE": str(tmp_path), "WORKER_LOG_LEVEL": "error", "BROKEN": "1" if broken else ""},
    )
    assert out.count("telemetry_off") == broken
    assert len(receiver.spans("outer")) == (0 if broken else 2)


def test_a_soft_timeout_during_the_first_use_leaves_no_lock_and_no_half_made_provider(
    receiver: Receiver, tmp_path: Path
) -> None:
    run(
        RINGED
        + """
import signal
from framework.telemetry.sdk import providers
making, go = threading.Event(), threading.Event()
exporters = providers.exporters
def slow(signal, *args, **kwargs):
    making.set()
    go.wait()
    return exporters(signal, *args, **kwargs)
providers.exporters = slow
class Soft(BaseException): pass
def interrupt(*_):
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
    raise Soft
signal.signal(signal.SIGALRM, interrupt)
def poke():
    making.wait()
    os.kill(os.getpid(), signal.SIGALRM)
    while not go.wait(0.05):  # Python does not see a signal that comes just before it begins to wait
        os.kill(os.getpid(), signal.SIGALRM)
threading.Thread(target=poke).start()
try:
    at_import.start_span("never")
    raise AssertionError("not interrupted")
except Soft:
    go.set()
with at_import.start_as_current_span("later"): pass
assert threads().count("OtelBatchSpanRecordProcessor") == 1, threads()
telemetry.shutdown(10)
""",
        receiver.env() | {"PLACE": str(tmp_path), "WORKER_LOG_LEVEL": "error"},
    )
    assert len(receiver.spans("later")) == 1


def test_the_exporter_reports_what_the_sdk_would_observe_in_a_worker(
    receiver: Receiver, stations: object, tmp_path: Path
) -> None:
    rings = rings_in(tmp_path, "maintenance", "deliveries/0", "deliveries/1")
    board = Scoreboard.in_memory([("maintenance", 0), ("deliveries/0", 3), ("deliveries/1", 3)], app="relay")
    board.set_pid(1, os.getpid(), 1)
    board.set_state(1, READY, 1)
    board.row_writer(1, 0).start("a", 1, 1, 0, 0, "deliveries")
    board.row_writer(1, 2).start("b", 1, 1, 0, 0, "others")
    worker = ring_station(tmp_path, rings)
    maintenance = ring_station(tmp_path, rings, identity=replace(IDENTITY, role="maintenance", slot="maintenance"))
    worker.drops.add("logs", 2)
    sent = post(tmp_path, rings)
    sent.exporter.observe(board, {slot: (3, ["deliveries", "others"]) for slot in ("deliveries/0", "deliveries/1")})
    sent.flush()
    for name, expected in ((names.SLOTS_LIMIT, {2}), (names.SLOTS_USED, {1})):
        points = receiver.latest(name)
        assert {point.attributes[names.DESTINATION] for point in points} == {"deliveries", "others"}
        assert ({point.value for point in points}, {point.unit for point in points}) == (expected, {"{slot}"})
        assert {(point.kind, point.monotonic, point.cumulative) for point in points} == {("sum", False, True)}
    (memory,) = receiver.latest(names.PROCESS_MEMORY)
    assert memory.attributes == {names.SYSTEM: "spool", names.SLOT: "deliveries/0"}
    assert (memory.value > 1 << 20, memory.unit, memory.monotonic) == (True, "By", False)
    lost = {
        point.attributes["signal"]: point.value
        for point in receiver.latest(names.DROPPED)
        if point.resource == memory.resource
    }
    assert lost == {"traces": 0, "metrics": 0, "logs": 2}

    maintenance.close()  # what the SDK reports from a process has the same shape
    by_sdk = [point for point in receiver.latest(names.PROCESS_MEMORY) if point.attributes != memory.attributes]
    assert [(p.kind, p.unit, p.monotonic, p.cumulative) for p in by_sdk] == [("sum", "By", False, True)]
    assert by_sdk[0].resource.keys() == memory.resource.keys()


def test_a_worker_that_is_dead_or_another_process_is_not_reported(receiver: Receiver, tmp_path: Path) -> None:
    rings = rings_in(tmp_path)
    board = Scoreboard.in_memory([(IDENTITY.slot, 1)], app="relay")
    worker = ring_station(tmp_path, rings)
    worker.run(Relay(), lease_of("nothing"))
    board.set_pid(0, os.getppid(), 1)
    sent = post(tmp_path, rings)
    sent.exporter.observe(board, {IDENTITY.slot: (1, ["deliveries"])})
    sent.flush()
    assert receiver.latest(names.ATTEMPTS)
    assert receiver.latest(names.SLOTS_LIMIT) == receiver.latest(names.PROCESS_MEMORY) == []


def test_counts_of_lost_items_outlive_the_process_but_a_forked_child_adds_nothing(
    receiver: Receiver, tmp_path: Path
) -> None:
    rings = rings_in(tmp_path)
    first = ring_station(tmp_path, rings)
    first.drops.add("logs", 1)
    second = ring_station(tmp_path, rings)
    second.drops.add("logs", 2)
    if not (pid := os.fork()):
        try:
            second.drops.add("logs", 100)
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    post(tmp_path, rings).flush()
    found = [p.value for p in receiver.latest(names.DROPPED) if p.attributes["signal"] == "logs"]
    assert found == [3]


def test_what_was_lost_before_the_ring_was_open_is_handed_on() -> None:
    drops, heard = Drops(), dict.fromkeys(("traces", "metrics", "logs"), 0)
    drops.add("logs", 3)
    drops.hand_on(lambda signal, items: heard.update({signal: heard[signal] + items}))
    drops.add("logs")
    assert heard == {"traces": 0, "metrics": 0, "logs": 4} == drops.counts()
