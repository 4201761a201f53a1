"""Soft and hard timeouts, and who pays for them."""

from __future__ import annotations

import re
from typing import Any

from tests.support.services.acts import Task
from tests.support.services.torture import Torture
from tests.support.tree import Tree


def test_a_sync_handler_is_interrupted_at_its_soft_timeout_and_retried(tree: Tree) -> None:
    tree.start("--queue", "sync")
    tree.enqueue(Torture.sync, Task(do="sleep", key="k", until=1))
    tree.wait_ledger("end k 2")
    finished = tree.wait_event("job_finished", reason="timeout")
    assert finished["outcome"] == "retried"
    assert tree.events("process_killed") == []
    assert tree.stop() == 0


def test_an_async_handler_is_cancelled_at_its_soft_timeout_and_retried(tree: Tree) -> None:
    tree.start("--queue", "many", WORKER_QUEUES__MANY__TIMEOUT="0.5")
    tree.enqueue(Torture.many, Task(do="sleep", key="k", until=1))
    tree.wait_ledger("end k 2")
    assert tree.wait_event("job_finished", reason="timeout")["outcome"] == "retried"
    assert tree.events("process_killed") == []
    assert tree.stop() == 0


def test_a_sync_handler_that_swallows_the_interruption_is_killed_and_charged(tree: Tree) -> None:
    tree.start("--queue", "sync")
    tree.enqueue(Torture.sync, Task(do="swallow", key="k", until=1))
    tree.wait_ledger("end k 2")
    assert "swallowed" in tree.ledger()
    assert tree.events("process_killed", kill_reason="timeout")
    assert tree.wait_event("attempt_lost")["reason"] == "timeout"
    assert tree.stop() == 0


def test_a_handler_deep_in_c_code_is_killed_at_its_hard_timeout(tree: Tree) -> None:
    tree.start("--queue", "sync")
    tree.enqueue(Torture.sync, Task(do="hold_gil", key="k", until=1))
    tree.wait_ledger("end k 2")
    assert tree.wait_event("attempt_lost")["reason"] == "timeout"
    assert tree.stop() == 0


def test_one_hung_job_among_twenty_concurrent_ones_is_charged_alone(tree: Tree) -> None:
    tree.start("--queue", "many", WORKER_QUEUES__MANY__TIMEOUT="1.5")
    tree.enqueue(Torture.many, Task(do="swallow", key="hung", until=1))
    for number in range(40):
        tree.enqueue(Torture.many, Task(do="sleep", seconds=0.4, key=f"k{number}"))
    tree.wait_ledger("end ", 41)
    tree.wait_ledger("end hung 2")
    neighbours = [line.split() for line in tree.ran("start k")]
    assert {line[2] for line in neighbours} == {"1"}
    assert len(neighbours) == 40, "no neighbour ran twice"
    [lost] = tree.events("attempt_lost")
    assert lost["reason"] == "timeout"
    assert tree.stop() == 0


def blocked_line(tree: Tree) -> list[dict[str, Any]]:
    return [event for event in tree.events() if "event loop blocked" in event["event"]]


def test_a_handler_that_blocks_the_loop_is_named_and_charged_alone(tree: Tree) -> None:
    tree.start("--queue", "many", WORKER_QUEUES__MANY__TIMEOUT="4", WORKER_QUEUES__MANY__KILL_AFTER="4")
    for number in range(5):
        tree.enqueue(Torture.many, Task(do="sleep", seconds=2, key=f"k{number}", until=1))
    tree.wait_ledger("start k", 5)
    tree.enqueue(Torture.many, Task(do="block_loop", key="blocker", until=1))
    tree.wait(lambda: blocked_line(tree), "the loop's line")
    [blocked] = blocked_line(tree)
    assert re.match(
        r"many/0: event loop blocked [1-4](\.\d)? s in Torture\.act_async "
        r"\(torture\.py:\d+ await misbehave_async\(.*\)\): use an async client or a sync handler$",
        blocked["event"],
    )
    tree.wait_ledger("end blocker 2")
    tree.wait_ledger("end k", 5)
    charged = [event["job_id"] for event in tree.events("attempt_lost") if event.get("reason")]
    assert charged == [blocked["job_id"]]
    assert {line.split()[2] for line in tree.ran("start k")} == {"1"}
    assert tree.stop() == 0
