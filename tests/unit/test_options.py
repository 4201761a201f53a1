"""Names, sizes, durations and the retry policy."""

from __future__ import annotations

import math
import re
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from framework import Cron, Every, Queue, RetryLater, RetryPolicy, Snooze
from framework.model.options import QueueOptions, check_name
from framework.model.retry import LONGEST, seconds
from framework.service.queues import parse_size

quick = settings(max_examples=80, deadline=None)


@given(st.text(st.characters(codec="utf-8"), max_size=120) | st.text("abz09._-", max_size=100))
@quick
def test_names(name: str) -> None:
    """A name is safe as a directory, a subject and an attribute, or refused."""
    try:
        check_name(name)
    except ValueError:
        assert not (name[:1].isalnum() and name.isascii() and name == name.lower() and set(name) <= set("abz09._-"))
        return
    assert 0 < len(name) <= 100
    assert name.isascii()
    assert name.lower() == name
    assert "/" not in name
    assert name[0] not in "._-"


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "a/b", "A", "ü", "a b", "a\n", "-a", "q" * 101, "a\0", "²", "٣"]
)
def test_bad_names(name: str) -> None:
    with pytest.raises(ValueError, match="1 to 100 of a-z 0-9"):
        check_name(name)


@given(st.integers(0, 10**6), st.sampled_from(["", "K", "M", "G", "T"]), st.sampled_from(["", "B", "iB", "ib"]))
@quick
def test_sizes(number: int, unit: str, suffix: str) -> None:
    expected = number * 1024 ** " KMGT".index(unit or " ")
    assert parse_size(f" {number}{unit}{suffix} ") == expected
    assert parse_size(f"{number}.5{unit.lower()}") == int(expected + 1024 ** " KMGT".index(unit or " ") / 2)


@given(st.text(max_size=20))
@quick
def test_a_size_is_a_number_or_a_value_error(text: str) -> None:
    with suppress(ValueError):  # and nothing else
        assert parse_size(text) is not None


@pytest.mark.parametrize(
    "text", ["", "lots", "-1", "1e3", "1 2", "512Mi B", "1\N{KELVIN SIGN}", "٣", "9" * 400, "1.", ".5"]
)
def test_bad_sizes(text: str) -> None:
    with pytest.raises(ValueError, match="write it as 512MiB"):
        parse_size(text)


def test_sizes_that_are_numbers() -> None:
    assert (parse_size(None), parse_size(7), parse_size("512MiB")) == (None, 7, 512 * 2**20)


def test_seconds() -> None:
    assert (seconds(3), seconds(0.5), seconds(timedelta(minutes=1))) == (3.0, 0.5, 60.0)


@pytest.mark.parametrize("delay", [math.inf, 1e300, 10**400, timedelta.max])
def test_a_delay_of_a_handler_is_at_most_what_a_clock_has_room_for(delay: Any) -> None:
    assert Snooze(delay=delay).delay == RetryLater(delay=delay).delay == LONGEST
    policy = RetryPolicy(first_delay=1e200, max_delay=1e300, jitter=False)
    assert policy.delay(1) == policy.delay(10**9) == LONGEST


def test_a_delay_that_is_none_is_now() -> None:
    for delay in (math.nan, -1, -math.inf):
        assert Snooze(delay=delay).delay == RetryLater(delay=delay).delay == 0


def test_durations_of_a_queue() -> None:
    queue = Queue[int]("q", timeout=timedelta(hours=2), kill_after=timedelta(seconds=1), ttl=timedelta(days=1))
    assert (queue.options.timeout, queue.options.kill_after, queue.options.ttl) == (7200.0, 1.0, 86_400.0)
    assert Queue[int]("q", timeout=None).options.timeout is None


def test_defaults_are_those_of_the_stub() -> None:
    assert Queue[int]("q").options == QueueOptions(
        name="q",
        workers=1,
        concurrency=1,
        timeout=30.0,
        kill_after=5.0,
        retry=RetryPolicy(max_retries=10, first_delay=1.0, factor=4.0, max_delay=3600.0, jitter=True, give_up_on=()),
        max_length=100_000,
        max_payload_bytes=1_048_576,
    )


def test_schedules_keep_their_place() -> None:
    queue = Queue[int]("q", schedules=[Cron("0 2 * * *", 1, timezone="Europe/Berlin"), Every(60, 2)])
    cron, every = queue.schedules
    assert isinstance(cron, Cron)
    assert isinstance(every, Every)
    assert (cron.expression, cron.payload, cron.timezone, every.period, every.payload) == (
        "0 2 * * *",
        1,
        "Europe/Berlin",
        60,
        2,
    )


# --- retry ----------------------------------------------------------------------------------------------------------

policies = st.builds(
    RetryPolicy,
    max_retries=st.integers(0, 50),
    first_delay=st.just(0.0) | st.floats(1e-6, 1e6),
    factor=st.floats(1, 1e3),
    max_delay=st.floats(0, 1e6),
    jitter=st.booleans(),
)


@given(policies, st.integers(1, 5000), st.floats(0.5, 1.0))
@quick
def test_delay_is_the_formula_within_its_bounds(policy: RetryPolicy, attempt: int, drawn: float) -> None:
    delay = policy.delay(attempt, uniform=lambda low, high: drawn)
    assert 0 <= delay <= policy.max_delay
    whole = delay / drawn if policy.jitter else delay
    digits = math.log10(policy.factor) * (attempt - 1)
    grown = policy.first_delay * 10 ** min(digits, 300)
    assert whole == pytest.approx(min(policy.max_delay, grown))


@given(policies, st.integers(1, 40))
@quick
def test_delays_never_shrink(policy: RetryPolicy, attempt: int) -> None:
    assert policy.delay(attempt + 1, uniform=lambda *_: 1.0) >= policy.delay(attempt, uniform=lambda *_: 1.0)


def test_documented_delays() -> None:
    policy = RetryPolicy(jitter=False)
    assert [policy.delay(n) for n in range(1, 9)] == [1, 4, 16, 64, 256, 1024, 3600, 3600]
    assert policy.max_attempts == 11


def test_jitter_draws_between_a_half_and_one() -> None:
    asked: list[tuple[float, float]] = []

    def uniform(low: float, high: float) -> float:
        asked.append((low, high))
        return low

    assert RetryPolicy(first_delay=timedelta(seconds=10)).delay(1, uniform=uniform) == 5.0
    assert asked == [(0.5, 1.0)]
    assert 0.5 <= RetryPolicy().delay(1) <= 1.0


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"max_retries": -1}, "max_retries=-1: must be 0 or more"),
        ({"first_delay": -1}, "first_delay=-1.0: must be 0 or more seconds"),
        ({"first_delay": float("nan")}, "first_delay=nan"),
        ({"max_delay": float("inf")}, "max_delay=inf"),
        ({"factor": 0.5}, "factor=0.5: must be 1 or more"),
        ({"factor": float("nan")}, "factor=nan"),
    ],
)
def test_bad_policies(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=re.escape(complaint)):
        RetryPolicy(**options)


def test_a_policy_is_a_value() -> None:
    assert RetryPolicy(give_up_on=(ValueError,)) == RetryPolicy(give_up_on=(ValueError,)) != RetryPolicy()
    with pytest.raises(AttributeError):
        RetryPolicy().max_retries = 3  # type: ignore[misc]
