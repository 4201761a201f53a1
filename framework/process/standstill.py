"""The time in which a process stood still: frozen, stopped, or moved with its machine. No deadline may count it.

A loop that wants to turn every TURN seconds but turns seconds later was not slow: no process of its tree had that time.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

LATE = 0.5  # seconds that a turn may be late; the scheduler of a busy machine causes less
_MOST = 1000  # gaps that are remembered


@dataclass(frozen=True, slots=True)
class Gap:
    """One period of standstill, in monotonic seconds."""

    begin: float
    end: float


class Standstill:
    """The record of the gaps in the turns of a loop.

    Args:
        turn: seconds after which the loop turns again at the latest; the loop may change it before each wait.
        now: the present moment, monotonic seconds.
        cpu: returns the processor seconds that this process has used.

    Attributes:
        total: the seconds of all gaps.
    """

    def __init__(self, turn: float, now: float, *, cpu: Callable[[], float] = time.process_time) -> None:
        self.turn = turn
        self._cpu = cpu
        self._last, self._worked, self._was_late = now, cpu(), False
        self._gaps: deque[Gap] = deque(maxlen=_MOST)
        self.total = 0.0

    def turned(self, now: float) -> float:
        """Note that the loop turns; return the seconds for which it stood still before, 0.0 if it did not.

        Processor time does not count, and the planned wait counts only once: a loop that is slow all the time must not
        stop the clock.
        """
        worked = self._cpu()
        gap = now - self._last - (worked - self._worked)
        late, was_late = gap - self.turn > LATE, self._was_late
        self._last, self._worked, self._was_late = now, worked, late
        if not late:
            return 0.0
        gap -= self.turn if was_late else 0.0
        self.add(now - gap, now)
        return gap

    def add(self, begin: float, end: float) -> None:
        """Record a gap; overlapping gaps count once."""
        while self._gaps and self._gaps[-1].begin >= begin:
            gap = self._gaps.pop()
            self.total -= gap.end - gap.begin
        if self._gaps:
            begin = max(begin, self._gaps[-1].end)
        self._gaps.append(Gap(begin, end))
        self.total += end - begin

    def between(self, begin: float, end: float) -> float:
        """Return the seconds of standstill between two moments."""
        return sum(max(0.0, min(gap.end, end) - max(gap.begin, begin)) for gap in self._gaps)

    def elapsed(self, since: float, now: float) -> float:
        """Return the seconds since a moment, without standstill."""
        return now - since - self.between(since, now)
