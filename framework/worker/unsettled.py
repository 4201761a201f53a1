"""Leases of this process that could not be settled: each is tried again later and later, and no other job waits."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from framework.backoff import Retried
from framework.job import Lease
from framework.outcome import Outcome

FIRST_RETRY, LAST_RETRY = 0.05, 2.0  # seconds between tries; recovery is seen within 5 s


@dataclass(slots=True, eq=False)
class Unsettled(Retried):
    """A lease with what is to be done with it.

    Attributes:
        row: where it ran; None = it has not started.
    """

    lease: Lease
    outcome: Outcome
    row: int | None


class UnsettledLeases:
    """What a worker keeps until it is settled. The helper thread of its claims adds to it, too.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._items: list[Unsettled] = []

    def __bool__(self) -> bool:
        return bool(self._items)

    def add(self, item: Unsettled) -> float:
        """Keep a lease after a failed try. Return the seconds until the next."""
        delay = item.failed(self._clock(), FIRST_RETRY, LAST_RETRY)
        self._items.append(item)
        return delay

    def due(self) -> list[Unsettled]:
        """Hand out those whose time has come: whoever fails again is added again."""
        now = self._clock()
        found = [item for item in list(self._items) if item.retry_at <= now]
        for item in found:
            self._items.remove(item)
        return found

    def items(self) -> list[Unsettled]:
        """Return all of them."""
        return list(self._items)
