"""Batch handlers in real processes: full batches, outcomes, timeouts, drains, and a kill in the middle of one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from framework import Queue
from tests.support import postgres
from tests.support.receiver import Receiver
from tests.support.registry import violations
from tests.support.services.handling import Handling, Task
from tests.support.tree import Tree, trees

MODULE = "tests.support.services.handling"
KINDS: dict[str, Queue[Task]] = {"bulk": Handling.bulk, "abulk": Handling.abulk}
both = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Tree]:
    for found in trees(tmp_path):
        found.app = Handling
        yield found


def put(tree: Tree, kind: str, do: Any, *keys: str) -> list[str]:
    return [tree.enqueue(KINDS[kind], Task(do=do, key=key)) for key in keys]


def batches(tree: Tree, kind: str) -> list[list[str]]:
    return [line.split()[2:] for line in tree.ran(f"batch {kind} ")]


def ended(tree: Tree, job_ids: list[str], outcome: str) -> list[dict[str, Any]]:
    """Wait until each of the jobs has ended so; return how."""
    return [tree.wait_event("job_finished", job_id=job_id, outcome=outcome) for job_id in job_ids]


def a_backlog(tree: Tree, kind: str) -> None:
    jobs = put(tree, kind, "ok", *(f"j{number}" for number in range(30)))
    tree.start("--queue", kind, module=MODULE)
    ended(tree, jobs, "succeeded")
    found = batches(tree, kind)
    assert sorted(job for batch in found for job in batch) == sorted(f"j{number}.1" for number in range(30))
    assert max(map(len, found)) == 10
    assert len(tree.events("in a batch")) == 30
    assert {event["job_id"] for event in tree.events("in a batch")} == set(jobs), "each item logs as its own job"
    assert tree.stop() == 0


@both
def test_a_backlog_comes_in_batches(tree: Tree, kind: str) -> None:
    a_backlog(tree, kind)


@both
def test_a_backlog_on_postgresql(tmp_path: Path, kind: str) -> None:
    postgres.empty(postgres.shared())
    for tree in trees(tmp_path, f"{postgres.shared().url}?local_dir={tmp_path}/spool"):
        tree.app = Handling
        a_backlog(tree, kind)


@both
def test_each_job_ends_by_its_own_outcome(tree: Tree, kind: str) -> None:
    good, bad = put(tree, kind, "ok", "a", "b"), put(tree, kind, "reject", "r")
    tree.start("--queue", kind, module=MODULE)
    ended(tree, good, "succeeded")
    (letter,) = ended(tree, bad, "dead_lettered")
    assert (letter["reason"], letter["message"]) == ("rejected", "not this one")
    raised = put(tree, kind, "raise", "x")
    ended(tree, raised, "succeeded")
    assert tree.events("job_finished", job_id=raised[0])[0]["message"] == "all of them"
    assert tree.stop() == 0


@both
def test_the_timeout_is_that_of_the_batch(tree: Tree, kind: str) -> None:
    jobs = [*put(tree, kind, "ok", "a", "b"), *put(tree, kind, "wait", "w")]
    tree.start("--queue", kind, module=MODULE)
    ended(tree, jobs, "succeeded")
    together = next(batch for batch in batches(tree, kind) if "w.1" in batch)
    for job_id, key in zip(jobs, ("a", "b", "w"), strict=True):
        first = tree.events("job_finished", job_id=job_id)[0]
        assert first.get("reason") == ("timeout" if f"{key}.1" in together else None)
    assert tree.stop() == 0


@both
def test_a_drain_gives_all_of_a_batch_back(tree: Tree, kind: str) -> None:
    jobs = put(tree, kind, "wait", "a", "b", "c")
    tree.start("--queue", kind, module=MODULE, WORKER_DRAIN="2", **{f"WORKER_QUEUES__{kind.upper()}__TIMEOUT": "60"})
    tree.wait(lambda: sum(map(len, batches(tree, kind))) == 3, "all in a batch")
    assert tree.stop() == 0
    assert {event["outcome"] for job in jobs for event in tree.events("job_finished", job_id=job)} == {"released"}


@both
def test_a_kill_charges_all_of_the_batch_and_nothing_is_lost(tree: Tree, kind: str) -> None:
    jobs = [*put(tree, kind, "ok", "a", "b"), *put(tree, kind, "die", "d")]
    tree.start("--queue", kind, module=MODULE)
    ended(tree, jobs, "succeeded")
    together = next(batch for batch in batches(tree, kind) if "d.1" in batch)
    for job_id, key in zip(jobs, ("a", "b", "d"), strict=True):
        lost = tree.events("attempt_lost", job_id=job_id)
        assert [event["reason"] for event in lost] == ["worker_lost"] * (f"{key}.1" in together)
    assert tree.stop() == 0


@both
def test_the_span_of_a_batch_links_to_those_of_its_attempts(tree: Tree, kind: str) -> None:
    put(tree, kind, "ok", *"abc")
    with Receiver() as receiver:
        tree.start("--queue", kind, module=MODULE, OTEL_SDK_DISABLED="false", **receiver.env())
        receiver.wait_for(lambda: len(receiver.spans(f"process {kind}")) == 3)
        assert tree.stop() == 0
    runs = {(span.trace_id, span.span_id) for span in receiver.spans(f"process {kind}")}
    found = receiver.spans(f"batch {kind}")
    assert {(link.trace_id, link.span_id) for span in found for link in span.links} == runs
    assert sum(span.attributes["messaging.batch.message_count"] for span in found) == 3
    assert {span.parent_id for span in found} == {""}
    assert violations(receiver.spans(), []) == set()


def test_solo_runs_a_batch_for_each_job(tree: Tree) -> None:
    jobs = [*put(tree, "bulk", "ok", "a", "b"), *put(tree, "abulk", "ok", "c")]
    tree.start("--solo", module=MODULE, ready=False)
    ended(tree, jobs, "succeeded")
    assert [*batches(tree, "bulk"), *batches(tree, "abulk")] == [["a.1"], ["b.1"], ["c.1"]]
    assert tree.stop() == 0
