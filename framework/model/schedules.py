"""Schedules: jobs that the framework itself enqueues at planned moments, called ticks."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Generic, Literal, NamedTuple, TypeVar
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from framework.model.errors import DeclarationError, caller_location
from framework.model.retry import LONGEST, Seconds, seconds

P = TypeVar("P")
Missed = Literal["skip", "once", "all"]
GRACE = 60.0  # seconds after which a tick counts as missed for "skip"; a restart or a busy machine takes less
BOUND = 86_400.0  # default of `within` for "all", seconds
MOST_LISTED = 10_000  # missed ticks that are listed and counted; older ones are neither
MOST_AT_ONCE = 100  # missed ticks of one schedule that "all" makes up for in one look
KEY_LENGTH = 200


@contextmanager
def _declaring() -> Iterator[None]:
    try:
        yield
    except (ValueError, TypeError) as error:
        raise DeclarationError(f"{caller_location()}: {error}") from None


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except Exception:  # a missing name is a KeyError, a wrong one a ValueError, a directory an OSError
        raise ValueError(
            f"timezone={str(name)[:60]!r}: no such zone; write a name such as 'Europe/Berlin' (a system without time "
            "zones needs the package tzdata)"
        ) from None


class _Schedule(Generic[P]):
    """The options that all schedules share.

    Attributes:
        payload: of each job.
        missed: what happens to ticks at which no supervisor was running.
        within: seconds after which a missed tick is given up; None: never.
        key: identity of the schedule within its queue; empty: its own rule is its identity.
    """

    payload: P
    missed: Missed
    within: float | None
    key: str

    def _take(self, payload: P, missed: Missed, within: Seconds | None, key: str) -> None:
        if missed not in ("skip", "once", "all"):
            raise ValueError(f"missed={missed!r}: write 'skip', 'once' or 'all'")
        if not isinstance(key, str) or len(key) > KEY_LENGTH or not (key.isprintable() or not key):
            raise ValueError(f"key={str(key)[:60]!r}: at most {KEY_LENGTH} printable characters")
        if within is not None:
            within = seconds(within)
            if not 0 < within <= LONGEST:
                raise ValueError(f"within={within:g}: must be more than 0 seconds, at most {LONGEST:g}")
        default = {"skip": GRACE, "once": None, "all": BOUND}[missed]
        self.payload, self.missed, self.key = payload, missed, key
        self.within = default if within is None else within

    @property
    def rule(self) -> str:
        """Return the rule as text; schedules of one queue with the same rule fire at the same ticks."""
        raise NotImplementedError

    @property
    def words(self) -> str:
        """Return the rule in words."""
        raise NotImplementedError

    def ticks(self, after: float) -> Iterator[float]:
        """Yield the ticks after a moment, in order, in seconds since the epoch."""
        raise NotImplementedError

    def next(self, after: float) -> float:
        """Return the first tick after a moment; infinity: there is none."""
        return next(self.ticks(after), math.inf)


class Cron(_Schedule[P]):
    """A schedule by a cron expression, as in `Cron("0 6 * * mon", Report(...), timezone="Europe/Berlin")`.

    Daylight saving is treated as Debian's cron does it, for expressions whose minute and hour do not begin with `*`: a
    time that does not exist fires at the next moment that does, and a time that exists twice fires once. Other
    expressions follow the clock on the wall, so `*/15 * * * *` fires every quarter of an hour.

    Args:
        expression: minute, hour, day of month, month, day of week.
        payload: of each job. `ctx.scheduled_for` is the tick.
        timezone: a name of the IANA database.
        missed: for ticks at which no supervisor was running. "once": one job for the last of them; "all": one job for
            each; "skip": none for ticks that are more than a minute old.
        within: seconds after which a missed tick is given up. By default never for "once", after a day for "all".
        key: identity of the schedule within its queue. Give one to be able to change the expression without starting
            the schedule anew.

    Raises:
        DeclarationError: the expression, the zone or an option is wrong; the message names file and line.
    """

    def __init__(
        self,
        expression: str,
        payload: P,
        *,
        timezone: str = "UTC",
        missed: Missed = "once",
        within: Seconds | None = None,
        key: str = "",
    ) -> None:
        self.expression, self.timezone = " ".join(str(expression).split()), timezone
        with _declaring():
            self._take(payload, missed, within, key)
            if len(self.expression.split(" ")) != 5:
                raise ValueError(f"Cron({expression!r}): write five fields, as in '0 6 * * mon'")
            self.zone = _zone(timezone)
            try:
                there_is_one = self.next(datetime(2024, 1, 1, tzinfo=UTC).timestamp()) < math.inf
            except CronSimError as error:
                raise ValueError(f"Cron({expression!r}): {error}") from None
            if not there_is_one:
                raise ValueError(f"Cron({expression!r}): there is no such day")

    @property
    def rule(self) -> str:
        return f"{self.expression} {self.timezone}"

    @property
    def words(self) -> str:
        zone = "" if self.timezone == "UTC" else f" ({self.timezone})"
        return f"{CronSim(self.expression, datetime.now(UTC)).explain()}{zone}"

    def ticks(self, after: float) -> Iterator[float]:
        last = after
        for moment in CronSim(self.expression, datetime.fromtimestamp(after, self.zone)):
            # Two ticks that do not exist come at the same moment; and within the hour that exists twice the library
            # begins with the first of the two.
            if (tick := moment.timestamp()) > last:
                yield (last := tick)


class Every(_Schedule[P]):
    """A schedule by period, as in `Every(30, Report(...))`: ticks at the multiples of the period since 1970, UTC.

    Args:
        period: seconds or a timedelta, at least 1 second.
        payload, missed, within, key: as for `Cron`.

    Raises:
        DeclarationError: an option is wrong; the message names file and line.
    """

    def __init__(
        self,
        period: Seconds,
        payload: P,
        *,
        missed: Missed = "once",
        within: Seconds | None = None,
        key: str = "",
    ) -> None:
        with _declaring():
            self._take(payload, missed, within, key)
            self.period = seconds(period)
            if not 1 <= self.period <= LONGEST:
                raise ValueError(f"Every({self.period:g}): must be 1 second or more, at most {LONGEST:g}")

    @property
    def rule(self) -> str:
        return f"every {self.period:g} s"

    @property
    def words(self) -> str:
        return self.rule

    def ticks(self, after: float) -> Iterator[float]:
        for number in itertools.count(math.floor(after / self.period) + 1):
            if (tick := number * self.period) > after:  # a rounding error may give the same moment again
                yield tick


class Due(NamedTuple):
    """The ticks of a schedule that have come.

    Attributes:
        fire: those that get a job, oldest first.
        missed: how many get none, because they came too late.
        last: the latest of all.
    """

    fire: Sequence[float]
    missed: int
    last: float


def due(schedule: Cron[Any] | Every[Any], last: float, now: float) -> Due:
    """Return what to do about the ticks after `last`, the latest that was handled, up to `now`."""
    found = _latest(schedule, last, now)
    if not found:
        return Due((), 0, last)
    in_time = [tick for tick in found if schedule.within is None or tick >= now - schedule.within]
    if schedule.missed != "all":
        in_time = in_time[-1:]
    elif len(in_time) > MOST_AT_ONCE:  # the others come with the next look
        found = found[: found.index(in_time[MOST_AT_ONCE])]
        in_time = in_time[:MOST_AT_ONCE]
    return Due(in_time, len(found) - len(in_time), found[-1])


def _latest(schedule: Cron[Any] | Every[Any], last: float, now: float) -> list[float]:
    """Return the ticks after `last` up to `now`; where they are very many, only the latest."""
    shortest = schedule.period if isinstance(schedule, Every) else 60.0  # seconds between two ticks
    for span in (shortest * MOST_LISTED * 10**n for n in itertools.count()):
        begin = max(last, now - span)
        found = list(itertools.takewhile(lambda tick: tick <= now, schedule.ticks(begin)))
        if found or begin == last:
            return found
    raise AssertionError("unreachable")


@dataclass(frozen=True, slots=True)
class Named:
    """A schedule with its identity within its queue."""

    key: str
    schedule: Cron[Any] | Every[Any]


def named(schedules: Sequence[Cron[Any] | Every[Any]]) -> list[Named]:
    """Return the schedules of a queue with their keys. Raises ValueError: two have one key."""
    found: dict[str, Named] = {}
    for schedule in schedules:
        if not isinstance(schedule, (Cron, Every)):
            raise ValueError(f"schedules={schedule!r:.60}: write Cron(...) or Every(...)")
        key = schedule.key or schedule.rule
        if not schedule.key:  # the second of the same rule, with another payload, is another schedule
            key = next(k for n in itertools.count(1) if (k := key if n == 1 else f"{key} #{n}") not in found)
        if key in found:
            raise ValueError(f"two schedules have the key {key!r}")
        found[key] = Named(key, schedule)
    return list(found.values())
