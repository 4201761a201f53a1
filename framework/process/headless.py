"""The end of process trees whose supervisor is dead: workers drain by themselves; the rest is killed at the deadline.

A tree's own maintenance does this. If that process is dead too, maintenance of another tree on the same store takes
over, at the latest when the next supervisor starts.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from framework.process import orphans
from framework.process.scoreboard import EXPORTER, PLANNED, Scoreboard, SlotState, before_deadline, process_start
from framework.process.standstill import Standstill

TURN = 0.25
LOOK_EVERY = 1.0  # seconds between looks for other trees without a supervisor
LONG_PASS = 2.0  # seconds that one pass over the engine may take: a slow disk is not a standstill
GRACE = 2.0  # seconds after its drain deadline within which a tree's own maintenance may still end it


class Leftovers:
    """The workers of our own tree after its supervisor died. They are known by pid and start; a pidfd prevents pid
    reuse."""

    def __init__(self, board: Scoreboard, own: int, drain: float | None) -> None:
        self._board = board
        self._drain = drain
        self._resolved: set[str] = set()
        self._alive: dict[int, tuple[int, SlotState]] = {}  # pidfd by pid
        for slot in board.all_slots():
            if slot.index != own and slot.pid and slot.name != EXPORTER:
                self._hold(slot)

    def _hold(self, slot: SlotState) -> None:
        try:
            descriptor = os.pidfd_open(slot.pid)
        except (OSError, AttributeError):  # the process is gone, or this is not Linux
            return
        if process_start(slot.pid) != slot.pid_start:  # the pid was reused by another process
            os.close(descriptor)
            return
        self._alive[slot.pid] = (descriptor, slot)

    def outlive(self, turn: Callable[[], object]) -> None:
        """Run `turn` until they are gone, then kill what they left behind. At the drain deadline they are killed,
        uncharged."""
        began = time.monotonic()
        deadline = self._board.deadline / 1e9 or (None if self._drain is None else began + self._drain)
        if deadline is not None and self._drain is not None:
            deadline -= before_deadline(self._drain, 1.0)
        still = Standstill(TURN + LONG_PASS, began)
        while self._alive:
            turn()
            gap = still.turned(time.monotonic())
            if gap:  # no supervisor is left to notice it
                self._board.stood_still += gap
                deadline = None if deadline is None else deadline + gap
            if deadline is not None and time.monotonic() >= deadline:
                self._kill()
            self._wait()
        with suppress(OSError):
            orphans.kill(orphans.tree_of(self._board))

    def _wait(self) -> None:
        poll = select.poll()
        by_descriptor = {descriptor: pid for pid, (descriptor, _) in self._alive.items()}
        for descriptor in by_descriptor:
            poll.register(descriptor, select.POLLIN)
        for descriptor, _ in poll.poll(TURN * 1000):
            os.close(descriptor)
            del self._alive[by_descriptor[descriptor]]

    def _kill(self) -> None:
        for pid, (descriptor, slot) in self._alive.items():
            if (
                slot.incarnation not in self._resolved
            ):  # the table of kill reasons is small, this is tried at every turn
                self._resolved.add(slot.incarnation)
                self._board.write_kill_reason(slot.incarnation, PLANNED)
            with suppress(OSError):
                os.killpg(pid, signal.SIGKILL)
            with suppress(OSError):
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)


class OtherTrees:
    """Other trees on the same store that have lost their supervisor and maintenance.

    Args:
        boards: returns the paths of their boards, old ones included.
        drain: seconds for a tree whose supervisor left no deadline; None: as long as it takes.
        clock: monotonic seconds.
    """

    def __init__(
        self, boards: Callable[[], Iterable[Path]], drain: float | None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._boards = boards
        self._drain = drain
        self._clock = clock
        self._still = Standstill(LOOK_EVERY + LONG_PASS, clock())
        self._seen: dict[str, float] = {}  # when it was first seen without a supervisor
        self._gone: set[str] = set()

    def look(self) -> list[int]:
        """Kill the trees whose time is over; return the pids of what was killed."""
        killed = []
        self._still.turned(self._clock())
        for path in self._boards():
            with suppress(OSError, ValueError):  # not a board, or just replaced
                board = Scoreboard.open(path)
                tree = orphans.tree_of(board)
                if tree not in self._gone and board.within_sight() and not board.supervised():
                    killed += self._end(board, tree)
        return killed

    def _end(self, board: Scoreboard, tree: str) -> list[int]:
        now = self._clock()
        since = self._seen.setdefault(tree, now)
        alive = [slot for slot in board.all_slots() if slot.pid and process_start(slot.pid) == slot.pid_start]
        deadline = board.deadline / 1e9 or (None if self._drain is None else since + self._drain)
        if deadline is not None:
            deadline += self._still.between(since, now)  # its workers stood still together with this process
        if alive and (deadline is None or now < deadline + GRACE):
            return []
        for slot in alive:
            board.write_kill_reason(slot.incarnation, PLANNED)
            with suppress(OSError):
                os.kill(slot.pid, signal.SIGKILL)
        self._gone.add(tree)
        del self._seen[tree]
        return sorted({slot.pid for slot in alive} | set(orphans.kill(tree)))
