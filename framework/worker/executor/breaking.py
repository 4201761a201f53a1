"""The breaker of a queue in one process: it counts how attempts end, and holds the queue where they fail alike."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from framework.model.events import Event, QueueHeld, QueueReopened
from framework.model.job import Lease
from framework.model.limits import Breaker
from framework.model.outcome import JobInterrupted, Kind, Outcome, may_wait

_OF_THE_JOB = ("rejected", "invalid_payload")  # reasons of a failure that say nothing about what the queue needs


class Guard:
    """The breaker of one queue. Thread-safe: handlers may run in threads.

    Args:
        hold: holds the queue in the engine for so many seconds; 0: reopens it.
    """

    def __init__(
        self,
        queue: str,
        breaker: Breaker,
        *,
        hold: Callable[[str, float], None],
        emit: Callable[[Event], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._queue = queue
        self._breaker = breaker
        self._hold = hold
        self._emit = emit
        self._clock = clock
        self._failed: deque[bool] = deque(maxlen=breaker.of)
        self._held_until = 0.0  # as far as this process knows

    def succeeded(self, lease: Lease) -> None:
        """Count a success; that of a canary reopens the queue."""
        self._failed.append(False)
        if lease.canary:
            self._failed.clear()
            self._held_until = 0.0
            self._hold(self._queue, 0.0)
            self._emit(QueueReopened(self._queue, lease.job.id))

    def failed(self, lease: Lease, error: BaseException, outcome: Outcome) -> Outcome:
        """Count a failure, hold the queue where there are too many, and return what becomes of the job.

        A canary, and a job that ran already when the queue was held, are released: their attempts are not spent. They
        come back after the hold, so that another job is the next canary.
        """
        failure, breaker = outcome.failure, self._breaker
        if failure is None or failure.reason in _OF_THE_JOB or not self._counts(error):
            self._failed.append(False)
            return outcome
        if lease.canary or self._clock() < self._held_until:
            if lease.canary:
                self._hold_now()
            if may_wait(lease):
                return Outcome(Kind.RELEASED, delay=breaker.hold, message=f"its queue is held: {failure.message}")
            return outcome
        self._failed.append(True)
        failed, of = sum(self._failed), len(self._failed)  # one call in C: no other thread appends meanwhile
        if failed >= breaker.threshold:
            self._failed.clear()
            self._hold_now()
            self._emit(QueueHeld(self._queue, failed, of, failure.error_type, breaker.hold))
        return outcome

    def _hold_now(self) -> None:
        self._held_until = self._clock() + self._breaker.hold
        self._hold(self._queue, self._breaker.hold)

    def _counts(self, error: BaseException) -> bool:
        types = self._breaker.error_types
        found = [
            TimeoutError if issubclass(type(one), JobInterrupted) else type(one) for one in (error, error.__cause__)
        ]
        return not types or any(issubclass(one, types) for one in found)
