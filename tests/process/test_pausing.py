"""Paused queues in a running service: workers notice the pause, survive it, and drain."""

from __future__ import annotations

import os
import signal

import pytest

from tests.support.services.acts import Task
from tests.support.services.torture import Torture
from tests.support.tree import Tree

MODULE = "tests.support.services.torture"


@pytest.mark.parametrize("kind", ["sync", "many"])
def test_a_pause_holds_through_a_killed_worker_a_drain_and_a_restart(tree: Tree, kind: str) -> None:
    queue = getattr(Torture, kind)
    tree.environ["WORKER_ACTOR"] = "ada"
    tree.start("--queue", kind)
    tree.enqueue(queue, Task(key="before"))
    tree.wait_ledger("end before")
    assert tree.run_worker("pause", MODULE, kind) == f"paused {kind}\n"
    assert tree.wait_event("queue_paused", queue=kind)["by"] == "ada"
    tree.enqueue(queue, Task(key="held"))
    os.kill(tree.pid(f"{kind}/0"), signal.SIGKILL)
    tree.wait_event("process_exited", slot=f"{kind}/0")
    tree.wait_ready()
    assert tree.stop() == 0, "a drain does not wait for what is paused"
    assert tree.ran("start held") == []
    tree.start("--queue", kind)
    assert tree.wait_event("queue_paused", queue=kind)["by"] == "ada"
    assert tree.ran("start held") == []
    assert tree.run_worker("resume", MODULE, kind) == f"resumed {kind}\n"
    tree.wait_ledger("end held")
    assert tree.wait_event("queue_resumed", queue=kind)["by"] == "ada"
    assert tree.stop() == 0


def test_run_paused_starts_workers_that_take_nothing_until_each_queue_is_resumed(tree: Tree) -> None:
    tree.enqueue(Torture.sync, Task(key="sync"))
    tree.enqueue(Torture.many, Task(key="many"))
    tree.start("--paused")
    tree.wait_event("queue_paused", queue="sync")
    tree.wait_event("queue_paused", queue="many")
    assert tree.ran("start") == []
    tree.run_worker("resume", MODULE, "many")
    tree.wait_ledger("end many")
    assert tree.ran("start sync") == []
    assert tree.stop() == 0
