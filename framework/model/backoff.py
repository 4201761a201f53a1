"""Delays between tries that double at each failure, and the items that wait for their next try."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar


def doubled(first: float, times: int, last: float) -> float:
    """Return `first`, doubled `times` times, at most `last`.

    `times` is limited to 64: after hours of failures the result would not fit into a float.
    """
    return min(last, first * 2.0 ** min(times, 64))


@dataclass(slots=True, eq=False)
class Retried:
    """The base class of items that are kept until a try succeeds. Times are monotonic seconds.

    Attributes:
        failures: number of tries that failed.
        since: when the first try failed.
        retry_at: when the next try is due.
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
    """Items that failed and wait for their next try, each with a delay of its own. Any thread may add one.

    Args:
        first, last: seconds of the first delay, which doubles at each failure, and of the longest.
        clock: monotonic seconds.
    """

    def __init__(self, first: float, last: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._first, self._last = first, last
        self._clock = clock
        self._items: list[R] = []

    def __bool__(self) -> bool:
        return bool(self._items)

    def add(self, item: R) -> float:
        """Keep an item after a failed try. Return the seconds until its next try."""
        delay = item.failed(self._clock(), self._first, self._last)
        self._items.append(item)
        return delay

    def is_due(self) -> bool:
        """Return whether at least one item is due."""
        now = self._clock()
        return any(item.retry_at <= now for item in list(self._items))

    def due(self) -> list[R]:
        """Remove and return the items that are due. The caller adds an item again if it fails again."""
        now = self._clock()
        found = [item for item in list(self._items) if item.retry_at <= now]
        for item in found:
            self._items.remove(item)
        return found

    def items(self) -> list[R]:
        """Return all items, due or not."""
        return list(self._items)
