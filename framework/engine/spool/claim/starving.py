"""The priorities of a queue that starve, because more urgent jobs keep coming, and the turns that they get."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Iterator, Sequence

from framework.engine.port import STARVING_TURN
from framework.engine.spool.disk.clock import Clock
from framework.engine.spool.disk.layout import QueueDir
from framework.engine.spool.format import names

NEVER = float("inf")


class Starving:
    """The decision which entry of a listing is next where a priority starves. The names alone tell how long they wait.

    Attributes:
        due: monotonic seconds from which `turn` is to be asked; infinite while the listing has only one priority.
    """

    def __init__(self, queue: QueueDir) -> None:
        self._queue = queue
        self._took = 0
        self.due = NEVER

    @property
    def possible(self) -> bool:
        """Return whether jobs of this queue may pass others that starve."""
        return self._queue.options.starve_after is not None

    def look(self, entries: Sequence[str], clock: Clock) -> None:
        """Find out when the first priority of a sorted listing starves."""
        self.due, after = NEVER, self._queue.options.starve_after
        if after is None or len(entries) < 2 or names.priority_of(entries[0]) == names.priority_of(entries[-1]):
            return
        now = time.monotonic()
        self._stamps_from, self._wall_from = now - clock.now() / 1e9, now - clock.wall()
        self._after = after
        self.due = min((self._waits_since(entries[at]) for at in _firsts(entries, 0)), default=NEVER) + after

    def turn(self, entries: Sequence[str], start: int, now: float) -> int:
        """Return the index of the entry that is next: `start`, or now and then the first of what starves."""
        self._took += 1
        if self._took % STARVING_TURN:
            return start
        waits = [(self._waits_since(entries[at]), at) for at in _firsts(entries, start)]
        since, at = min(waits, default=(NEVER, start))
        return at if since <= now - self._after else start

    def _waits_since(self, entry: str) -> float:
        """Return since when a job waits, in monotonic seconds."""
        since, name = self._stamps_from + int(entry[:20]) / 1e9, names.parse(entry)
        due = None if name is None else name.not_before
        return since if due is None else max(since, self._wall_from + due / 1e6)


def _firsts(entries: Sequence[str], start: int) -> Iterator[int]:
    """Yield the indexes of the first entry of each priority but the first, from `start` on."""
    while start < len(entries):
        level, _ = names.order(entries[start])
        start = bisect_left(entries, (level + 1, ""), start, key=names.order)
        if start < len(entries):
            yield start
