"""The policy that decides when an ended process is started again, and when the supervisor gives up."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from framework.model.retry import doubled

FIRST, MOST = 0.5, 30.0  # seconds: the first replacement is immediate, then FIRST, doubled each time up to MOST
HEALTHY = 10.0  # seconds of uptime after which earlier failures no longer count


@dataclass
class Backoff:
    """The delays between the restarts of one slot."""

    failures: int = 0

    def delay(self, *, uptime: float, failed: bool) -> float:
        """Return the seconds until the next start, after `uptime` seconds and an end that was a failure or not."""
        if not failed:
            self.failures = 0
            return 0.0
        if uptime >= HEALTHY:
            self.failures = 0
        self.failures += 1
        return doubled(FIRST, self.failures - 2, MOST) if self.failures > 1 else 0.0


class Budget:
    """The budget of deaths before ready or while idle that are allowed within a window (seconds)."""

    def __init__(self, most: int, window: float) -> None:
        self.most = most
        self.window = window
        self._deaths: deque[float] = deque()

    def exceeded(self, now: float) -> bool:
        """Count a death; return True when there were more than `most` in the window."""
        self._deaths.append(now)
        while self._deaths and self._deaths[0] <= now - self.window:
            self._deaths.popleft()
        return len(self._deaths) > self.most
