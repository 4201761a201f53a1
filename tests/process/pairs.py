"""Two trees on one store, on the spool or on PostgreSQL, with one ledger: for what holds over several machines."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from framework import WorkerApp
from framework.process.scoreboard import Scoreboard, SlotState
from tests.support import postgres
from tests.support.tree import Tree

Pair = tuple[Tree, Tree]


@contextmanager
def two_trees(engine: str, tmp_path: Path, app: type[WorkerApp]) -> Iterator[Pair]:
    """Two trees of an app with one store and one ledger, which are ended behind the block."""
    url = ""
    if engine == "postgresql":
        postgres.empty(postgres.shared())
        url = f"{postgres.shared().url}?local_dir={tmp_path}/spool"
    found = Tree(tmp_path, url), Tree(tmp_path, url)
    for tree in found:
        tree.app = app
    yield found
    for tree in found:
        tree.close()


def start(pair: Pair, queue: str, workers: int) -> None:
    """Start both with the workers of one queue, and wait for these."""
    for tree in pair:
        tree.start("--queue", queue, module=tree.app.__module__, ready=False)
    for tree in pair:
        tree.wait_event("worker_ready", workers)


def workers(pair: Pair, queue: str) -> list[SlotState]:
    """The living workers of both trees."""
    found: list[SlotState] = []
    for path in pair[0].boards():
        with suppress(OSError, ValueError):
            found += [
                slot for slot in Scoreboard.open(path).all_slots() if slot.pid and slot.name.startswith(f"{queue}/")
            ]
    for slot in found:
        pair[0].pids.add((slot.pid, slot.pid_start))
    return found
