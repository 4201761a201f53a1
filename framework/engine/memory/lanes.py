"""The ready rows of a queue with groups: a lane for each group, which take turns."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

from framework.model.limits import Groups

if TYPE_CHECKING:
    from framework.engine.memory.row import Row


class Lanes:
    """The lanes of one queue. A lane may hold entries of rows that have moved; these are skipped.

    Args:
        rows: the rows of the queue, by serial.
    """

    def __init__(self, rows: Mapping[int, Row]) -> None:
        self._rows = rows
        self._lanes: dict[str | None, list[tuple[int, int, int]]] = {}  # in turn; priority, position, serial
        self._running: Counter[str | None] = Counter()
        self._again: dict[str | None, int] = {}  # the row of each group that was claimed and waits again

    def put(self, row: Row) -> None:
        """Note a row that has come to the queue, or to another state."""
        group = row.job.extras.group
        if row.state == "in_flight":
            self._running[group] += 1
        if row.again and row.state in ("ready", "delayed"):
            self._again[group] = row.serial
        if row.state == "ready":
            heapq.heappush(self._lanes.setdefault(group, []), (row.job.extras.priority, row.position, row.serial))

    def drop(self, row: Row) -> None:
        """Note a row that leaves its state."""
        group = row.job.extras.group
        self._running[group] -= row.state == "in_flight"
        if self._again.get(group) == row.serial:
            del self._again[group]

    def pop(self, groups: Groups) -> Row | None:
        """Return the ready row that is next, or None; its lane goes to the end."""
        for group in list(self._lanes):
            row = self._first(group)
            if row is None:
                del self._lanes[group]
            elif group is None or self._may_run(group, row, groups):
                if group is not None and groups.strict and group in self._again:
                    row = self._rows[self._again[group]]  # its entry is skipped later
                else:
                    heapq.heappop(self._lanes[group])
                self._lanes[group] = self._lanes.pop(group)
                return row
        return None

    def _may_run(self, group: str, row: Row, groups: Groups) -> bool:
        if groups.limit is not None and self._running[group] >= groups.limit:
            return False
        first = self._again.get(group) if groups.strict else None
        return first is None or self._rows[first].state == "ready"

    def _first(self, group: str | None) -> Row | None:
        lane = self._lanes[group]
        while lane:
            _, position, serial = lane[0]
            row = self._rows.get(serial)
            if row is not None and row.state == "ready" and row.position == position:
                return row
            heapq.heappop(lane)
        return None
