"""When the supervisor is dead: its children drain by themselves; what does not, maintenance ends at the deadline."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable
from contextlib import suppress

from framework.scoreboard import EXPORTER, PLANNED, Scoreboard, SlotState, before_deadline, process_start

TURN = 0.25


class Leftovers:
    """The workers of a tree that has lost its head. They are known by pid and start time; a pidfd holds them fast."""

    def __init__(self, board: Scoreboard, own: int, drain: float | None) -> None:
        self._board = board
        self._drain = drain
        self._alive: dict[int, tuple[int, SlotState]] = {}  # pidfd by pid
        for slot in board.all_slots():
            if slot.index != own and slot.pid and slot.name != EXPORTER:
                self._hold(slot)

    def _hold(self, slot: SlotState) -> None:
        try:
            descriptor = os.pidfd_open(slot.pid)
        except (OSError, AttributeError):  # gone, or not Linux
            return
        if process_start(slot.pid) != slot.pid_start:  # reused: a stranger
            os.close(descriptor)
            return
        self._alive[slot.pid] = (descriptor, slot)

    def outlive(self, turn: Callable[[], None]) -> None:
        """Keeps house until they are gone; at the drain deadline they are killed, uncharged."""
        began = time.monotonic()
        deadline = self._board.deadline / 1e9 or (None if self._drain is None else began + self._drain)
        if deadline is not None and self._drain is not None:
            deadline -= before_deadline(self._drain, 1.0)
        while self._alive:
            turn()
            if deadline is not None and time.monotonic() >= deadline:
                self._kill()
            self._wait()

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
            self._board.write_verdict(slot.incarnation, PLANNED)
            with suppress(OSError):
                os.killpg(pid, signal.SIGKILL)
            with suppress(OSError):
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
