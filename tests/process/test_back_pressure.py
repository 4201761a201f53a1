"""A producer that waits for room in a full queue, beside real workers, and one that is killed while it waits."""

from __future__ import annotations

import subprocess
import sys

import pytest

from framework import QueueFull
from tests.support.services.acts import Task
from tests.support.services.torture import Torture
from tests.support.tree import HERE, Tree

FULL = {"WORKER_QUEUES__SYNC__MAX_LENGTH": "2", "WORKER_QUEUES__SYNC__WORKERS": "1"}
BLOCKED = """
from tests.support.services.torture import Task, Torture
try:
    Torture.sync.enqueue(Task(key="full"))
except Exception as error:
    print(type(error).__name__, error.depth, flush=True)
Torture.sync.enqueue(Task(key="blocked"), block=600)
"""


def test_a_producer_waits_until_workers_make_room_and_a_killed_one_leaves_nothing(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in FULL.items():
        tree.environ[name] = value
        monkeypatch.setenv(name, value)
    for key in ("first", "second"):
        tree.enqueue(Torture.sync, Task(key=key))
    tree.run_worker("pause", "tests.support.services.torture", "sync")
    with subprocess.Popen(
        [sys.executable, "-c", BLOCKED], cwd=HERE, env=tree.environ, stdout=subprocess.PIPE, text=True
    ) as killed:
        assert killed.stdout is not None
        assert killed.stdout.readline() == "QueueFull 2\n"
        with pytest.raises(subprocess.TimeoutExpired):
            killed.wait(0.3)
        killed.kill()
    with pytest.raises(QueueFull) as error:
        tree.enqueue(Torture.sync, Task(key="refused"), block=0.05)
    assert error.value.depth == 2
    tree.start("--queue", "sync")
    tree.run_worker("resume", "tests.support.services.torture", "sync")
    for number in range(6):
        tree.enqueue(Torture.sync, Task(key=f"waits-{number}"), block=60)
    tree.wait_ledger("end waits-", 6)
    assert tree.stop() == 0
    assert tree.ran("start blocked") == tree.ran("start refused") == []
    assert len(tree.ran("end ")) == 8
