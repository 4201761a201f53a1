"""Claims that wait in a process for their start: few, and given back when the current job takes long."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue

from framework.model.job import Lease

MOST = 64
WORTH = 0.010  # seconds of work that a batch should hold
CLAIMS_WORTH = 10  # the same, in times that a claim takes
QUICK = WORTH / 16
PATIENCE = 0.020  # seconds that a handler may run before the claims behind it go back


class Claims:
    """A deque that two threads pop from: whoever popped a lease owns it.

    Attributes:
        started: when the handler that runs began, monotonic seconds; 0 = none runs.
        quick: jobs are so short that some microseconds for each are too much, and once in a while is often enough.

    Averages cannot know how long the next job takes, so a helper thread gives back what waits behind a long one. Code
    that holds the GIL stops the helper, too: those claims go back when the process is killed.
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
        self._average = WORTH  # one job a batch until we know better
        self.quick = False
        self.started = 0.0
        # SimpleQueue.put may be called in a signal handler, which an Event's lock may not.
        self._calls: SimpleQueue[str] = SimpleQueue()
        self._watching = False
        self._helper = threading.Thread(target=self._help, name="claims", daemon=True)
        self._helper.start()

    def limit(self) -> int:
        """Return how many to claim: about WORTH seconds of work, more where a claim itself takes long."""
        worth = max(WORTH, CLAIMS_WORTH * self._claim_seconds())
        return max(1, min(MOST, int(worth / max(self._average, 1e-6))))

    def add(self, leases: Sequence[Lease]) -> None:
        """Freshly claimed, in order."""
        self._waiting.extend(leases)
        if len(self._waiting) > 1 and not self._watching:
            self._calls.put("watch")

    def take(self) -> Lease | None:
        """The next to start."""
        try:
            return self._waiting.popleft()
        except IndexError:
            return None

    def __len__(self) -> int:
        """Return how many wait."""
        return len(self._waiting)

    def ended(self, duration: float) -> None:
        """A handler has ended."""
        self.started = 0.0
        # Quick to become careful, slow to become bold.
        weight = 0.5 if duration > self._average else 0.1
        self._average += weight * (duration - self._average)
        self.quick = self._average < QUICK

    def give_back(self) -> None:
        """From a signal handler: everything that has not started goes back, by the helper thread."""
        self._calls.put("give_back")

    def close(self) -> None:
        """Gives everything back and ends the helper."""
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
        """Looks at the clock until nothing waits or somebody calls.

        While it watches nobody wakes it: a call for each batch would fight for the GIL with the handlers.
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
        return "watch" if self._waiting else "idle"  # what came between the last look and the flag

    def _empty(self) -> None:
        leases: list[Lease] = []
        while True:
            try:
                leases.append(self._waiting.pop())
            except IndexError:
                break
        if leases:
            self._give_back(leases[::-1])
