"""What has failed and is tried again later and later."""

from __future__ import annotations

from dataclasses import dataclass, field


def doubled(first: float, times: int, last: float) -> float:
    """Return `first`, doubled so many times, at most `last`. What fails for hours is doubled more often than a float
    can hold."""
    return min(last, first * 2.0 ** min(times, 64))


@dataclass(slots=True, eq=False)
class Retried:
    """Base of what is kept until a try of it succeeds. Times are monotonic seconds.

    Attributes:
        failures: tries that failed.
        since: when the first of them failed.
        retry_at: when the next is due.
    """

    failures: int = field(default=0, init=False)
    since: float = field(default=0.0, init=False)
    retry_at: float = field(default=0.0, init=False)

    def failed(self, now: float, first: float, last: float) -> float:
        """Count a failure. Return the seconds until the next try: `first`, doubled at each failure, at most `last`."""
        if not self.failures:
            self.since = now
        delay = doubled(first, self.failures, last)
        self.failures += 1
        self.retry_at = now + delay
        return delay
