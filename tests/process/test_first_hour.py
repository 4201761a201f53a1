"""Mistakes of the first hour that only a running service shows: one line that says what to do."""

from __future__ import annotations

from pathlib import Path

from tests.support.tree import Tree

WRONG_LIFESPAN = """
from contextlib import asynccontextmanager
from framework import Queue, RetryPolicy, WorkerApp

class Digests(WorkerApp):
    http: object
    digests = Queue[int]("digests", retry=RetryPolicy(max_retries=0))

    @asynccontextmanager
    async def alifespan(self, slot):
        self.http = object()
        yield

    @digests.handler
    def digest(self, number: int) -> None:
        print(self.http)
"""

THREADS = """
import threading
from framework import Queue, WorkerApp
threading.Thread(target=threading.Event().wait, daemon=True).start()

class Threaded(WorkerApp):
    numbers = Queue[int]("numbers")

    @numbers.handler
    def take(self, number: int) -> None:
        from tests.support.ledger import note
        note(f"end {number}")
"""


def serve(tree: Tree, tmp_path: Path, name: str, source: str, queue: str, *, ready: bool = True) -> None:
    (tmp_path / f"{name}.py").write_text(source)
    tree.environ["PYTHONPATH"] = f"{tmp_path}:{Path(__file__).parents[2]}"
    tree.start(module=name, ready=ready)
    tree.run_worker("enqueue", name, queue, "7")


def test_a_sync_handler_that_misses_what_alifespan_opens_is_told_where_to_open_it(tree: Tree, tmp_path: Path) -> None:
    serve(tree, tmp_path, "digests", WRONG_LIFESPAN, "digests")
    said = "self.http does not exist: alifespan() is not entered for sync handlers; open it in lifespan()"
    tree.wait_event(f"digests/0: {said}")
    assert tree.stop() == 0


def test_a_service_whose_import_starts_threads_runs_in_fresh_interpreters(tree: Tree, tmp_path: Path) -> None:
    serve(tree, tmp_path, "threaded", THREADS, "numbers", ready=False)
    tree.wait_ledger("end 7")
    assert any("importing the service started 1 thread," in event["event"] for event in tree.events())
    tree.wait_ready()
    assert tree.stop() == 0
