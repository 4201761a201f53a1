"""How fast and how well the queues of this machine go, from the histories that exporters keep beside their boards."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from framework.model.options import WAIT_BOUNDS
from framework.process.history import EVERY, HOUR, Counts, Reader, Record

RECENT, MINUTE = 300.0, 60.0
MINUTES = int(HOUR / MINUTE)
SHARES = (0.5, 0.95, 0.99)


@dataclass(frozen=True, slots=True)
class Figures:
    """The figures of a queue over some time.

    Attributes:
        attempts: how many ended.
        rate: attempts that ended a second, over the time for which a service reported.
        success: the share of them without an error; None: none ended.
        waited, took: the bounds in seconds up to which half, 95 % and 99 % waited and took; infinite: beyond the last
            bound of the histograms. Empty: none ended.
    """

    attempts: int
    rate: float
    success: float | None
    waited: Sequence[float] = ()
    took: Sequence[float] = ()


@dataclass(frozen=True, slots=True)
class Minute:
    """The attempts that ended in a minute, all and the failed ones."""

    attempts: float
    failed: float


@dataclass(frozen=True, slots=True)
class Speed:
    """The speed of a queue on this machine.

    Attributes:
        recent, hour: of the last five minutes, and of the last hour; None: no service reported in them.
        minutes: of the last hour, oldest first; None: no service reported in that minute.
    """

    recent: Figures | None
    hour: Figures | None
    minutes: Sequence[Minute | None]


class _Tree:
    """The sums of one tree's records: which time they cover, and what ended on each queue."""

    def __init__(self, records: Sequence[Record], now: float) -> None:
        self.covered = {RECENT: 0.0, HOUR: 0.0}
        self.minutes = [0.0] * MINUTES
        self.ended: dict[str, dict[float, Counts]] = {}
        self.ended_in: dict[str, list[tuple[int, int]]] = {}
        for record in records:
            windows = [window for window in self.covered if now - window - EVERY < record.at <= now + MINUTE]
            minute = int((record.at - record.seconds / 2 - (now - HOUR)) // MINUTE)
            for window in windows:
                self.covered[window] += record.seconds
            if 0 <= minute < MINUTES:
                self.minutes[minute] += record.seconds
            for queue, counts in record.queues.items():
                for window in windows:
                    self.ended.setdefault(queue, {RECENT: Counts(), HOUR: Counts()})[window].add(counts)
                if 0 <= minute < MINUTES:
                    here = self.ended_in.setdefault(queue, [(0, 0)] * MINUTES)
                    here[minute] = here[minute][0] + counts.attempts, here[minute][1] + counts.failed


class Rates:
    """The speeds of all queues of a machine.

    Args:
        clock: seconds since the epoch.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._reader = Reader()
        self._root: Path | None = None
        self._trees: Sequence[_Tree] = ()
        self._speeds: dict[str, Speed] = {}
        self._until = 0.0

    def look(self, root: Path | None) -> None:
        """Read what is new in an engine's `local_dir`; None, or one that cannot be read: nothing is known.

        A look that comes less than five seconds after another does nothing.
        """
        now = self._clock()
        if root == self._root and self._until - 5 <= now < self._until:
            return
        if root != self._root:
            self._root, self._reader = root, Reader()
        self._until, self._speeds = now + 5, {}
        try:
            found = {} if root is None else self._reader.look(root / "run", now)
            self._trees = [_Tree(records, now) for records in found.values() if records]
        except OSError:
            self._trees = ()

    def of(self, queue: str) -> Speed:
        """Return the speed of a queue, as of the last look."""
        found = self._speeds.get(queue)
        if found is None:
            minutes = [self._minute(queue, number) for number in range(MINUTES)]
            found = self._speeds[queue] = Speed(self._figures(queue, RECENT), self._figures(queue, HOUR), minutes)
        return found

    def _figures(self, queue: str, window: float) -> Figures | None:
        trees = [tree for tree in self._trees if tree.covered[window]]
        if not trees:
            return None
        total, rate = Counts(), 0.0
        for tree in trees:
            if queue in tree.ended:
                total.add(tree.ended[queue][window])
                rate += tree.ended[queue][window].attempts / tree.covered[window]
        success = total.good / total.attempts if total.attempts else None
        return Figures(total.attempts, rate, success, _bounds(total.waited), _bounds(total.took))

    def _minute(self, queue: str, number: int) -> Minute | None:
        found = None
        for tree in self._trees:
            if covered := tree.minutes[number]:
                attempts, failed = tree.ended_in[queue][number] if queue in tree.ended_in else (0, 0)
                scale, before = MINUTE / max(covered, EVERY), found or Minute(0, 0)
                found = Minute(before.attempts + attempts * scale, before.failed + failed * scale)
        return found


def _bounds(counts: Sequence[int]) -> Sequence[float]:
    """Return for each share the bound of the bucket in which it lies; nothing where nothing was counted."""
    total, below, left, found = sum(counts), 0, list(SHARES), list[float]()
    for bound, count in zip((*WAIT_BOUNDS, math.inf), counts, strict=False):
        below += count
        while left and total and below >= left[0] * total:
            found.append(bound)
            left.pop(0)
    return found
