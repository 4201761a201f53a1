"""The limits of queues as data: rates, breakers, the bucket of tokens, and how wrong ones are refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from framework import Breaker, DeclarationError, Queue, SettingsError, WorkerApp
from framework.model.limits import Rate, Throttle
from framework.model.options import QueueOptions
from framework.service.options import resolve
from framework.service.settings import load_settings

START = 1_700_000_000.0


def options(rate: str) -> QueueOptions:
    return QueueOptions("jobs", rate=Rate.parse(rate))


@pytest.mark.parametrize(
    ("text", "per_second", "burst"),
    [("100/s", 100, 100), ("30/m", 0.5, 1), ("5/h", 5 / 3600, 1), (" 1.5 / s ", 1.5, 1.5), ("6000/m", 100, 100)],
)
def test_a_rate_says_jobs_and_a_unit(text: str, per_second: float, burst: float) -> None:
    rate = Rate.parse(text)
    assert rate is not None
    assert rate.per_second == pytest.approx(per_second)
    assert rate.burst == pytest.approx(burst)
    assert Rate.parse(str(rate)) == rate


@pytest.mark.parametrize("text", ["", "100", "0/s", "-1/s", "1/d", "100/sec", "1e3/s", "100001/s", 100, "١/s", "1/s/s"])
def test_a_wrong_rate_is_refused_in_one_line(text: Any) -> None:
    with pytest.raises(DeclarationError, match=r"test_limits_of_queues.py:\d+: rate=.*: write jobs and a unit, as in"):
        Queue[str]("jobs", rate=text)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"failures": 0}, "failures=0: must be above 0 and at most 1"),
        ({"failures": 20}, "failures=20: must be above 0"),
        ({"of": 1}, "of=1: must be a whole number from 2 to 1000"),
        ({"of": 2.5}, "of=2.5: must be a whole number"),
        ({"hold": 0}, "hold=0: must be 0.1 to 3600 seconds"),
        ({"hold": "30"}, "'30' is no duration"),
        ({"hold": float("nan")}, "hold=nan: must be"),
        ({"error_types": [OSError]}, "must be a tuple of exception classes"),
        ({"error_types": (OSError(),)}, "must be a tuple of exception classes"),
    ],
)
def test_a_wrong_breaker_is_refused_in_one_line(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(DeclarationError, match=rf"test_limits_of_queues.py:\d+: Breaker: .*{said}"):
        Breaker(**wrong)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"max_running": 0}, "max_running=0: must be 1 or more"),
        ({"max_running": 10_001}, "max_running=10001: must be at most 10,000"),
        ({"max_running": "8"}, "max_running='8': must be a whole number"),
        ({"breaker": True}, "breaker=True: write breaker=Breaker"),
    ],
)
def test_wrong_limits_are_refused_in_one_line(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(DeclarationError, match=f"test_limits_of_queues.py:.*{said}"):
        Queue[str]("jobs", **wrong)


class Shop(WorkerApp):
    mails = Queue[str]("mails", max_running=8, rate="100/s", breaker=Breaker(error_types=(OSError,), hold=10))
    plain = Queue[str]("plain")


def resolved(queue: Queue[Any], monkeypatch: pytest.MonkeyPatch, **environ: str) -> QueueOptions:
    for name, value in environ.items():
        monkeypatch.setenv(f"WORKER_QUEUES__{queue.attribute.upper()}__{name}", value)
    return resolve(queue, load_settings(), Shop)


def test_settings_change_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    found = resolved(Shop.mails, monkeypatch, MAX_RUNNING="3", RATE="7/m", BREAKER__OF="50")
    assert (found.max_running, str(found.rate)) == (3, "7/m")
    assert found.breaker == Breaker(of=50, error_types=(OSError,), hold=10)


def test_settings_remove_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    found = resolved(Shop.mails, monkeypatch, MAX_RUNNING="none", RATE="none")
    assert (found.max_running, found.rate) == (None, None)


def test_settings_give_limits_to_a_queue_that_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    found = resolved(Shop.plain, monkeypatch, MAX_RUNNING="2", RATE="1/s", BREAKER__HOLD="5")
    assert (found.max_running, found.rate, found.breaker) == (2, Rate(1, "s"), Breaker(hold=5))


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("MAX_RUNNING", "0", "PLAIN__MAX_RUNNING: max_running=0: must be 1 or more"),
        ("MAX_RUNNING", "many", "PLAIN__MAX_RUNNING='many': input should be a valid integer"),
        ("RATE", "fast", "PLAIN__RATE: rate='fast': write jobs and a unit"),
        ("BREAKER__OF", "1", "PLAIN__BREAKER__OF: breaker__of=1: must be a whole number"),
        ("BREAKER__HOLD", "x", "PLAIN__BREAKER__HOLD='x': input should be a valid number"),
        ("BREAKER__FAILURE", "1", "no option 'failure'; did you mean failures?"),
    ],
)
def test_wrong_settings_name_their_variable(monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str) -> None:
    with pytest.raises(SettingsError, match=f"WORKER_QUEUES__.*{said.replace('?', '.')}"):
        resolved(Shop.plain, monkeypatch, **{name: value})


# --- the bucket -------------------------------------------------------------------------------------------------------


def test_a_bucket_gives_its_burst_then_the_rate() -> None:
    throttle, wanted = Throttle(), options("100/s")
    assert throttle.take(wanted, 1000, START).jobs == 100
    room = throttle.take(wanted, 1000, START)
    assert (room.jobs, room.wait) == (0, pytest.approx(0.01, rel=0.01))
    assert throttle.take(wanted, 1000, START + 0.5).jobs == 50
    assert throttle.take(wanted, 1000, START + 3600).jobs == 100


@pytest.mark.parametrize("rate", ["0.5/h", "1/h", "7/m", "3/s", "1000/s", "99999/s"])
def test_over_a_long_time_a_bucket_gives_the_rate(rate: str) -> None:
    throttle, wanted, now, got = Throttle(), options(rate), START, 0
    per_second = wanted.rate.per_second  # type: ignore[union-attr]
    while got < 2000:
        room = throttle.take(wanted, 7, now)
        got += room.jobs
        now += room.wait
        assert got <= wanted.rate.burst + (now - START) * per_second + 0.01 * got + 1  # type: ignore[union-attr]
    assert now - START <= 2010 / per_second


@pytest.mark.parametrize("back", [0.1, 0.9, 1.1, 60.0, 1e6])
def test_a_clock_that_is_set_back_does_not_stop_a_queue(back: float) -> None:
    throttle, wanted = Throttle(), options("10/s")
    assert throttle.take(wanted, 10, START).jobs == 10
    waited, now = 0.0, START - back
    while not (room := throttle.take(wanted, 1, now)).jobs:
        waited, now = waited + room.wait, now + room.wait
    assert waited <= 1.2


def test_a_clock_that_is_set_forward_gives_one_burst() -> None:
    throttle, wanted = Throttle(), options("10/s")
    assert throttle.take(wanted, 99, START).jobs == 10
    assert throttle.take(wanted, 99, START + 1e6).jobs == 10
    assert throttle.take(wanted, 99, START + 1e6).jobs == 0


@pytest.mark.parametrize("back", [10.0, 1e6])
def test_a_hold_from_before_the_clock_was_set_back_is_over(back: float) -> None:
    throttle, wanted = Throttle(), replace(options("10/s"), rate=None, breaker=Breaker(hold=2))
    throttle.hold(START, 2)
    assert throttle.take(wanted, 5, START).jobs == 0
    assert throttle.take(wanted, 5, START - back).jobs == 5
