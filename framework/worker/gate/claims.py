"""Which jobs a worker claims: whose turn it is, and how many may wait in the process for their start."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from queue import Empty, SimpleQueue

from framework.model.job import Lease

MOST = 64
WORTH = 0.010  # seconds of work that one claim should bring
CLAIMS_WORTH = 10  # the same, as a multiple of the time that a claim takes
QUICK = WORTH / 16
PATIENCE = 0.020  # seconds that a handler may run before the claims that wait behind it are released


class Claims:
    """The waiting claims: a deque from which two threads pop; the thread that pops a lease owns it.

    Attributes:
        started: when the running handler began, monotonic seconds; 0: none runs.
        quick: jobs are so short that upkeep of some microseconds after each is too much; once in a while is enough.

    Averages do not tell how long the next job takes, so a helper thread releases what waits behind a long one. Code
    that holds the GIL stops the helper, too: those claims are released when the process is killed.
    """

    def __init__(
        self,
        give_back: Callable[[Sequence[Lease]], None],
        *,
        claim_seconds: Callable[[], float] = lambda: 0.0,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._give_back = give_back
        self._claim_seconds = claim_seconds
        self._clock = clock
        self._waiting: deque[Lease] = deque()
        self._average = WORTH  # at first one job per claim, until durations are known
        self.quick = False
        self.started = 0.0
        # SimpleQueue.put may be called in a signal handler, which an Event's lock may not.
        self._calls: SimpleQueue[str] = SimpleQueue()
        self._watching = False
        self._helper = threading.Thread(target=self._help, name="claims", daemon=True)
        self._helper.start()

    def limit(self) -> int:
        """Return how many jobs to claim: about WORTH seconds of work, more if a claim itself takes long."""
        worth = max(WORTH, CLAIMS_WORTH * self._claim_seconds())
        return max(1, min(MOST, int(worth / max(self._average, 1e-6))))

    def add(self, leases: Sequence[Lease]) -> None:
        """Add fresh claims, in order."""
        self._waiting.extend(leases)
        if len(self._waiting) > 1 and not self._watching:
            self._calls.put("watch")

    def take(self) -> Lease | None:
        """Return the next lease to start; None: none waits."""
        try:
            return self._waiting.popleft()
        except IndexError:
            return None

    def waiting(self) -> Iterable[Lease]:
        """Return the leases that wait now; the other thread may pop some meanwhile."""
        return self._waiting.copy()

    def __len__(self) -> int:
        """Return how many leases wait."""
        return len(self._waiting)

    def ended(self, duration: float) -> None:
        """Note that a handler has ended, and update the average duration."""
        self.started = 0.0
        # A longer job changes the average fast, a shorter one slowly.
        weight = 0.5 if duration > self._average else 0.1
        self._average += weight * (duration - self._average)
        self.quick = self._average < QUICK

    def give_back(self) -> None:
        """Let the helper thread release everything that has not started. Safe in a signal handler."""
        self._calls.put("give_back")

    def close(self) -> None:
        """Release everything and end the helper thread."""
        self._calls.put("stop")
        self._helper.join()

    def _help(self) -> None:
        while True:
            call = self._calls.get()
            while call == "watch":
                call = self._watch()
            if call != "idle":
                self._empty()
            if call == "stop":
                return

    def _watch(self) -> str:
        """Check the clock until no lease waits or another call arrives; return what to do next.

        While the helper watches, no call wakes it: a call per claim would compete with the handlers for the GIL.
        """
        self._watching = True
        try:
            while True:
                try:
                    call = self._calls.get(timeout=PATIENCE)
                except Empty:
                    started = self.started
                    if not self._waiting:
                        break
                    if started and self._clock() - started > PATIENCE:
                        return "give_back"
                    continue
                if call != "watch":
                    return call
        finally:
            self._watching = False
        return "watch" if self._waiting else "idle"  # leases may have come between the last look and the flag

    def _empty(self) -> None:
        leases: list[Lease] = []
        while True:
            try:
                leases.append(self._waiting.pop())
            except IndexError:
                break
        if leases:
            self._give_back(leases[::-1])


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
