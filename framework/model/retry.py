"""The retry policy: when a failed job runs again."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

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
