"""Counts of the last hour, as this page has seen them, and their lines as SVG."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from framework.engine.port import QueueStats

EVERY, HOUR = 10.0, 3600.0  # seconds
WIDTH, HEIGHT = 160.0, 28.0


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a chart.

    Attributes:
        pieces: points for SVG polylines; a moment that is not known parts two pieces.
        most: the value at the top. last: the latest value; None: it is not known.
    """

    pieces: Sequence[str]
    most: int
    last: int | None


class History:
    """A ring of samples, one every ten seconds at most.

    Args:
        clock: seconds since the epoch.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._samples: deque[tuple[float, Mapping[str, QueueStats]]] = deque(maxlen=int(HOUR / EVERY))
        self.began = clock()

    def is_due(self) -> bool:
        """Return whether ten seconds have passed since the last sample."""
        return not self._samples or self._clock() - self._samples[-1][0] >= EVERY

    def note(self, stats: Mapping[str, QueueStats]) -> None:
        """Keep a sample."""
        self._samples.append((self._clock(), stats))

    def line(self, queue: str, count: str) -> Line | None:
        """Return the line of one count of a queue, as `ready`; None: fewer than two samples have it."""
        now = self._clock()
        found = [(at, getattr(by.get(queue, QueueStats()), count)) for at, by in self._samples if now - at <= HOUR]
        known = [value for _, value in found if value is not None]
        if len(known) < 2:
            return None
        first, most = found[0][0], max(*known, 1)
        scale = WIDTH / max(now - first, EVERY)
        pieces: list[list[str]] = [[]]
        before = first
        for at, value in found:
            if value is None or at - before > 6 * EVERY:  # nothing looked for a minute: that is no line
                pieces.append([])
            before = at
            if value is not None:
                pieces[-1].append(f"{(at - first) * scale:.1f},{HEIGHT - 2 - value / most * (HEIGHT - 4):.1f}")
        return Line([" ".join(piece) for piece in pieces if len(piece) > 1], most, found[-1][1])
