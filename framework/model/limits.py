"""The limits of a queue over all processes: how many jobs run at once, how fast they start, its breaker, its groups.

A group is the jobs of a queue that have a key in common, such as all of one customer. The groups of a queue take turns,
so the jobs of one do not keep those of others waiting, however many they are. Within a group, lower priorities come
first, then jobs in the order of their enqueue. Jobs without a key are a group for which no limit and no order counts.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from framework.model.errors import DeclarationError, caller_location
from framework.model.retry import Seconds, seconds

if TYPE_CHECKING:
    from framework.model.options import QueueSpec

MOST_RUNNING = MOST_OF_GROUP = 10_000
ORDERS = ("strict",)
MOST_RATE = 100_000.0  # jobs a second
SHORTEST_HOLD, LONGEST_HOLD = 0.1, 3600.0  # seconds
CANARIES = 4  # in the time of a hold
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}
_ROUNDING = 1e-6  # seconds: less than the clock's float can tell
_LEAST_WAIT = 0.001  # seconds
_SET_BACK = 1.0  # seconds; a moment that lies further ahead is from before the clock was set back


@dataclass(frozen=True, slots=True)
class Rate:
    """A number of jobs in a unit of time: `s`, `m` or `h`."""

    jobs: float
    unit: str

    @classmethod
    def parse(cls, text: object) -> Rate | None:
        """Return the rate that a text such as `100/s` says; None stays None. Raises ValueError."""
        if text is None or isinstance(text, Rate):
            return text
        match = re.fullmatch(r"\s*(\d{1,9}(?:\.\d{1,6})?)\s*/\s*([smh])\s*", str(text), re.ASCII)
        found = Rate(float(match[1]), match[2]) if match and isinstance(text, str) else None
        if found is None or not 0 < found.per_second <= MOST_RATE:
            raise ValueError(
                f"rate={text!r:.100}: write jobs and a unit, as in 100/s, 30/m or 5/h; at most {MOST_RATE:.0f}/s"
            )
        return found

    @property
    def per_second(self) -> float:
        """Return the jobs a second."""
        return self.jobs / _UNITS[self.unit]

    @property
    def burst(self) -> float:
        """Return how many jobs may start at once after a pause: those of one second, at least one."""
        return max(1.0, self.per_second)

    def __str__(self) -> str:
        return f"{self.jobs:g}/{self.unit}"


@dataclass(frozen=True, init=False)
class Breaker:
    """A breaker holds a queue while its attempts fail alike, as when a service that they need is down.

    Where a share `failures` of the last `of` attempts in one process has failed, no process claims jobs of the queue
    any more, but for one job each quarter of `hold`. While these fail, the queue stays held, and their attempts are not
    spent. The first that succeeds ends the hold, and so do `hold` seconds in which none has failed.

    Attributes:
        failures: above 0, at most 1.
        of: 2 to 1,000 attempts.
        error_types: exceptions that count, also as the `__cause__` of another; a soft timeout counts as a TimeoutError.
            Empty: every failed attempt counts, except `Reject` and payloads that do not fit.
        hold: seconds, 0.1 to 3,600.

    Raises:
        DeclarationError: a value is out of its range; the message names file and line.
    """

    failures: float
    of: int
    error_types: tuple[type[BaseException], ...]
    hold: float

    def __init__(
        self,
        *,
        failures: float = 0.5,
        of: int = 20,
        error_types: tuple[type[BaseException], ...] = (),
        hold: Seconds = 30,
    ) -> None:
        try:
            values = _checked(failures, of, error_types, seconds(hold))
        except (ValueError, TypeError) as error:
            raise DeclarationError(f"{caller_location()}: Breaker: {error}") from None
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def changed(self, given: Mapping[str, Any]) -> Breaker:
        """Return the breaker with these numbers in place of its own. Raises ValueError."""
        return Breaker(**_checked(**{**vars(self), **given}))

    @property
    def threshold(self) -> int:
        """Return how many of the last `of` attempts must have failed."""
        return max(1, math.ceil(self.failures * self.of - 1e-9))


def _checked(failures: float, of: int, error_types: Any, hold: float) -> dict[str, Any]:
    if isinstance(failures, bool) or not isinstance(failures, (int, float)) or not 0 < failures <= 1:
        raise ValueError(f"failures={failures!r:.100}: must be above 0 and at most 1")
    if isinstance(of, bool) or not isinstance(of, int) or not 2 <= of <= 1000:
        raise ValueError(f"of={of!r:.100}: must be a whole number from 2 to 1000")
    if not SHORTEST_HOLD <= hold <= LONGEST_HOLD:
        raise ValueError(f"hold={hold:g}: must be {SHORTEST_HOLD:g} to {LONGEST_HOLD:g} seconds")
    if not isinstance(error_types, tuple) or not all(
        isinstance(one, type) and issubclass(one, BaseException) for one in error_types
    ):
        raise ValueError(f"error_types={error_types!r:.100}: must be a tuple of exception classes")
    return {"failures": float(failures), "of": of, "error_types": error_types, "hold": float(hold)}


class Room(NamedTuple):
    """The room that the limits of a queue leave to a claim.

    Attributes:
        jobs: how many jobs may be claimed now.
        wait: where there is no room: seconds until there may be some.
        canary: the queue is held; the one job finds out whether it may be reopened.
    """

    jobs: int
    wait: float = 0.0
    canary: bool = False


@dataclass(slots=True)
class Throttle:
    """The state of a queue's rate and breaker that all processes share. Moments are seconds of the engine's clock.

    Attributes:
        empty_at: when the bucket of tokens was empty; the tokens are what the rate gives since then, up to the burst.
        held_until: the end of a hold.
        canary_at: when the next single job may go through.
    """

    empty_at: float = 0.0
    held_until: float = 0.0
    canary_at: float = 0.0

    def take(self, options: QueueSpec, wanted: int, now: float) -> Room:
        """Take the tokens for up to `wanted` jobs."""
        breaker, rate = options.breaker, options.rate
        canary_at = None
        if breaker is not None and self.is_held(now, breaker.hold):
            every = breaker.hold / CANARIES
            if 0 < self.canary_at - now <= every + _ROUNDING:
                return Room(0, min(self.canary_at, self.held_until) - now)
            wanted, canary_at = 1, now + every
        if rate is not None:
            self.empty_at = max(self.empty_at, now - rate.burst / rate.per_second)
            if self.empty_at > now + _SET_BACK:
                self.empty_at = now
            tokens = (now - self.empty_at + _ROUNDING) * rate.per_second
            if tokens < 1:
                return Room(0, max(_LEAST_WAIT, (1 - tokens) / rate.per_second))
            wanted = min(wanted, int(tokens))
            self.empty_at += wanted / rate.per_second
        if canary_at is not None:
            self.canary_at = canary_at
        return Room(wanted, canary=canary_at is not None)

    def give_back(self, options: QueueSpec, room: Room, unused: int) -> None:
        """Give back what a claim could not use."""
        if options.rate is not None:
            self.empty_at -= unused / options.rate.per_second
        if room.canary and unused == room.jobs:
            self.canary_at = 0.0

    def hold(self, now: float, seconds: float) -> None:
        """Hold the queue from now on; 0 seconds: end the hold."""
        self.held_until = now + seconds if seconds > 0 else 0.0
        self.canary_at = now + seconds / CANARIES

    def is_held(self, now: float, longest: float = LONGEST_HOLD) -> bool:
        """Return whether the queue is held. A hold longer than the longest is from before the clock was set back."""
        return 0 < self.held_until - now <= longest + _ROUNDING


class Groups(NamedTuple):
    """How a queue's engine treats its groups.

    Attributes:
        limit: jobs of a group that are claimed at once over all processes on the store; None: any number.
        strict: a job that was claimed and waits again, as for a retry, is the next of its group, and the others wait
            for it. Then `limit` is 1.
    """

    limit: int | None = None
    strict: bool = False


def check_groups(grouped: bool, limit: int | None, order: str | None) -> None:
    """Raise ValueError for options of groups that do not fit together."""
    if order is not None and order not in ORDERS:
        raise ValueError(f"group_order={order!r:.60}: write 'strict', or leave it out")
    if limit is not None and limit > MOST_OF_GROUP:
        raise ValueError(f"group_limit={limit}: must be at most {MOST_OF_GROUP:,}")
    for name, value in (("group_limit", limit), ("group_order", order)):
        if value is not None and not grouped:
            raise ValueError(f"{name}={value!r} needs the key of each job's group: add group=lambda message: ...")
    if order is not None and limit not in (None, 1):
        raise ValueError(
            f"group_limit={limit}: with group_order='strict' one job of a group runs at once: leave it out"
        )
