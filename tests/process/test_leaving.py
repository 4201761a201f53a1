"""The end of a worker whose jobs are settled: nothing that handlers left holds it up, and what Python promises of a
process's end happens."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.services.selfish import Hooks, Leftovers
from tests.support.tree import Tree


def start(tree: Tree, app: str, **environ: str) -> None:
    tree.start(module=f"tests.support.services.selfish:{app}", **environ)


def test_threads_and_tasks_that_are_left_neither_hold_up_a_drain_nor_make_it_a_failed_one(tree: Tree) -> None:
    start(tree, "Leftovers")
    for key in ("task", "generator", "thread"):
        tree.enqueue(Leftovers.jobs, key)
    tree.wait_ledger("end ", 3)
    assert tree.stop() == 0
    assert tree.ran("swallowed")
    assert not tree.events("process_killed")


def test_a_recycled_slot_is_served_again_whatever_is_left(tree: Tree) -> None:
    start(tree, "Leftovers")
    for key in ("a", "b"):
        tree.enqueue(Leftovers.single, key)
    tree.wait_ledger("end ", 2)
    tree.wait_event("process_exited", count=2, slot="single/0", reason="recycled")
    assert tree.stop() == 0
    assert not tree.events("process_killed")


THREAD = """
import threading, time
from framework import Queue, WorkerApp
threading.Thread(target=time.sleep, args=(600,)).start()

class Threaded(WorkerApp):
    numbers = Queue[int]("numbers")

    @numbers.handler
    def take(self, number: int) -> None: ...
"""


def test_a_thread_that_the_import_started_keeps_no_process_of_the_tree(tree: Tree, tmp_path: Path) -> None:
    (tmp_path / "threaded.py").write_text(THREAD)
    tree.environ["PYTHONPATH"] = f"{tmp_path}:{Path(__file__).parents[2]}"
    tree.start(module="threaded")
    assert tree.stop() == 0
    assert not tree.events("process_killed")


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_threads_end_and_exit_hooks_run_where_they_were_registered(tree: Tree, method: str) -> None:
    start(tree, "Hooks", WORKER_START_METHOD=method)
    worker = tree.pid("jobs/0")
    tree.enqueue(Hooks.jobs, "x")
    tree.wait_ledger("end x")
    assert tree.process is not None
    tree.process.terminate()
    tree.wait_event("worker_leaving")
    Path(f"{tree.ledger_path}.go").touch()
    assert tree.exit_code() == 0
    assert not tree.events("process_killed")
    assert sorted(tree.ran("later ")) == ["later pool", "later thread"]
    assert tree.ran("atexit ") == [f"atexit {worker}"]
    [place] = tree.ran("place ")
    assert not os.path.exists(place.split()[1]), "the temporary directory of a lifespan"
    ran = {int(line.split()[1]) for line in tree.ran("imported ")}
    assert tree.process.pid in ran, "what the import has registered is the supervisor's"
    assert (worker in ran) == (method == "spawn"), "and a fresh interpreter's"
