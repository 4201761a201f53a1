"""The span of an attempt whose process was killed is emitted by whoever rescues the job."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest

from framework.model.events import AttemptLost
from framework.model.job import RunRecord, span_id_of, trace_id_of
from framework.model.outcome import Kind
from framework.worker.executor.elsewhere import identified
from tests.telemetry.helpers import IDENTITY, SPAN, TRACE, TRACEPARENT, Relay, failure_of, lease_of, run


def lost(lease: Any, run_record: RunRecord, **changes: Any) -> AttemptLost:
    values = {"outcome": "retried", "reason": "worker_lost", "message": "killed by signal 9", "delay": 1.0} | changes
    ended = run_record.started_at + 2.5
    return AttemptLost(lease=lease, run=run_record, max_attempts=11, owner="w1", ended_at=ended, **values)


def record_of(lease: Any, *, trace_id: str, sampled: bool = True) -> RunRecord:
    return RunRecord(
        row=0,
        delivery=lease.delivery,
        attempt=lease.attempt,
        started_at=time.time() - 10,
        trace_id=trace_id,
        span_id=span_id_of(lease.job.uid, lease.delivery),
        sampled=sampled,
    )


def test_it_has_the_ids_times_parent_and_links_that_the_dead_process_would_have_given_it(receiver, stations):
    station = stations()
    before = failure_of(lease_of(), trace_id="1" * 32, span_id="2" * 16)
    headers = {"traceparent": TRACEPARENT, "tracestate": "vendor=1"}
    lease = lease_of(headers=headers, delivery=5, attempt=2, history=(before,))
    record = record_of(lease, trace_id=TRACE)
    station.bus.emit(lost(lease, record))
    station.close()
    (span,) = receiver.spans("process deliveries")
    assert (span.trace_id, span.span_id, span.parent_id) == (TRACE, record.span_id, SPAN)
    assert (span.kind, span.trace_state) == ("consumer", "vendor=1")
    assert [link.span_id for link in span.links] == [SPAN, "2" * 16]
    assert (span.start, span.end) == (int(record.started_at * 1e9), int((record.started_at + 2.5) * 1e9))
    assert (span.status, span.message) == ("error", "killed by signal 9")
    assert span.attributes["error.type"] == "worker_lost"
    assert span.attributes["worker.job.outcome"] == "lost"
    assert span.attributes["worker.job.attempt"] == 2
    assert span.attributes["worker.job.redelivered"] is True


def test_a_root_stays_a_root_whatever_the_settings_say_by_now(receiver, stations):
    station = stations(trace_linkage="parent")
    lease = lease_of(headers={"traceparent": TRACEPARENT})
    station.bus.emit(lost(lease, record_of(lease, trace_id=trace_id_of(lease.job.uid, 1)), reason="timeout"))
    station.close()
    (span,) = receiver.spans()
    assert (span.trace_id, span.parent_id) == (trace_id_of(lease.job.uid, 1), "")
    assert [link.span_id for link in span.links] == [SPAN]
    assert span.attributes["error.type"] == "timeout"


def test_a_planned_kill_is_no_error_and_released(receiver, stations):
    station = stations()
    lease = lease_of()
    record = record_of(lease, trace_id=trace_id_of(lease.job.uid, 1))
    station.bus.emit(lost(lease, record, outcome="released", reason=None, message=""))
    station.close()
    (span,) = receiver.spans()
    assert span.status == "unset"
    assert span.attributes["worker.job.outcome"] == "released"
    assert "error.type" not in span.attributes
    assert receiver.value("worker.job.attempts", worker__job__outcome="released") == 1


@pytest.mark.parametrize("traced", [True, False])
def test_an_unsampled_or_untraced_one_is_counted_and_makes_no_span(receiver, stations, traced):
    station = stations()
    lease = lease_of()
    record = record_of(lease, trace_id=TRACE if traced else "", sampled=False)
    station.bus.emit(lost(lease, record))
    station.close()
    assert receiver.spans() == []
    assert receiver.value("worker.job.attempts", worker__job__outcome="lost") == 1


def test_a_clock_that_went_back_makes_no_span_of_negative_length(receiver, stations):
    station = stations()
    lease = lease_of()
    record = record_of(lease, trace_id=TRACE)
    event = lost(lease, record)
    object.__setattr__(event, "ended_at", record.started_at - 100)
    station.bus.emit(event)
    station.close()
    (span,) = receiver.spans()
    assert span.start == span.end


def test_a_run_on_a_machine_that_is_gone_has_the_span_that_it_would_have_sent(receiver, stations):
    """Whether a worker gets its job with the next claim, or maintenance does by its rescue."""
    station = stations()
    lease = lease_of(headers={"traceparent": TRACEPARENT}, delivery=2)
    known = RunRecord(row=0, delivery=1, attempt=1, started_at=time.time() - 10)
    _, outcome = station.run(Relay(), replace(lease, previous=known))
    found = identified(station.telemetry.tracing, lease, known)
    station.close()
    (span,) = receiver.spans("process deliveries")
    assert (span.span_id, span.start) == (span_id_of(lease.job.uid, 1), int(known.started_at * 1e9))
    assert (found.trace_id, found.span_id, found.sampled) == (span.trace_id, span.span_id, True)
    assert SPAN in [link.span_id for link in span.links]
    assert (span.status, span.attributes["worker.job.outcome"]) == ("error", "lost")
    assert span.attributes["worker.job.redelivered"] is False
    assert receiver.value("worker.job.attempts", worker__job__outcome="lost") == 1
    assert receiver.value("worker.job.retries") == 1
    assert outcome.failure is not None
    assert (outcome.kind, outcome.failure.span_id) == (Kind.RETRIED, span.span_id)


FAILED = {"outcome": "dead_lettered", "reason": "rejected", "error_type": "shop.NoLuck", "message": "no luck"}


def ended(emit: Any) -> list[str]:
    """Three attempts whose worker was killed between its ledger and its telemetry; their span ids."""
    records = []
    for changes in (
        {"outcome": "succeeded", "reason": None, "message": "", "delay": 0.0},
        {"traceback": "Traceback: no luck", **FAILED},
        {"outcome": "discarded", "reason": None, "message": "not wanted"},
    ):
        lease = lease_of()
        records.append(record_of(lease, trace_id=trace_id_of(lease.job.uid, 1)))
        emit(lost(lease, records[-1], ended=True, **changes))
    return [record.span_id for record in records]


def check_ended(receiver: Any, span_ids: list[str]) -> None:
    """They are as their worker would have sent them: nothing says that they were lost."""
    found = {span.span_id: span for span in receiver.spans("process deliveries")}
    spans = [found[span_id] for span_id in span_ids]
    assert [span.attributes["worker.job.outcome"] for span in spans] == ["succeeded", "dead_lettered", "discarded"]
    assert [span.status for span in spans] == ["unset", "error", "unset"]
    assert (spans[1].message, spans[1].attributes["error.type"]) == ("no luck", "shop.NoLuck")
    assert receiver.value("worker.job.attempts") == 3
    assert receiver.value("worker.job.attempts", worker__job__outcome="succeeded") == 1
    assert receiver.value("worker.job.dead_letters", error__type="shop.NoLuck") == 1


def test_one_that_had_ended_is_sent_as_its_worker_would_have_sent_it(receiver, stations):
    station = stations()
    span_ids = ended(station.bus.emit)
    station.close()
    check_ended(receiver, span_ids)
    assert [line for line in station.lines() if line["event"] == "attempt_lost"] == []


KILLED_AND_RESCUED = """
import signal
from dataclasses import asdict
from framework.model.events import AttemptLost
from framework.model.job import RunRecord

