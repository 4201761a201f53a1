"""The schedules of a service as people see them: their rules, what was last handled, and what comes next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from itertools import islice
from typing import Any

from framework.engine.port import Tick
from framework.model.schedules import Cron, Every, Named

SHOWN = 3  # next ticks


@dataclass(frozen=True, slots=True)
class ScheduleView:
    """A schedule of a queue.

    Attributes:
        rule: the expression with its time zone, or the period. words: the same in words.
        policy: what happens to missed ticks.
        last: the latest tick that was handled, in seconds since the epoch; None: no supervisor has seen the schedule.
        next: the next ticks, in seconds since the epoch.
        missed: ticks that got no job.
        zone: the schedule's time zone.
    """

    queue: str
    key: str
    rule: str
    words: str
    policy: str
    last: float | None
    next: Sequence[float]
    missed: int
    zone: tzinfo


def views(queue: str, schedules: Sequence[Named], now: float, ticks: Mapping[str, Tick]) -> list[ScheduleView]:
    """Return the views of a queue's schedules.

    Args:
        now, ticks: as the engine's `ticks` returned them.
    """
    return [_view(queue, one.key, one.schedule, now, ticks.get(one.key)) for one in schedules]


def _view(queue: str, key: str, schedule: Cron[Any] | Every[Any], now: float, tick: Tick | None) -> ScheduleView:
    after = now if tick is None else max(now, tick.last)
    return ScheduleView(
        queue=queue,
        key=key,
        rule=schedule.rule,
        words=schedule.words,
        policy=schedule.missed,
        last=None if tick is None else tick.last,
        next=list(islice(schedule.ticks(after), SHOWN)),
        missed=0 if tick is None else tick.missed,
        zone=schedule.zone if isinstance(schedule, Cron) else UTC,
    )


def local(view: ScheduleView, tick: float) -> str:
    """Return a tick as ISO time in the schedule's own zone, to the second."""
    return datetime.fromtimestamp(tick, view.zone).isoformat(sep=" ", timespec="seconds")
