"""Values that the exporter observes for the workers of its tree, so that these need no SDK to report them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from framework.process.scoreboard import Scoreboard
from framework.telemetry import names
from framework.telemetry.conventions import of_system
from framework.telemetry.instruments import Attributes, at
from framework.telemetry.ring.ring import RingReader

Values = list[tuple[str, Attributes, int]]


class Workers:
    """The workers of a tree, on its board.

    Args:
        slots: by slot, its concurrency and the names of its queues.
        system: messaging.system.name.
    """

    def __init__(self, board: Scoreboard, slots: Mapping[str, tuple[int, Sequence[str]]], system: str) -> None:
        self._board = board
        self._slots = slots
        self._system = system
        self._indexes = {slot.name: slot.index for slot in board.all_slots()}

    def of(self, slot: str, ring: RingReader) -> Values:
        """Return the slots and the memory of a worker; nothing if it is dead, or the SDK in it reports them."""
        index = self._indexes.get(slot)
        if index is None or slot not in self._slots or not ring.writer:
            return []
        if self._board.slot(index).pid != ring.writer:
            return []
        limit, queues = self._slots[slot]
        rows = [row.queue for row in self._board.busy_rows(index)]
        found: Values = []
        for queue in queues:
            used, where = rows.count(queue), at(self._system, queue)
            found.append((names.SLOTS_LIMIT, where, limit - (len(rows) - used)))
            found.append((names.SLOTS_USED, where, used))
        memory = resident(ring.writer)
        if memory is not None:
            found.append((names.PROCESS_MEMORY, {**of_system(self._system), names.SLOT: slot}, memory))
        return found


def drops_of(counts: Mapping[str, int], system: str) -> Values:
    """Return the values of worker.telemetry.dropped for counts by signal."""
    return [(names.DROPPED, {**of_system(system), names.SIGNAL: key}, count) for key, count in counts.items()]


def resident(pid: int | str) -> int | None:
    """Return the resident memory of a process in bytes; None where there is no /proc, or no such process."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return None
