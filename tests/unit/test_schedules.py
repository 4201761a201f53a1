"""Schedules: which moments they plan, also when clocks change, and what becomes of those that were missed."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from framework import Cron, DeadLetter, DeclarationError, Every, Queue
from framework.model.schedules import MOST_AT_ONCE, Due, due, named
from framework.service.plans import plans_of

BERLIN, NEW_YORK, LORD_HOWE = "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"


def first(schedule: Cron[Any] | Every[Any], after: str, zone: str, count: int) -> list[str]:
    """The next moments after a local one, as local ones with their offset."""
    place = ZoneInfo(zone)
    begin = datetime.fromisoformat(after)
    ticks = schedule.ticks((begin if begin.tzinfo else begin.replace(tzinfo=place)).timestamp())
    return [datetime.fromtimestamp(tick, place).isoformat(timespec="minutes") for tick in islice(ticks, count)]


@pytest.mark.parametrize(
    ("zone", "expression", "after", "expected"),
    [
        # A time that does not exist fires at the next moment that does, and both of two such times once.
        (BERLIN, "30 2 * * *", "2025-03-29T12:00", ["2025-03-30T03:00+02:00", "2025-03-31T02:30+02:00"]),
        (BERLIN, "15,45 2 * * *", "2025-03-29T12:00", ["2025-03-30T03:00+02:00", "2025-03-31T02:15+02:00"]),
        (NEW_YORK, "30 2 * * *", "2025-03-08T12:00", ["2025-03-09T03:00-04:00", "2025-03-10T02:30-04:00"]),
        (LORD_HOWE, "15 2 * * *", "2025-10-04T12:00", ["2025-10-05T02:30+11:00", "2025-10-06T02:15+11:00"]),
        # A time that exists twice fires at its first.
        (BERLIN, "30 2 * * *", "2025-10-25T12:00", ["2025-10-26T02:30+02:00", "2025-10-27T02:30+01:00"]),
        (BERLIN, "30 2 * * *", "2025-10-26T02:10+01:00", ["2025-10-27T02:30+01:00"]),
        (NEW_YORK, "30 1 * * *", "2025-11-01T12:00", ["2025-11-02T01:30-04:00", "2025-11-03T01:30-05:00"]),
        (LORD_HOWE, "45 1 * * *", "2025-04-05T12:00", ["2025-04-06T01:45+11:00", "2025-04-07T01:45+10:30"]),
        # What follows the clock on the wall goes on without a gap and without a repetition.
        (BERLIN, "*/30 * * * *", "2025-03-30T01:20", ["2025-03-30T01:30+01:00", "2025-03-30T03:00+02:00"]),
        (
            BERLIN,
            "*/30 * * * *",
            "2025-10-26T02:20+02:00",
            ["2025-10-26T02:30+02:00", "2025-10-26T02:00+01:00", "2025-10-26T02:30+01:00", "2025-10-26T03:00+01:00"],
        ),
        # Outside these hours a day is a day.
        (BERLIN, "0 6 * * mon", "2025-03-24T06:00", ["2025-03-31T06:00+02:00", "2025-04-07T06:00+02:00"]),
        ("UTC", "0 0 29 2 *", "2025-01-01T00:00", ["2028-02-29T00:00+00:00"]),
        ("UTC", "0 12 L * *", "2025-01-31T12:00", ["2025-02-28T12:00+00:00"]),
    ],
)
def test_daylight_saving(zone: str, expression: str, after: str, expected: list[str]) -> None:
    assert first(Cron(expression, 1, timezone=zone), after, zone, len(expected)) == expected


@given(st.floats(0, 4e9), st.sampled_from(["*/7 * * * *", "30 1,2 * * *", "0 */3 * * *", "5 2 * * sun"]))
def test_ticks_come_in_order_and_after_the_moment_given(after: float, expression: str) -> None:
    for zone in (BERLIN, LORD_HOWE):
        schedule = Cron(expression, 1, timezone=zone)
        found = list(islice(schedule.ticks(after), 30))
        assert after < found[0]
        assert all(a < b for a, b in pairwise(found))
        assert list(islice(schedule.ticks(found[3]), 5)) == found[4:9]


@given(st.floats(1, 1e7), st.floats(0, 4e9))
def test_periods_are_multiples_since_1970(period: float, after: float) -> None:
    ticks = list(islice(Every(period, 1).ticks(after), 4))
    assert after < ticks[0] <= after + period * (1 + 1e-9)
    assert [round(tick / period) * period for tick in ticks] == ticks


def test_every_takes_a_timedelta() -> None:
    assert first(Every(timedelta(hours=6), 1), "2025-01-01T05:00", "UTC", 2) == [
        "2025-01-01T06:00+00:00",
        "2025-01-01T12:00+00:00",
    ]


class TestMissed:
    """Now is at 1,000 seconds, and a tick comes each 100."""

    def due(self, last: float, now: float = 1000.0, **options: Any) -> Due:
        return due(Every(100, 1, **options), last, now)

    def test_nothing_is_due_before_its_time(self) -> None:
        assert self.due(950, 999.9) == Due((), 0, 950)
        assert self.due(1000) == Due((), 0, 1000)

    def test_a_clock_that_was_set_back_repeats_nothing(self) -> None:
        assert self.due(1000, 300) == Due((), 0, 1000)

    @pytest.mark.parametrize("policy", ["skip", "once", "all"])
    def test_a_tick_in_time_gets_its_job(self, policy: Any) -> None:
        assert self.due(900, missed=policy) == Due([1000.0], 0, 1000)
        assert self.due(900, 1059, missed=policy) == Due([1000.0], 0, 1000)

    def test_once_is_one_job_for_the_last(self) -> None:
        assert self.due(600, 1090) == Due([1000.0], 3, 1000)
        assert self.due(600, 1090, within=80) == Due([], 4, 1000)

    def test_skip_gives_up_what_is_a_minute_old(self) -> None:
        assert self.due(600, 1061, missed="skip") == Due([], 4, 1000)
        assert self.due(600, 1059, missed="skip") == Due([1000.0], 3, 1000)

    def test_all_makes_up_for_each_within_its_bound(self) -> None:
        assert self.due(600, missed="all") == Due([700.0, 800.0, 900.0, 1000.0], 0, 1000)
        assert self.due(600, missed="all", within=250) == Due([800.0, 900.0, 1000.0], 1, 1000)
        some = due(Every(1, 1, missed="all"), 0, 1000)
        assert (len(some.fire), some.missed, some.last) == (MOST_AT_ONCE, 0, 100)

    def test_years_of_seconds_are_not_listed(self) -> None:
        found = due(Every(1, 1), 0, 1e9)
        assert (found.fire, found.last) == ([1e9], 1e9)
        assert found.missed > 5000
        monthly = due(Cron("0 0 1 * *", 1), 0, datetime(2025, 1, 31, tzinfo=UTC).timestamp())
        assert monthly.fire == [datetime(2025, 1, 1, tzinfo=UTC).timestamp()]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Cron("0 6 * *", 1), "five fields"),
        (lambda: Cron("0 6 * * * *", 1), "five fields"),
        (lambda: Cron("61 * * * *", 1), "Bad minute"),
        (lambda: Cron("0 0 30 2 *", 1), "Bad day"),
        (lambda: Cron("0 6 * * mon", 1, timezone="Europe/Berln"), "no such zone"),
        (lambda: Cron("0 6 * * mon", 1, timezone="../etc/passwd"), "no such zone"),
        (lambda: Cron("0 6 * * mon", 1, missed="never"), "'skip', 'once' or 'all'"),
        (lambda: Cron("0 6 * * mon", 1, within=0), "within=0"),
        (lambda: Cron("0 6 * * mon", 1, key="a\nb"), "key="),
        (lambda: Every(0.5, 1), "1 second"),
        (lambda: Every(math.inf, 1), "1 second"),
        (lambda: Every("60", 1), "no duration"),
        (lambda: Queue[int]("q", schedules=[Every(1, 1, key="a"), Every(2, 1, key="a")]), "two schedules have the key"),
        (lambda: Queue[int]("q", schedules=["* * * * *"]), "write Cron"),
    ],
)
def test_a_wrong_schedule_is_refused_where_it_stands(make: Any, says: str) -> None:
    with pytest.raises(DeclarationError, match=says) as caught:
        make()
    assert "test_schedules.py:" in str(caught.value)


def test_the_rule_is_the_key_unless_one_is_given() -> None:
    given = [Cron("0  6 * * mon", 1), Cron("0 6 * * mon", 2), Every(60, 1), Every(60, 1, key="mine")]
    assert [one.key for one in named(given)] == ["0 6 * * mon UTC", "0 6 * * mon UTC #2", "every 60 s", "mine"]


class Report(BaseModel):
    kind: str


def test_a_payload_must_fit_its_queue() -> None:
    small = Queue[Report]("q", schedules=[Every(60, Report(kind="x" * 100))], max_payload_bytes=50)
    wrong = Queue[Report]("q", schedules=[Every(60, 5)])  # type: ignore[list-item]
    letters = Queue[DeadLetter]("q", schedules=[Every(60, 5)])  # type: ignore[list-item]
    for queue, says in ((small, "max_payload_bytes"), (wrong, "schedule 'every 60 s'"), (letters, "dead-letter queue")):
        with pytest.raises(DeclarationError, match=says) as caught:
            plans_of([queue], {"q": queue.options})
        assert "test_schedules.py:" in str(caught.value)


def test_a_plan_makes_the_job_of_a_tick() -> None:
    queue = Queue[Report]("q", ttl=60, schedules=[Every(60, Report(kind="a"))])
    (plan,) = plans_of([queue], {"q": queue.options})
    job = plan.job(120.0, 130.0)
    assert (job.queue, job.payload, job.enqueued_at, job.scheduled_for, job.ttl) == ("q", b'{"kind":"a"}', 130, 120, 60)
    assert plan.job(120.0, 130.0).id != job.id
