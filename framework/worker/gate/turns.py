"""Whose turn it is: the order in which a worker asks its queues for jobs, by their weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from framework.model.job import Lease


class Turns:
    """Weighted fair queueing: of queues that have jobs each gets runs in proportion to its weight, whatever the others
    hold. One that had no jobs for a while comes first when it has some, and saves up nothing meanwhile.

    Each run of a queue moves its time on by 1 / weight; the queue whose time is the least comes first.

    Args:
        weights: of the queues, by name, in the order in which they come at first.
    """

    def __init__(self, weights: Mapping[str, int]) -> None:
        self._weights = dict(weights)
        self._times = dict.fromkeys(weights, 0.0)
        self._order = list(weights)
        self._now = 0.0  # where the queue stood that came last: a queue that was idle is not behind it

    @property
    def order(self) -> Sequence[str]:
        """Return the queues, the one whose turn it is first."""
        return self._order

    def took(self, leases: Sequence[Lease]) -> None:
        """Count what was claimed. With a single queue there is nothing to count."""
        if len(self._order) < 2 or not leases:
            return
        first = leases[0].queue
        self._now = max(self._now, self._times[first])
        for lease in leases:
            queue = lease.queue
            self._times[queue] = max(self._times[queue], self._now) + 1 / self._weights[queue]
        now = self._now
        self._order.sort(key=lambda queue: max(self._times[queue], now))
