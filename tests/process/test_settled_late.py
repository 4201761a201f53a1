"""A handler has returned and its worker is killed before the engine has heard of it: the job is finished all the same.

Regression: without telemetry it became a dead letter, `worker_lost`: telemetry decided the fate of jobs.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import pytest

from framework.engine.port import JobView
from tests.support.receiver import Receiver
from tests.support.services.acts import Act, Task
from tests.support.services.held import Held
from tests.support.tree import Tree

Way = Literal["rings", "sdk", "off"]
WAYS: tuple[Way, ...] = ("rings", "sdk", "off")


@contextmanager
def telemetry(way: Way) -> Iterator[tuple[dict[str, str], Receiver | None]]:
    """The environment for a way that telemetry can go; and who receives, where something does."""
    if way == "rings":
        with Receiver() as receiver:
            yield {"OTEL_SDK_DISABLED": "false", **receiver.env()}, receiver
    elif way == "sdk":  # a console exporter needs it
        off = {f"OTEL_{signal}_EXPORTER": "none" for signal in ("METRICS", "LOGS")}
        yield {"OTEL_SDK_DISABLED": "false", "OTEL_TRACES_EXPORTER": "console", **off}, None
    else:
        yield {"OTEL_SDK_DISABLED": "true"}, None


def kill_in_the_middle(tree: Tree, queue: str, task: Task, environ: dict[str, str], held: str = "settle") -> None:
    """Run one job, and kill its worker in the middle of what is held. Return when its rescuer is done."""
    tree.enqueue(getattr(Held, queue), task)
    tree.start("--queue", queue, module="tests.support.services.held:Held", HELD=held, **environ)
    (line,) = tree.wait_ledger("held ")
    os.kill(int(line.split()[1]), signal.SIGKILL)
    tree.wait(lambda: tree.stats(queue).in_flight == 0, "the job is settled")


@pytest.mark.parametrize("queue", ["sync", "many"])
@pytest.mark.parametrize("way", WAYS)
def test_a_success_is_finished_whatever_telemetry_does(tree: Tree, queue: str, way: Way) -> None:
    with telemetry(way) as (environ, receiver):
        kill_in_the_middle(tree, queue, Task(key="k"), environ)
        stats = tree.stats(queue)
        assert (stats.ready, stats.delayed, stats.dead) == (0, 0, 0)
        assert tree.stop() == 0
        assert len(tree.ran("start k")) == 1
        assert tree.events("attempt_lost") == []
        if receiver is not None:
            (span,) = {span.span_id: span for span in receiver.spans(f"process {queue}")}.values()
            assert span.attributes["worker.job.outcome"] == "succeeded"
            assert receiver.value("worker.job.attempts") == 1
        assert list((tree.root / "ledgers").iterdir()) == [], "no ledger is left"


@pytest.mark.parametrize("way", WAYS)
def test_a_failure_reaches_the_dead_letter_as_it_was(tree: Tree, way: Way) -> None:
    with telemetry(way) as (environ, receiver):
        kill_in_the_middle(tree, "sync", Task(do="fail", key="k"), environ)
        tree.wait(lambda: tree.letters("sync"), "its dead letter")
        (letter,) = tree.letters("sync")
        assert isinstance(letter, JobView)
        (failure,) = letter.job.history
        assert (failure.reason, failure.error_type, failure.message) == ("error", "ValueError", "k fails: ñ")
        assert failure.traceback.rstrip().endswith("ValueError: k fails: ñ")
        assert (failure.attempt, failure.delivery, failure.queue) == (1, 1, "sync")
        assert bool(failure.trace_id) == (way != "off")
        assert tree.stop() == 0
        assert len(tree.ran("start k")) == 1
        if receiver is not None:
            (span,) = {span.span_id: span for span in receiver.spans("process sync")}.values()
            assert (span.span_id, span.trace_id) == (failure.span_id, failure.trace_id)
            assert span.attributes["worker.job.outcome"] == "dead_lettered"
            assert receiver.value("worker.job.attempts") == 1


@pytest.mark.parametrize("way", WAYS)
def test_a_rescuer_that_is_killed_in_turn_changes_nothing(tree: Tree, way: Way) -> None:
    """A worker dies under its handler; maintenance writes down what becomes of the job, and dies settling it."""
    with telemetry(way) as (environ, receiver):
        tree.enqueue(Held.sync, Task(key="k", do="hang"))
        tree.start("--queue", "sync", module="tests.support.services.held:Held", HELD="settle", **environ)
        tree.wait_ledger("start k")
        os.kill(next(slot.pid for slot in tree.workers("sync") if slot.pid), signal.SIGKILL)
        (line,) = tree.wait_ledger("held ")
        assert int(line.split()[1]) == tree.pid("maintenance")
        os.kill(int(line.split()[1]), signal.SIGKILL)
        tree.wait(lambda: tree.letters("sync"), "its dead letter")
        assert [failure.reason for failure in tree.letters("sync")[0].job.history] == ["worker_lost"]
        assert tree.stop() == 0
        assert len(tree.events("attempt_lost")) == 1, "what is told once is not told again"
        if receiver is not None:
            assert receiver.value("worker.job.attempts") == 1


@pytest.mark.parametrize("do", ["ok", "fail"])
def test_what_telemetry_had_not_got_yet_its_rescuer_sends(tree: Tree, do: Act) -> None:
    """Killed between ledger and telemetry: the job is finished, and its span and its count are those of its outcome."""
    with telemetry("rings") as (environ, receiver):
        assert receiver is not None
        kill_in_the_middle(tree, "sync", Task(key="k", do=do), environ, held="telemetry")
        assert tree.stop() == 0
        assert len(tree.ran("start k")) == 1
        (span,) = {span.span_id: span for span in receiver.spans("process sync")}.values()
        outcome = "succeeded" if do == "ok" else "dead_lettered"
        assert span.attributes["worker.job.outcome"] == outcome
        assert span.attributes.get("error.type") == (None if do == "ok" else "ValueError")
        assert receiver.value("worker.job.attempts") == 1
        assert receiver.value("worker.job.attempts", worker__job__outcome=outcome) == 1
        assert tree.events("attempt_lost") == []


def test_successes_that_wait_for_each_other_outlive_their_worker(tree: Tree) -> None:
    """Each job that ended before the one that kills the process is finished, though no engine had heard of some."""
    many(tree, 100, "abort")
    tree.wait(lambda: len(tree.ran("start")) == 201 and tree.stats("sync").in_flight == 0, "all are settled")
    assert tree.stop() == 0
    assert sorted(tree.ran("start")) == sorted({*tree.ran("start")}), "none ran twice"
    assert [letter.job.history[0].reason for letter in tree.letters("sync")] == ["worker_lost"]
    assert len(tree.events("attempt_lost")) == 1


def test_nothing_that_has_ended_waits_behind_a_long_job(tree: Tree) -> None:
    tree.environ["WORKER_DRAIN"] = "2"
    many(tree, 100, "hang")
    tree.wait_ledger("start the last")
    tree.wait(lambda: tree.stats("sync").in_flight == 1, "the others are settled, or back where they were")
    assert tree.stats("sync").ready == 100
    tree.stop()


def many(tree: Tree, count: int, do: Act) -> None:
    """So many quick jobs, one that does this, and as many again."""
    quick = [Task(key=f"{number}") for number in range(2 * count)]
    with Held.sync.connected(tree.producer):
        Held.sync.enqueue_many([*quick[:count], Task(key="the last", do=do), *quick[count:]])
    tree.start("--queue", "sync", module="tests.support.services.held:Held", OTEL_SDK_DISABLED="true")
