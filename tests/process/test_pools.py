"""Queues that share processes: each keeps its own deadlines, retries and dead letters, and pays for its own jobs."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from typing import Any

import pytest

from framework.process.scoreboard import HOOKS
from tests.support.services.acts import Task
from tests.support.services.pooled import Async, Pooled, Sync
from tests.support.tree import Tree

brief, long, once, alone = Pooled.brief, Pooled.long, Pooled.once, Pooled.alone


@dataclass
class Kind:
    """A way in which a pool runs jobs."""

    app: Any
    concurrency: int

    def begin(self, tree: Tree, *arguments: str, **environ: str) -> None:
        tree.app = self.app
        environ.setdefault("WORKER_POOLS__LIGHT__CONCURRENCY", str(self.concurrency))
        tree.start(*arguments, module=f"tests.support.services.pooled:{self.app.__name__}", **environ)


KINDS = {"sequential": Kind(Sync, 1), "threads": Kind(Sync, 8), "loop": Kind(Async, 8)}
MANY = {name: KINDS[name] for name in ("threads", "loop")}


@pytest.fixture(params=KINDS.values(), ids=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    found: Kind = request.param
    return found


@pytest.fixture(params=MANY.values(), ids=MANY)
def many(request: pytest.FixtureRequest) -> Kind:
    found: Kind = request.param
    return found


def test_one_process_serves_all_queues_of_a_pool(tree: Tree, kind: Kind) -> None:
    kind.begin(tree, WORKER_POOLS__LIGHT__WORKERS="1")
    names = [slot.name for slot in tree.slots() if slot.is_worker]
    assert sorted(names) == ["alone/0", "light/0"]
    for queue in (brief, long, once, alone):
        tree.enqueue(queue, Task(key=queue.name))
    dead = tree.enqueue(once, Task(do="fail", key="fails"))
    tree.wait_ledger("end ", 4)
    tree.wait_ledger(f"letter once {dead} error")
    shared = {line.split()[3] for line in tree.ran("start ") if "alone" not in line}
    assert shared == {str(tree.pid("light/0"))}
    assert sorted(tree.ran("slot ")) == ["slot - 0: alone", "slot light 0: dead brief long once"]
    assert tree.ran("failed ") == [f"failed once {dead} error"]
    tree.wait_event("job_finished", queue="once", outcome="succeeded")
    assert {event["queue"] for event in tree.events("jobs_settled")} <= {"brief", "long", "once", "alone", "dead"}
    assert tree.stop() == 0


def test_each_queue_keeps_its_own_soft_timeout(tree: Tree, kind: Kind) -> None:
    """The neighbour of a queue with a timeout of a second sleeps for two, side by side or after it."""
    tree.enqueue(brief, Task(do="steps" if kind.app is Sync else "sleep", seconds=20, key="late", until=1))
    tree.enqueue(long, Task(do="steps" if kind.app is Sync else "sleep", seconds=2, key="patient"))
    kind.begin(tree)
    tree.wait_ledger("end late 2 brief")
    tree.wait_ledger("end patient 1 long")
    assert [(event["queue"], event["reason"]) for event in tree.events("job_finished", outcome="retried")] == [
        ("brief", "timeout")
    ]
    assert tree.events("process_killed") == []
    assert tree.stop() == 0


def test_a_hung_job_of_one_queue_is_killed_and_charged_alone(tree: Tree, kind: Kind) -> None:
    do = "hold_gil" if kind is KINDS["sequential"] else "swallow"
    hung = tree.enqueue(brief, Task(do=do, key="hung", until=1))
    for number in range(6):
        tree.enqueue(long, Task(do="sleep", seconds=0.3, key=f"k{number}"))
    kind.begin(tree)
    tree.wait_ledger("end hung 2")
    tree.wait_ledger("end k", 6)
    assert {line.split()[2] for line in tree.ran("start k")} == {"1"}
    [lost] = tree.events("attempt_lost")
    assert (lost["job_id"], lost["queue"], lost["reason"]) == (hung, "brief", "timeout")
    tree.wait_ledger(f"failed brief {hung} timeout")  # in the hooks process
    assert tree.stop() == 0


def test_kill_9_charges_the_jobs_of_each_queue_by_its_own_policy(tree: Tree, many: Kind) -> None:
    tree.enqueue(long, Task(do="sleep", key="long", until=1))
    dead = tree.enqueue(once, Task(do="sleep", key="once", until=1))
    many.begin(tree)
    tree.wait_ledger("start ", 2)
    tree.wait(lambda: {row.queue for row in tree.board().busy_rows(1)} >= {"long", "once"}, "rows name their queues")
    os.kill(tree.pid("light/0"), signal.SIGKILL)
    tree.wait_ledger("end long 2")
    tree.wait_ledger(f"letter once {dead} worker_lost")
    assert {(event["queue"], event["reason"]) for event in tree.events("attempt_lost")} == {
        ("long", "worker_lost"), ("once", "worker_lost"),
    }  # fmt: skip
    assert tree.stop() == 0


def test_a_job_that_blocks_the_loop_is_named_with_its_queue_and_pays_alone(tree: Tree) -> None:
    kind = KINDS["loop"]
    tree.enqueue(long, Task(do="sleep", seconds=1, key="neighbour"))
    holder = tree.enqueue(brief, Task(do="block_loop", key="holder", until=1))
    kind.begin(tree, WORKER_QUEUES__BRIEF__KILL_AFTER="8")
    tree.wait_ledger("end holder 2")
    tree.wait_ledger("end neighbour 1")
    [blocked] = [event for event in tree.events() if "event loop blocked" in event["event"]]
    assert (blocked["queue"], blocked["job_id"]) == ("brief", holder)
    assert "in Async.act (pooled.py:" in blocked["event"]
    assert [event["job_id"] for event in tree.events("attempt_lost") if event.get("reason")] == [holder]
    assert tree.stop() == 0


def test_a_flood_in_one_queue_keeps_no_other_waiting(tree: Tree, kind: Kind) -> None:
    """The jobs of the others start long before the flood is over."""
    flood = 300
    for number in range(flood):
        tree.enqueue(long, Task(do="sleep", seconds=0.02, key=f"flood{number}"))
    kind.begin(tree, WORKER_POOLS__LIGHT__CONCURRENCY=str(min(2, kind.concurrency)))
    tree.wait_ledger("start flood", 5)
    tree.enqueue(brief, Task(key="seldom"))
    tree.enqueue(once, Task(key="other"))
    tree.wait_ledger("end seldom")
    tree.wait_ledger("end other")
    assert len(tree.ran("start flood")) < flood
    assert tree.stop() == 0


def test_a_drain_waits_for_the_jobs_of_all_queues(tree: Tree, kind: Kind) -> None:
    kind.begin(tree)
    keys = ["a", "b"][: kind.concurrency]
    for queue, key in zip((brief, long), keys, strict=False):
        tree.enqueue(queue, Task(do="sleep", seconds=0.5, key=key))
    tree.wait_ledger("start ", len(keys))
    assert tree.stop() == 0
    assert len(tree.ran("end ")) == len(keys)


def test_only_the_queues_that_are_asked_for(tree: Tree) -> None:
    KINDS["threads"].begin(tree, "--queue", "brief", "--queue", "once")
    tree.enqueue(long, Task(key="left"))
    tree.enqueue(brief, Task(key="done"))
    tree.wait_ledger("end done")
    assert [slot.name for slot in tree.slots() if slot.is_worker] == ["light/0"]
    assert tree.ran("slot ") == ["slot light 0: brief once"]
    assert tree.stop() == 0
    assert tree.stats("long").ready == 1


def test_fresh_interpreters_serve_pools_too(tree: Tree) -> None:
    KINDS["loop"].begin(tree, WORKER_START_METHOD="spawn", WORKER_POOLS__LIGHT__WORKERS="2")
    tree.enqueue(brief, Task(key="a"))
    tree.wait_ledger("end a")
    names = sorted(slot.name for slot in tree.slots() if slot.is_worker and slot.name != HOOKS)
    assert names == ["alone/0", "light/0", "light/1"]
    assert tree.stop() == 0


def test_limits_of_a_process_count_the_jobs_of_all_its_queues(tree: Tree, kind: Kind) -> None:
    kind.begin(tree, WORKER_POOLS__LIGHT__MAX_JOBS_PER_PROCESS="2")
    for queue in (brief, long, once):
        tree.enqueue(queue, Task(key=queue.name))
    tree.wait_ledger("end ", 3)
    tree.wait_event("worker_leaving", why="max_jobs_per_process")
    assert len({line.split()[3] for line in tree.ran("start ")}) == 2
    assert tree.stop() == 0
