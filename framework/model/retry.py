"""When something is tried again: a failed job, by its retry policy; and the library's own work, by delays that double
at each failure."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Generic, TypeVar

Seconds = float | timedelta
NUMBERS = ("max_retries", "first_delay", "factor", "max_delay", "jitter")
LONGEST = 1e9  # seconds, about 30 years: system timers accept no more


def seconds(value: Seconds) -> float:
    """Return a duration in seconds. Raises TypeError for anything but a number or timedelta, such as a numeric text."""
    if isinstance(value, timedelta):
        return value.total_seconds()
    given: object = value  # without a type checker a caller may pass anything
    if not isinstance(given, (int, float)):
        raise TypeError(f"{given!r} is no duration: write a number of seconds or a timedelta")
    try:
        return float(given)
    except OverflowError:  # an int beyond all floats: the range checks of callers refuse it
        return math.inf if given > 0 else -math.inf


@dataclass(frozen=True, init=False)
class RetryPolicy:
    """The number of retries and the delays before them.

    The delay after attempt n is min(max_delay, first_delay * factor ** (n - 1)), with jitter times uniform(0.5, 1).

    Attributes:
        max_retries: runs after the first; 0 = one attempt, then the dead-letter queue.
        first_delay, max_delay: seconds.
        give_up_on: exceptions that make the job a dead letter at once.
    """

    max_retries: int
    first_delay: float
    factor: float
    max_delay: float
    jitter: bool
    give_up_on: tuple[type[Exception], ...]

    def __init__(
        self,
        *,
        max_retries: int = 10,
        first_delay: Seconds = 1.0,
        factor: float = 4.0,
        max_delay: Seconds = 3600.0,
        jitter: bool = True,
        give_up_on: tuple[type[Exception], ...] = (),
    ) -> None:
        first, most = seconds(first_delay), seconds(max_delay)
        if max_retries < 0:
            raise ValueError(f"max_retries={max_retries}: must be 0 or more")
        for name, delay in (("first_delay", first), ("max_delay", most)):
            if not 0 <= delay < float("inf"):
                raise ValueError(f"{name}={delay}: must be 0 or more seconds, and finite")
        if not 1 <= factor < float("inf"):
            raise ValueError(f"factor={factor}: must be 1 or more, and finite")
        for name, value in (
            ("max_retries", max_retries),
            ("first_delay", first),
            ("factor", float(factor)),
            ("max_delay", most),
            ("jitter", jitter),
            ("give_up_on", tuple(give_up_on)),
        ):
            object.__setattr__(self, name, value)

    @property
    def numbers(self) -> dict[str, float]:
        """Return what a job's record can hold of the policy, by name: all but `give_up_on`."""
        return {name: getattr(self, name) for name in NUMBERS}

    def changed(self, numbers: Mapping[str, float]) -> RetryPolicy:
        """Return the policy with these numbers in place of its own, without those that only a newer version knows.

        Raises ValueError.
        """
        for name, kind in (("max_retries", int), ("jitter", bool)):
            if name in numbers and type(numbers[name]) is not kind:
                raise ValueError(f"{name}={numbers[name]!r}: must be of type {kind.__name__}")
        known: dict[str, Any] = {name: numbers[name] for name in NUMBERS if name in numbers}
        return RetryPolicy(**{**self.numbers, **known}, give_up_on=self.give_up_on)

    @property
    def max_attempts(self) -> int:
        """Return the number of attempts: the first run and all retries."""
        return self.max_retries + 1

    def delay(self, attempt: int, *, uniform: Callable[[float, float], float] = random.uniform) -> float:
        """Return the seconds to wait after this attempt (from 1) has failed; tests inject `uniform`."""
        try:
            wait = min(self.max_delay, self.first_delay * self.factor ** (attempt - 1))
        except OverflowError:
            wait = self.max_delay if self.first_delay else 0.0
        wait = min(LONGEST, wait)
        return wait * uniform(0.5, 1.0) if self.jitter else wait


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
