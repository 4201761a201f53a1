"""What has failed and is tried again later and later."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar


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


R = TypeVar("R", bound=Retried)


class Later(Generic[R]):
    """Items of which a try has failed: each is due later and later, and waits for no other. Any thread may add one.

    Args:
        first, last: seconds until the next try, doubled at each failure.
        clock: monotonic seconds.
    """

    def __init__(self, first: float, last: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._first, self._last = first, last
        self._clock = clock
        self._items: list[R] = []

    def __bool__(self) -> bool:
        return bool(self._items)

    def add(self, item: R) -> float:
        """Keep an item after a failed try. Return the seconds until the next."""
        delay = item.failed(self._clock(), self._first, self._last)
        self._items.append(item)
        return delay

    def is_due(self) -> bool:
        """Return whether one of them has its time."""
        now = self._clock()
        return any(item.retry_at <= now for item in list(self._items))

    def due(self) -> list[R]:
        """Hand out those whose time has come: whoever fails again is added again."""
        now = self._clock()
        found = [item for item in list(self._items) if item.retry_at <= now]
        for item in found:
            self._items.remove(item)
        return found

    def items(self) -> list[R]:
        """Return all of them."""
        return list(self._items)
