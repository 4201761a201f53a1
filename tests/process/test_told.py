"""Telemetry under SIGKILL: every attempt has one span, every count is that of the ledger, whoever dies."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from tests.faults.telemetry_kills import Run, check
from tests.support.receiver import Receiver
from tests.support.services.acts import Task
from tests.support.services.torture import Torture
from tests.support.tree import Tree


def traced(receiver: Receiver) -> dict[str, str]:
    return {"OTEL_SDK_DISABLED": "false", **receiver.env()}


def test_every_attempt_has_one_span_and_every_count_is_right_though_everybody_is_killed(tree: Tree) -> None:
    with Receiver() as receiver:
        run = Run(tree, receiver, jobs=800, seed=1, least=5)
        run.go()
        assert check(run) == []
        assert {"worker", "exporter", "maintenance"} <= run.kills.keys()


def test_what_a_collector_missed_is_counted_or_arrives_and_no_job_waits(tree: Tree) -> None:
    """It is dead for the first half; rings are large enough for all of it, so all of it arrives."""
    with Receiver() as receiver:
        receiver.status = 503
        tree.start("--queue", "sync", **traced(receiver))
        for number in range(300):
            tree.enqueue(Torture.sync, Task(key=f"k{number}"))
        tree.wait_ledger("end ", 300)
        os.kill(tree.pid("exporter"), signal.SIGKILL)
        receiver.status = 200
        receiver.wait_for(lambda: len({s.span_id for s in receiver.spans("process sync")}) == 300)
        assert tree.stop() == 0
        assert receiver.value("worker.job.attempts") == 300
        told = [event["problem"] for event in tree.events("telemetry_unreachable")]
        assert len(told) == len(set(told)), "each signal's trouble is told once for the tree, whoever was killed"


def test_a_tree_that_was_killed_whole_is_told_by_the_next_one(tree: Tree) -> None:
    with Receiver() as receiver:
        receiver.status = 503
        tree.start("--queue", "sync", **traced(receiver))
        for number in range(50):
            tree.enqueue(Torture.sync, Task(key=f"k{number}"))
        tree.wait_ledger("end ", 50)
        tree.wait(lambda: tree.stats("sync").in_flight == 0, "all settled")
        slots = tree.slots()
        tree.signal(signal.SIGSTOP)  # it must not replace anybody
        for slot in slots:
            os.kill(slot.pid, signal.SIGKILL)
        tree.signal(signal.SIGKILL)
        tree.exit_code()
        receiver.status = 200
        tree.start("--queue", "sync", **traced(receiver))
        receiver.wait_for(lambda: len({s.span_id for s in receiver.spans("process sync")}) == 50)
        assert tree.stop() == 0
        assert receiver.value("worker.job.attempts") == 50


def test_where_rings_cannot_be_had_the_sdk_sends_and_one_line_says_so(tree: Tree) -> None:
    with Receiver() as receiver:
        tree.start("--queue", "sync", OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE="delta", **traced(receiver))
        tree.enqueue(Torture.sync, Task(key="k"))
        tree.wait_ledger("end k")
        assert tree.stop() == 0
        assert len(receiver.spans("process sync")) == 1
    assert not list((tree.root / "run").glob("*.ring"))
    (line,) = [e for e in tree.events() if "does not outlive" in e["event"]]
    assert "TEMPORALITY_PREFERENCE=delta" in line["event"]
    assert not tree.events("process_ready", slot="exporter")


def test_a_service_whose_telemetry_is_off_has_no_exporter(tree: Tree) -> None:
    tree.start("--queue", "sync")
    assert {slot.name for slot in tree.slots()} == {"maintenance", "sync/0", "sync/1"}
    assert not list(Path(tree.root / "run").glob("*.ring"))
    assert tree.stop() == 0


def test_an_exporter_that_dies_again_and_again_neither_stops_the_service_nor_charges_a_job(tree: Tree) -> None:
    with Receiver() as receiver:
        tree.start("--queue", "sync", WORKER_RESTART_BUDGET="1", **traced(receiver))
        for number in range(1, 4):
            pid = tree.pid("exporter")
            os.kill(pid, signal.SIGKILL)
            tree.wait(lambda old=pid: tree.pid("exporter") not in (0, old), "a new exporter")  # type: ignore[misc]
            tree.enqueue(Torture.sync, Task(key=f"k{number}"))
            tree.wait_ledger("end ", number)
        assert tree.stop() == 0
        assert receiver.value("worker.job.attempts") == 3


def test_a_drain_starts_an_exporter_that_was_killed_again_and_again(tree: Tree) -> None:
    """Regression: after four short lives it counted as one that never works, and what it had to send stayed."""
    with Receiver() as receiver:
        tree.start("--queue", "sync", **traced(receiver))
        for lives in range(1, 6):
            tree.wait(lambda n=lives: len(tree.events("process_ready", slot="exporter")) == n, "it is ready")  # type: ignore[misc]
            os.kill(tree.pid("exporter"), signal.SIGKILL)
            tree.wait(lambda n=lives: len(tree.events("process_exited", slot="exporter")) == n, "it is dead")  # type: ignore[misc]
        tree.enqueue(Torture.sync, Task(key="k"))
        tree.wait_ledger("end k")
        assert tree.stop() == 0
        assert receiver.value("worker.job.attempts") == 1


def test_fresh_interpreters_use_the_rings_too(tree: Tree) -> None:
    with Receiver() as receiver:
        tree.start("--queue", "sync", WORKER_START_METHOD="spawn", **traced(receiver))
        tree.enqueue(Torture.sync, Task(key="k"))
        tree.wait_ledger("end k")
        assert tree.stop() == 0
        assert len(receiver.spans("process sync")) == 1
        (point,) = receiver.latest("messaging.process.duration")
        assert "process.pid" not in point.resource
