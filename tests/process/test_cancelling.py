"""Cancelled jobs in a running service: the handler is asked to stop, interrupted, killed; the job never runs again."""

from __future__ import annotations

import os
import signal
from contextlib import closing
from typing import Any

import pytest

from framework import Queue
from tests.support.services.acts import Task
from tests.support.services.torture import Torture
from tests.support.tree import Tree

MODULE = "tests.support.services.torture"
KINDS: dict[str, tuple[Queue[Task], dict[str, str]]] = {
    "sync": (Torture.sync, {}),
    "threads": (Torture.sync, {"WORKER_QUEUES__SYNC__CONCURRENCY": "3"}),
    "async": (Torture.many, {}),
}
PATIENT = {"WORKER_QUEUES__SYNC__TIMEOUT": "600", "WORKER_QUEUES__MANY__TIMEOUT": "600"}


def begin(tree: Tree, kind: str, do: Any, key: str = "k", **fields: Any) -> tuple[Queue[Task], str]:
    """Starts the tree with one job, whose handler runs; `kill_after` is a second."""
    queue, environ = KINDS[kind]
    tree.start("--queue", queue.name, **PATIENT, **environ)
    job_id = tree.enqueue(queue, Task(do=do, key=key, **fields))
    tree.wait_ledger(f"start {key}")
    return queue, job_id


def cancel(tree: Tree, queue: Queue[Task], job_id: str) -> str:
    with queue.connected(tree.producer):
        return queue.cancel(job_id)


def wait_cancelled(tree: Tree, queue: Queue[Task], *ids: str) -> None:
    def listed() -> bool:
        with closing(tree.broker()) as broker:
            return sorted(view.job.id for view in broker.browse(queue.name, "cancelled")) == sorted(ids)

    tree.wait(listed, f"{ids} are listed as cancelled")


@pytest.mark.parametrize("kind", KINDS)
def test_a_handler_that_looks_stops_by_itself(tree: Tree, kind: str) -> None:
    """What it raises then does not matter: the job is neither retried nor put back."""
    queue, job_id = begin(tree, kind, "snooze_when_draining")
    other = tree.enqueue(queue, Task(do="steps", seconds=0.1, key="other"))
    assert cancel(tree, queue, job_id) == "stopping"
    finished = tree.wait_event("job_finished", job_id=job_id)
    assert (finished["outcome"], finished["level"]) == ("cancelled", "info")
    assert tree.wait_event("job_finished", job_id=other)["outcome"] == "succeeded"
    wait_cancelled(tree, queue, job_id)
    assert cancel(tree, queue, job_id) == "cancelled"
    assert len(tree.ran("start k")) == 1
    assert tree.events("process_killed") == []
    assert tree.stop() == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_handler_that_does_not_look_is_interrupted(tree: Tree, kind: str) -> None:
    queue, job_id = begin(tree, kind, "work", seconds=600)
    assert cancel(tree, queue, job_id) == "stopping"
    assert tree.wait_event("job_finished", job_id=job_id)["outcome"] == "cancelled"
    wait_cancelled(tree, queue, job_id)
    tree.enqueue(queue, Task(key="next"))
    tree.wait_ledger("end next")
    assert (len(tree.ran("start k")), tree.ran("end k")) == (1, [])
    assert tree.events("process_killed") == []
    assert tree.stop() == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_handler_that_ignores_all_is_killed_and_no_other_job_is_charged(tree: Tree, kind: str) -> None:
    queue, job_id = begin(tree, kind, "swallow")
    other = tree.enqueue(queue, Task(do="steps", seconds=1.5, key="other"))
    assert cancel(tree, queue, job_id) == "stopping"
    lost = tree.wait_event("attempt_lost", job_id=job_id)
    assert (lost["then"], lost.get("reason")) == ("cancelled", None)
    assert "swallowed" in tree.ledger(), "it was interrupted before"
    assert tree.events("process_killed", kill_reason="timeout")
    wait_cancelled(tree, queue, job_id)
    assert tree.wait_event("job_finished", job_id=other)["attempt"] == 1
    tree.enqueue(queue, Task(key="next"))
    tree.wait_ledger("end next")
    assert len(tree.ran("start k")) == 1
    assert len(tree.events("attempt_lost")) == 1
    assert tree.stop() == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_handler_that_ends_before_it_is_interrupted_has_succeeded(tree: Tree, kind: str) -> None:
    queue, job_id = begin(tree, kind, "work", seconds=0.3)
    assert cancel(tree, queue, job_id) == "stopping"
    assert tree.wait_event("job_finished", job_id=job_id)["outcome"] == "succeeded"
    tree.wait(lambda: cancel(tree, queue, job_id) == "unknown", "it has ended")
    wait_cancelled(tree, queue)
    assert tree.stop() == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_job_whose_worker_is_killed_behind_the_cancellation_is_not_delivered_again(tree: Tree, kind: str) -> None:
    queue, job_id = begin(tree, kind, "sleep")
    [line] = tree.ran("start k")
    assert cancel(tree, queue, job_id) == "stopping"
    os.kill(int(line.split()[3]), signal.SIGKILL)
    assert tree.wait_event("attempt_lost", job_id=job_id)["then"] == "cancelled"
    wait_cancelled(tree, queue, job_id)
    tree.enqueue(queue, Task(key="next"))
    tree.wait_ledger("end next")
    assert len(tree.ran("start k")) == 1
    assert tree.stop() == 0


def test_a_job_that_waits_in_a_worker_behind_a_long_one_does_not_start(tree: Tree) -> None:
    """The long one keeps the interpreter, so the process cannot give back what waits in it."""
    environ = {"WORKER_QUEUES__SYNC__WORKERS": "1", **PATIENT}
    with Torture.sync.connected(tree.producer):
        Torture.sync.enqueue_many([Task(key="quick") for _ in range(400)])
        Torture.sync.enqueue(Task(do="hold_gil", seconds=3, key="long"))
        waiting = [Torture.sync.enqueue(Task(key=f"w{number}")) for number in range(5)]
    tree.start("--queue", "sync", **environ)
    tree.wait_ledger("start long")
    told = [cancel(tree, Torture.sync, job_id) for job_id in waiting]
    assert set(told) <= {"cancelled", "stopping"}
    tree.wait_ledger("end long")
    wait_cancelled(tree, Torture.sync, *waiting)
    assert tree.ran("start w") == []
    assert tree.stop() == 0


def test_the_command_cancels_what_waits_and_what_runs(tree: Tree) -> None:
    tree.environ["WORKER_ACTOR"] = "ada"
    queue, running = begin(tree, "sync", "work", seconds=600)
    delayed = tree.enqueue(queue, Task(key="later"), delay=600)
    out = tree.run_worker("jobs", "cancel", MODULE, running, delayed, "--yes")
    assert out == "cancelled 2 jobs; 1 of them still runs until its worker stops it, or it ends\n"
    acted = tree.wait_event("operator_acted", verb="cancel")
    assert (acted["actor"], acted["count"], acted["queue"]) == ("ada", 2, "sync")
    assert tree.wait_event("job_finished", job_id=running)["outcome"] == "cancelled"
    wait_cancelled(tree, queue, running, delayed)
    assert tree.stop() == 0
