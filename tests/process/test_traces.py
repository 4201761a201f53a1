"""What a real tree sends to a real receiver, also when its processes die."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter

from framework.model.job import span_id_of
from framework.telemetry.sdk.resource import of_series
from tests.support.processes import alive
from tests.support.receiver import Receiver
from tests.support.services.acts import Task
from tests.support.services.counted import Counted
from tests.support.services.torture import Torture
from tests.support.tree import Tree


def traced(receiver: Receiver) -> dict[str, str]:
    return {"OTEL_SDK_DISABLED": "false", **receiver.env()}


def test_n_jobs_give_n_process_spans_with_one_job_per_process(tree: Tree) -> None:
    with Receiver() as receiver:
        for number in range(20):
            tree.enqueue(Torture.sync, Task(key=f"k{number}"))
        tree.start("--queue", "sync", WORKER_QUEUES__SYNC__MAX_JOBS_PER_PROCESS="1", **traced(receiver))
        tree.wait_ledger("end ", 20)
        assert tree.stop() == 0
        spans = receiver.spans("process sync")
    assert len(spans) == 20
    assert len({span.attributes["messaging.message.id"] for span in spans}) == 20
    assert {span.status for span in spans} == {"unset"}


def test_every_attempt_of_a_poison_job_has_its_span_though_each_killed_its_process(tree: Tree) -> None:
    with Receiver() as receiver:
        tree.start("--queue", "sync", **traced(receiver))
        job_id = tree.enqueue(Torture.sync, Task(do="abort", key="poison"))
        tree.wait(lambda: tree.letters("sync"), "a dead letter")
        [letter] = tree.letters("sync")
        assert tree.stop() == 0
        spans = sorted(receiver.spans("process sync"), key=lambda span: span.start)
    assert [span.attributes["messaging.message.id"] for span in spans] == [job_id] * 3
    assert [span.status for span in spans] == ["error"] * 3
    assert {span.attributes["error.type"] for span in spans} == {"worker_lost"}
    assert [span.span_id for span in spans] == [span_id_of(letter.job.uid, delivery) for delivery in (1, 2, 3)]
    assert [failure.span_id for failure in letter.job.history] == [span.span_id for span in spans]
    assert spans[0].span_id in {link.span_id for link in spans[1].links}, "an attempt links to the one before"


def test_the_span_of_a_timed_out_attempt_covers_its_run(tree: Tree) -> None:
    with Receiver() as receiver:
        tree.start("--queue", "sync", **traced(receiver))
        tree.enqueue(Torture.sync, Task(do="swallow", key="k", until=1))
        tree.wait_ledger("end k 2")
        assert tree.stop() == 0
        first, second = sorted(receiver.spans("process sync"), key=lambda span: span.start)
    assert first.attributes["error.type"] == "timeout"
    assert first.status == "error"
    assert 1.9 < (first.end - first.start) / 1e9 < 20
    assert second.status == "unset"


def test_attempts_killed_under_concurrency_all_show_and_are_counted(tree: Tree) -> None:
    with Receiver() as receiver:
        for number in range(20):
            tree.enqueue(Torture.many, Task(do="sleep", key=f"k{number}", until=1, seconds=30))
        tree.start("--queue", "many", WORKER_QUEUES__MANY__TIMEOUT="60", **traced(receiver))
        lines = tree.wait_ledger("start ", 20)
        os.kill(int(lines[0].split()[3]), signal.SIGKILL)
        tree.wait_ledger("end ", 20)
        assert tree.stop() == 0
        spans = receiver.spans("process many")
        outcomes = Counter(span.attributes["worker.job.outcome"] for span in spans)
        by_outcome = {
            point.attributes["worker.job.outcome"]: point.value for point in receiver.latest("worker.job.attempts")
        }
    assert len({span.span_id for span in spans}) == len(spans) == 40
    assert outcomes == {"lost": 20, "succeeded": 20}
    assert by_outcome == {"lost": 20, "succeeded": 20}


def test_a_replaced_worker_keeps_its_instance_id_and_starts_no_new_series(tree: Tree) -> None:
    with Receiver() as receiver:
        tree.start("--queue", "sync", WORKER_QUEUES__SYNC__WORKERS="1", **traced(receiver))
        for number in range(3):
            tree.enqueue(Torture.sync, Task(do="exit" if number == 1 else "ok", key=f"k{number}", until=1))
        tree.wait_ledger("end ", 3)
        assert tree.stop() == 0
        ids = {
            point.resource["service.instance.id"] for point in receiver.metrics("messaging.client.consumed.messages")
        }
    assert len(ids) == 1


def test_workers_have_no_thread_of_the_sdk_and_the_exporter_reports_their_slots_and_memory(tree: Tree) -> None:
    with Receiver() as receiver:
        with Counted.connect(tree.settings):
            Counted.sync.enqueue(1)
            Counted.many.enqueue(1)
        tree.start(module="tests.support.services.counted", **traced(receiver))
        found = [json.loads(line.split(" ", 1)[1]) for line in tree.wait_ledger("", 2)]
        slots = {"maintenance", "sync/0", "many/0"}
        memory = "worker.process.memory"
        receiver.wait_for(lambda: {p.attributes["worker.process.slot"] for p in receiver.metrics(memory)} == slots)
        receiver.wait_for(lambda: len(receiver.spans("process sync") + receiver.spans("process many")) == 2)
        assert tree.stop() == 0
    assert not [name for said in found for name in said["threads"] if name.startswith("Otel")]
    limits = {point.attributes["messaging.destination.name"]: point for point in receiver.latest("worker.slots.limit")}
    assert {queue: point.value for queue, point in limits.items()} == {"sync": 1, "many": 3}
    for queue, point in limits.items():
        (span,) = receiver.spans(f"process {queue}")
        assert of_series(span.resource) == point.resource


def test_depth_and_age_come_from_maintenance_alone(tree: Tree) -> None:
    with Receiver() as receiver:
        tree.enqueue(Torture.sync, Task(key="later"), delay=3600)
        tree.start("--queue", "many", **traced(receiver))
        receiver.wait_for(
            lambda: any(
                point.value == 1 and point.attributes["worker.queue.state"] == "delayed"
                for point in receiver.metrics("worker.queue.depth")
            ),
            timeout=20,
        )
        assert tree.stop() == 0
        slots = {point.resource["service.instance.id"] for point in receiver.metrics("worker.queue.depth")}
    assert len(slots) == 1


def test_a_dead_and_a_silent_collector_neither_slow_the_jobs_nor_the_end(tree: Tree) -> None:
    with Receiver() as receiver:
        receiver.hang()
        for number in range(50):
            tree.enqueue(Torture.sync, Task(key=f"k{number}"))
        tree.start("--queue", "sync", WORKER_DRAIN="5", **traced(receiver))
        tree.wait_ledger("end ", 50)
        assert tree.stop() == 0
        assert not [pid for pid, start in tree.pids if alive(pid, start)]
        receiver.resume()
    for number in range(50):
        tree.enqueue(Torture.sync, Task(key=f"d{number}"))
    tree.start("--queue", "sync", WORKER_DRAIN="5", **traced(receiver))  # its port is closed by now
    tree.wait_ledger("end d", 50)
    assert tree.stop() == 0
    assert len(tree.events("telemetry_unreachable")) <= 1
