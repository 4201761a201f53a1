"""Jobs with a timeout and retries of their own, in real processes of each kind."""

from __future__ import annotations

from typing import Any

import pytest

from framework import RetryPolicy
from tests.support.services import threads, torture
from tests.support.services.acts import Task
from tests.support.tree import Tree

ONCE = RetryPolicy(max_retries=0)


KINDS: dict[str, tuple[Any, str, Any]] = {
    "sync": (torture.Torture.sync, "torture", Task),
    "async": (torture.Torture.many, "torture", Task),
    "threads": (threads.Threads.jobs, "threads", threads.Task),
}


@pytest.mark.parametrize("kind", KINDS)
def test_its_own_timeout_and_retries_count_softly_and_hard(tree: Tree, kind: str) -> None:
    """The queue's are much longer. A handler that swallows its interruption is killed: the rescuer knows them, too."""
    queue, module, task = KINDS[kind]
    longer = {f"WORKER_QUEUES__{queue.attribute.upper()}__TIMEOUT": "600"}
    tree.start("--queue", queue.name, module=f"tests.support.services.{module}", **longer)
    act = "snooze_when_draining" if kind == "threads" else "sleep"  # C code in a thread is interrupted at its end only
    soft = tree.enqueue(queue, task(do=act, key="soft", until=9), timeout=0.3, retry=ONCE)
    finished = tree.wait_event("job_finished", job_id=soft, outcome="dead_lettered")
    assert (finished["reason"], finished["attempt"]) == ("timeout", 1)
    hard = tree.enqueue(queue, task(do="swallow", key="hard", until=9), timeout=0.3, retry=ONCE)
    lost = tree.wait_event("attempt_lost", job_id=hard)
    assert (lost["reason"], lost["then"], lost["attempt"]) == ("timeout", "dead_lettered", 1)
    assert "hard timeout of 1.3 s" in lost["message"]
    usual = tree.enqueue(queue, task(do="sleep", key="usual", seconds=0.6))
    assert tree.wait_event("job_finished", job_id=usual)["outcome"] == "succeeded"
    assert tree.stop() == 0