lease = lease_of("stuck", uid=b"u" * 16, headers={"traceparent": TRACEPARENT})
read, write = os.pipe()

def worker():
    from opentelemetry import trace
    telemetry = start(identity(), load_settings())
    def stuck(ctx):
        with trace.get_tracer("service").start_as_current_span("child of the killed"):
            pass
        trace.get_tracer_provider().force_flush()
        os.write(write, b"flushed\\n")
        time.sleep(60)
    Relay.behaviours = {"stuck": stuck}
    app = Relay()
    handler, bus = app.worker_handlers["deliveries"], Bus(telemetry.subscribe)
    executor = Executor(app, handler, handler.queue.options, tracing=telemetry.tracing, emit=bus.emit)
    attempt = executor.attempt(lease)
    i = attempt.identity
    record = RunRecord(0, 1, 1, attempt.started_at, i.trace_id, i.span_id, i.sampled)
    os.write(write, json.dumps(asdict(record)).encode() + b"\\n")
    executor.run(attempt)

pid = forked(worker)
lines = os.fdopen(read)
record = RunRecord(**json.loads(lines.readline()))
assert lines.readline() == "flushed\\n"
os.kill(pid, signal.SIGKILL)
os.waitpid(pid, 0)

def rescuer():
    telemetry = start(identity("maintenance", "maintenance"), load_settings())
    telemetry.subscribe(AttemptLost(lease, record, 11, "retried", "worker_lost", "w1", time.time()))
    telemetry.shutdown(10)

reap(forked(rescuer))
"""


def test_children_that_a_killed_worker_exported_hang_on_the_rescuers_span(receiver):
    """A worker is killed inside a handler that has flushed a child span; its parent rescues by the run record."""
    run(KILLED_AND_RESCUED, receiver.env())
    (child,) = receiver.spans("child of the killed")
    (killed,) = receiver.spans("process deliveries")
    assert child.parent_id == killed.span_id == span_id_of(b"u" * 16, 1)
    assert child.trace_id == killed.trace_id == TRACE
    assert killed.parent_id == SPAN
    assert killed.attributes["worker.job.outcome"] == "lost"


def test_the_line_of_a_lost_attempt_names_the_span_that_the_rescuer_emitted(receiver, stations):
    station = stations(identity=IDENTITY)
    lease = lease_of()
    record = record_of(lease, trace_id=trace_id_of(lease.job.uid, 1))
    station.bus.emit(lost(lease, record, outcome="dead_lettered"))
    station.close()
    (line,) = station.lines()
    assert (line["event"], line["level"]) == ("attempt_lost", "error")
    assert (line["trace_id"], line["span_id"]) == (record.trace_id, record.span_id)
    assert (line["queue"], line["job_id"], line["error.type"]) == ("deliveries", lease.job.id, "worker_lost")
