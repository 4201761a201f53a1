"""When a failed job runs again."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

Seconds = float | timedelta
LONGEST = 1e9  # seconds, some 30 years: timers of the system take no more


def seconds(value: Seconds) -> float:
    """A duration as a float of seconds. Raises TypeError: a text is none, even one that looks like a number."""
    if isinstance(value, timedelta):
        return value.total_seconds()
    given: object = value  # whoever runs no type checker may give anything
    if not isinstance(given, (int, float)):
        raise TypeError(f"{given!r} is no duration: write a number of seconds or a timedelta")
    try:
        return float(given)
    except OverflowError:  # an int beyond all floats: whoever checks the range refuses it
        return math.inf if given > 0 else -math.inf


@dataclass(frozen=True, init=False)
class RetryPolicy:
    """Delay after attempt n: min(max_delay, first_delay * factor ** (n - 1)), times uniform(0.5, 1) with jitter.

    Attributes:
        max_retries: runs after the first; 0 = one attempt, then the dead-letter queue.
        first_delay, max_delay: seconds.
        give_up_on: exceptions that make a dead letter at once.
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
    def max_attempts(self) -> int:
        """The first run and all retries."""
        return self.max_retries + 1

    def delay(self, attempt: int, *, uniform: Callable[[float, float], float] = random.uniform) -> float:
        """Seconds to wait after the failure of this attempt (from 1); a test injects `uniform`."""
        try:
            wait = min(self.max_delay, self.first_delay * self.factor ** (attempt - 1))
        except OverflowError:
            wait = self.max_delay if self.first_delay else 0.0
        wait = min(LONGEST, wait)
        return wait * uniform(0.5, 1.0) if self.jitter else wait
