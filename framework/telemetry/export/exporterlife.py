"""The main loop of the exporter process."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

from framework.process.scoreboard import LEAVING, READY, Scoreboard, process_start
from framework.process.signals import SignalQueue
from framework.telemetry.export.exporting import Exporter

AFTER_DEADLINE = 0.4  # seconds after the drain deadline; the supervisor kills at 0.5
LOOK_EVERY = 1.0  # seconds between checks for live processes in a tree without a supervisor


def live(
    exporter: Exporter,
    board: Scoreboard,
    index: int,
    *,
    supervisor: int,
    unblock: Callable[[], None],
    budget: float,
) -> None:
    """Export until the process must leave. The supervisor says so when no other process of the tree is left.

    Args:
        index: the exporter's slot on the board.
        supervisor: pid of the parent; if getppid() differs, it is dead, and the exporter watches the others itself.
        unblock: unblocks signals.
        budget: seconds for sending the rest at the end.
    """
    signals = SignalQueue((signal.SIGTERM, signal.SIGINT))
    unblock()
    exporter.start()
    board.set_state(index, READY, time.monotonic_ns())
    look_at = 0.0
    while True:
        patience = exporter.turn()
        board.tick(index, time.monotonic_ns())
        if _must_leave(signals):
            break
        if os.getppid() != supervisor and time.monotonic() >= look_at:
            look_at = time.monotonic() + LOOK_EVERY
            if not _others(board, index):
                break
        signals.wait(patience)
    board.set_state(index, LEAVING, time.monotonic_ns())
    if board.deadline:  # the deadline of the whole tree's drain; the exporter is the last
        budget = min(budget, max(0.0, board.deadline / 1e9 + AFTER_DEADLINE - time.monotonic()))
    exporter.close(budget)
    signals.close()


def _must_leave(signals: SignalQueue) -> bool:
    leave = False
    while (number := signals.take()) is not None:
        leave = leave or number == signal.SIGTERM
    return leave


def _others(board: Scoreboard, index: int) -> bool:
    """Return whether another process of the tree, which may still write records, is alive."""
    return any(
        slot.pid and process_start(slot.pid) == slot.pid_start for slot in board.all_slots() if slot.index != index
    )
