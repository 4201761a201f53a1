"""What a tree costs while it does nothing, and how fast it starts and heals."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from bench.children.marks import Marks
from bench.measure import proc
from bench.samples import Samples
from bench.sizes import Sizes
from bench.spawn import Process
from bench.systems.ours import OFF, TRACED, Ours, Traced
from bench.systems.peers import Celery
from framework.process.scoreboard import READY, Scoreboard, SlotState

TREE = 8
SETTLE = 2.0  # seconds after the last job: allocators, exporters and the loops come to rest
EACH = 50  # jobs per worker before memory is read: an untouched worker shows less than it will need


def measure_starts(system: Ours, marks: Marks, samples: Samples, sizes: Sizes) -> None:
    """`worker run` to the first line of the first job's handler. Raises Failed."""
    for _ in range(sizes.starts):
        marks.reset(gate_open=True)
        system.ask("single", first=0, count=1)
        tree = system.tree(1)
        try:
            tree.wait_until(lambda: marks.ran() > 0, "the first job started")
            samples.add(OFF, "first_job", (marks.times()[0] - tree.began) / 1e9)
        finally:
            tree.stop()


def measure_tree(system: Ours, marks: Marks, samples: Samples, sizes: Sizes) -> None:
    """Memory, idle CPU and replacement of a tree of eight. Raises Failed."""
    name = TRACED if isinstance(system, Traced) else OFF
    marks.reset(gate_open=True)
    system.ask("bulk", first=0, count=TREE * EACH)
    tree = system.tree(TREE)
    try:
        tree.wait_until(lambda: marks.ran() >= TREE * EACH, "the tree's jobs ran")
        board = _ready_board(Path(system.spool), tree)
        _observe(samples, name, tree.pid, sizes.idle)
        workers = [proc.private(slot.pid) for slot in _workers(board)]
        samples.add(name, "worker_private", sum(workers) / len(workers))
        if name == OFF:
            for slot in _workers(board):
                samples.add(name, "replaced", _replacement(board, slot, tree) * 1e3)
    finally:
        tree.stop()


def measure_prefork(system: Celery, marks: Marks, samples: Samples, sizes: Sizes) -> None:
    """The same of Celery's pool. Raises Failed."""
    marks.reset(gate_open=True)
    system.ask("bulk", first=0, count=TREE * EACH)
    workers = system.start_prefork(TREE)
    try:
        workers.processes[0].wait_until(lambda: marks.ran() >= TREE * EACH, "the pool's jobs ran")
        _observe(samples, system.name, workers.processes[0].pid, sizes.idle)
    finally:
        workers.stop()


def _observe(samples: Samples, name: str, root: int, idle: float) -> None:
    time.sleep(SETTLE)
    before, began = proc.cpu(root), time.monotonic()
    time.sleep(idle)
    used = (proc.cpu(root) - before) / (time.monotonic() - began)
    samples.add(name, "idle8", used * 100)
    samples.add(name, "tree8", proc.pss(root))


def _ready_board(spool: Path, tree: Process) -> Path:
    """Return the board's file of the one instance that runs, once all its workers are ready."""
    path = spool / "run" / "0.board"
    tree.wait_until(path.exists, "the scoreboard was there")
    tree.wait_until(lambda: all(slot.state == READY for slot in _workers(path)), "all workers were ready")
    return path


def _workers(board: Path) -> list[SlotState]:
    """Return the slots of the workers. The file is a copy, which the tree renews: it is opened for each look."""
    return [slot for slot in Scoreboard.open(board).all_slots() if slot.name.startswith("jobs/")]


def _replacement(board: Path, victim: SlotState, tree: Process) -> float:
    """Seconds from kill -9 until another process in the same slot says that it is ready."""
    killed = time.monotonic_ns()
    os.kill(victim.pid, signal.SIGKILL)

    def ready() -> bool:
        slot = Scoreboard.open(board).slot(victim.index)
        return slot.incarnation != victim.incarnation and slot.state == READY

    tree.wait_until(ready, f"{victim.name} was replaced", patience=30)
    return (Scoreboard.open(board).slot(victim.index).ready - killed) / 1e9
