"""Counts of the last hour, as this page has seen them, and their lines as SVG."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from framework.engine.port import QueueStats
from framework.process.speeds import MINUTE, Speed

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
    most: float
    last: float | None


@dataclass(frozen=True, slots=True)
class Shown:
    """The speed of a queue, and its lines of the last hour: attempts that ended a minute, and those that failed."""

    speed: Speed
    attempts: Line | None
    failed: Line | None


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
        return drawn(found, found[0][0], now, gap=6 * EVERY) if found else None  # a minute without a look is no line


def drawn(
    points: Sequence[tuple[float, float | None]], begin: float, end: float, *, gap: float, most: float = 1
) -> Line | None:
    """Return the line through these moments and values; None: fewer than two are known.

    Args:
        begin, end: the moments at the left and at the right.
        gap: seconds between two points beyond which the line is parted.
        most: the least value at the top.
    """
    known = [value for _, value in points if value is not None]
    if len(known) < 2:
        return None
    most, scale = max(*known, most), WIDTH / max(end - begin, EVERY)
    pieces: list[list[str]] = [[]]
    before = points[0][0]
    for at, value in points:
        if value is None or at - before > gap:
            pieces.append([])
        before = at
        if value is not None:
            pieces[-1].append(f"{(at - begin) * scale:.1f},{HEIGHT - 2 - value / most * (HEIGHT - 4):.1f}")
    return Line([" ".join(piece) for piece in pieces if len(piece) > 1], most, points[-1][1])


def shown(speed: Speed, now: float) -> Shown:
    """Return a speed with its lines, both on one scale."""
    moments = [now - HOUR + (number + 1) * MINUTE for number in range(len(speed.minutes))]
    most = max((one.attempts for one in speed.minutes if one is not None), default=1)

    def line(values: Iterable[float | None]) -> Line | None:
        points = list(zip(moments, values, strict=True))
        return drawn(points, now - HOUR, now, gap=1.5 * MINUTE, most=max(most, 1))

    attempts = line(None if one is None else one.attempts for one in speed.minutes)
    return Shown(speed, attempts, line(None if one is None else one.failed for one in speed.minutes))
