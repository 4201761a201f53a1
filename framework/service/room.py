"""Back-pressure: the wait for room in a full queue, and what QueueFull tells of the queue."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence

from framework.engine.port import Engine, QueueStats
from framework.model.errors import InvalidArgument, QueueFull
from framework.model.job import Job, JobId
from framework.model.retry import LONGEST, Seconds, seconds

FIRST_PAUSE, LAST_PAUSE = 0.02, 0.5  # seconds between two tries
LEAST_HINT, MOST_HINT = 0.1, 60.0  # seconds
SHARE = 100  # the hint is the time in which one of so many jobs of the queue is done
FRESH = 1.0  # seconds for which counts are used again: many producers may find the queue full at the same time

Store = Callable[[Sequence[Job]], Sequence[JobId]]


def checked_block(block: Seconds, connection: object | None) -> float:
    """Return the seconds for which an enqueue may wait. Raises InvalidArgument."""
    try:
        found = seconds(block)
    except TypeError as error:
        raise InvalidArgument(f"block: {error}") from None
    if not 0 <= found <= LONGEST:
        raise InvalidArgument(f"block={found:g}: write 0 or more seconds, at most {LONGEST:g}")
    if found and connection is not None:
        raise InvalidArgument("block: it would keep your transaction open; enqueue without connection=, or without it")
    return found


def pauses(block: float) -> Iterator[float]:
    """Yield the pauses before further tries, in seconds, until the time is over. The pauses grow, with jitter."""
    deadline, pause = time.monotonic() + block, FIRST_PAUSE
    while (left := deadline - time.monotonic()) > 0:
        yield min(left, pause * random.uniform(0.5, 1))
        pause = min(LAST_PAUSE, pause * 1.5)


class Room:
    """The room in the queues of one producer.

    Args:
        engine: the open engine.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()  # an engine is asked for counts by one thread at a time
        self._known: dict[str, tuple[float, QueueStats]] = {}

    def put(self, store: Store, jobs: Sequence[Job], waits: Iterator[float]) -> list[JobId]:
        """Store jobs of one queue and return their ids; where the queue is full, wait and go on with what is left.

        Raises QueueFull: there was no room until the last wait; its `enqueued` lists what is stored.
        """
        done: list[JobId] = []
        while True:
            try:
                return [*done, *store(jobs[len(done) :])]
            except QueueFull as error:
                done += [one if isinstance(one, JobId) else JobId(one) for one in error.enqueued]
                if (pause := next(waits, None)) is None:
                    error.enqueued = tuple(done)
                    self.explain(error, jobs[0].queue)
                    raise
            time.sleep(pause)

    def explain(self, error: QueueFull, queue: str) -> None:
        """Complete the error by the queue's counts; where they cannot be had now, it stays as it is."""
        with self._lock:
            until, stats = self._known.get(queue, (0.0, QueueStats()))
            if time.monotonic() >= until:
                try:
                    stats = self._engine.stats(queue)
                except Exception:  # the error that is being raised says more
                    return
                self._known[queue] = time.monotonic() + FRESH, stats
        if stats.ready is not None and stats.delayed is not None:
            error.depth = stats.ready + stats.delayed
        error.oldest_age = stats.oldest_age
        # Little's law: a queue in which jobs wait for so long is worked off once in that time.
        error.retry_after = min(MOST_HINT, max(LEAST_HINT, (stats.oldest_age or 0.0) / SHARE))
