"""What handlers get, in real processes of each kind: hooks around their runs, checkpoints, progress."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from framework import Queue
from tests.support import postgres
from tests.support.services.handling import Handling, Task
from tests.support.tree import Tree, trees

MODULE = "tests.support.services.handling"
KINDS: dict[str, Queue[Task]] = {"plain": Handling.plain, "threads": Handling.threads, "later": Handling.later}
ended = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Tree]:
    for found in trees(tmp_path):
        found.app = Handling
        yield found


def start(tree: Tree, kind: str, **environ: str) -> None:
    tree.start("--queue", KINDS[kind].name, module=MODULE, **environ)


def put(tree: Tree, kind: str, do: Any, key: str = "k") -> str:
    return tree.enqueue(KINDS[kind], Task(do=do, key=key))


def interrupted(kind: str, why: str) -> str:
    """Return how an interruption looks to `around`."""
    return "CancelledError()" if kind == "later" else f"JobInterrupted({why})"


@ended
def test_the_exit_part_runs_at_the_soft_timeout(tree: Tree, kind: str) -> None:
    start(tree, kind)
    job_id = put(tree, kind, "wait")
    tree.wait_event("job_finished", job_id=job_id, outcome="succeeded")
    failed = tree.events("job_finished", job_id=job_id)[0]
    assert (failed["outcome"], failed["reason"], failed["attempt"]) == ("retried", "timeout", 1)
    assert tree.ran("exit") == [f"exit {kind} k 1 {interrupted(kind, 'timeout')}", f"exit {kind} k 2 ok"]
    assert tree.ran("aexit") == (["aexit k 1", "aexit k 2"] if kind == "later" else [])
    assert tree.stop() == 0
    assert {reason for _, reason, _ in tree.exits()} == {"drained"}


@ended
def test_the_exit_part_runs_at_the_end_of_a_drain(tree: Tree, kind: str) -> None:
    start(tree, kind, WORKER_DRAIN="2", **{f"WORKER_QUEUES__{kind.upper()}__TIMEOUT": "60"})
    job_id = put(tree, kind, "wait")
    tree.wait_ledger(f"run {kind} k 1")
    assert tree.stop() == 0
    assert tree.events("job_finished", job_id=job_id)[0]["outcome"] == "released"
    assert tree.ran("exit") == [f"exit {kind} k 1 {interrupted(kind, 'draining')}"]


@pytest.mark.parametrize("kind", ["plain", "threads"])
def test_a_timeout_interrupts_the_handler_and_neither_enter_nor_exit_part(tree: Tree, kind: str) -> None:
    start(tree, kind)
    late = put(tree, kind, "late exit", "x")
    assert tree.wait_event("job_finished", job_id=late)["outcome"] == "succeeded"
    early = put(tree, kind, "late enter", "e")
    tree.wait_event("job_finished", job_id=early, outcome="succeeded")
    assert tree.events("job_finished", job_id=early)[0]["reason"] == "timeout"
    assert tree.ran("exit") == [
        f"exit {kind} x 1 ok", f"exit {kind} e 1 JobInterrupted(timeout)", f"exit {kind} e 2 ok",
    ]  # fmt: skip
    assert tree.stop() == 0


def killed_after_each_save(tree: Tree, kind: str) -> None:
    start(tree, kind)
    other = put(tree, kind, "ok", "other")
    job_id = put(tree, kind, "die")
    tree.wait_event("job_finished", job_id=job_id, outcome="succeeded")
    assert [line.split(" ", 4)[3:] for line in tree.ran(f"run {kind} k")] == [
        ["1", "None"], ["2", "{'at': 1}"], ["3", "{'at': 2}"],
    ]  # fmt: skip
    tree.wait_event("job_finished", job_id=other, outcome="succeeded")
    assert tree.stop() == 0


@ended
def test_a_worker_that_is_killed_after_a_save_loses_nothing_of_it(tree: Tree, kind: str) -> None:
    killed_after_each_save(tree, kind)


@pytest.mark.parametrize("kind", ["plain", "later"])
def test_the_same_on_postgresql(tmp_path: Path, kind: str) -> None:
    postgres.empty(postgres.shared())
    for tree in trees(tmp_path, f"{postgres.shared().url}?local_dir={tmp_path}/spool"):
        tree.app = Handling
        killed_after_each_save(tree, kind)


@ended
def test_ps_shows_the_progress_of_what_runs(tree: Tree, kind: str) -> None:
    start(tree, kind, **{f"WORKER_QUEUES__{kind.upper()}__TIMEOUT": "60"})
    job_id = put(tree, kind, "report")
    tree.wait_ledger(f"run {kind} k 1")

    def reported() -> dict[str, Any]:
        (found,) = json.loads(tree.run_worker("ps", "--json"))
        jobs = [job for process in found["processes"] for job in process["jobs"]]
        return next((job["progress"] or {} for job in jobs if job["id"] == job_id), {})

    tree.wait(reported, "a progress on the board's copy")
    assert reported() == {"done": 3, "total": 10, "text": "three\tof ten"}
    assert "3 of 10 (30 %): three of ten" in tree.run_worker("ps")
    Path(f"{tree.ledger_path}.go").touch()
    tree.wait_event("job_finished", job_id=job_id, outcome="succeeded")
    tree.wait(lambda: "progress" not in tree.run_worker("ps"), "no progress of a job that has ended")
    assert tree.stop() == 0


def test_a_progress_that_can_not_be_written_stops_no_job(tree: Tree) -> None:
    start(tree, "plain")
    (board,) = tree.boards()
    board.with_suffix(".progress").mkdir()
    Path(f"{tree.ledger_path}.go").touch()
    job_id = put(tree, "plain", "report")
    assert tree.wait_event("job_finished", job_id=job_id)["outcome"] == "succeeded"
    assert tree.stop() == 0


def test_jobs_show_prints_the_checkpoint(tree: Tree) -> None:
    start(tree, "plain", WORKER_QUEUES__PLAIN__RETRY__MAX_RETRIES="0")
    job_id = put(tree, "plain", "die")
    tree.wait_event("attempt_lost", job_id=job_id, then="dead_lettered")
    assert 'saved       {"at":1}' in tree.run_worker("jobs", "show", MODULE, job_id)
    assert json.loads(tree.run_worker("jobs", "show", MODULE, job_id, "--json"))["extras"]["saved"] == '{"at":1}'
    tree.signal(signal.SIGTERM)
    assert tree.exit_code() == 0
