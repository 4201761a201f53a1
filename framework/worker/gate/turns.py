"""The order in which a worker asks its queues for jobs, by their weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from framework.model.job import Lease


class Turns:
    """Weighted fair queueing: each queue that has jobs gets runs in proportion to its weight, however many others wait.

    A queue that had no jobs for a while comes first when it has some, but collects no credit while it is idle.

    Each run of a queue advances its time by 1 / weight; the queue with the smallest time comes first.

    Args:
        weights: weights of the queues by name, in their initial order.
    """

    def __init__(self, weights: Mapping[str, int]) -> None:
        self._weights = dict(weights)
        self._times = dict.fromkeys(weights, 0.0)
        self._order = list(weights)
        self._now = 0.0  # time of the queue that came last; an idle queue does not fall behind it

    @property
    def order(self) -> Sequence[str]:
        """Return the queues in the order of their turns."""
        return self._order

    def took(self, leases: Sequence[Lease]) -> None:
        """Count what was claimed. A single queue needs no count."""
        if len(self._order) < 2 or not leases:
            return
        first = leases[0].queue
        self._now = max(self._now, self._times[first])
        for lease in leases:
            queue = lease.queue
            self._times[queue] = max(self._times[queue], self._now) + 1 / self._weights[queue]
        now = self._now
        self._order.sort(key=lambda queue: max(self._times[queue], now))
