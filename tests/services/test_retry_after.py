from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.example_worker.retry_after import parse_retry_after

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def after(value: str | None) -> float | None:
    return parse_retry_after(value, now=NOW, longest=3600)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0),
        ("120", 120),
        ("  5 ", 5),
        ("999999999999999999999999", 3600),
        ("Sun, 01 Mar 2026 12:00:30 GMT", 30),
        ("Sunday, 01-Mar-26 12:00:30 GMT", 30),
        ("Sun Mar  1 12:00:30 2026", 30),
        ("Sun, 01 Mar 2026 13:00:30 +0100", 30),
        ("Sun, 01 Mar 2026 11:00:00 GMT", 0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 3600),
    ],
)
def test_seconds_and_the_three_forms_of_a_date(value: str, seconds: float) -> None:
    assert after(value) == seconds


@pytest.mark.parametrize("value", [None, "", "soon", "-1", "1.5", "٣", "1e3", "Sun, 45 Mar 2026 12:00:30 GMT"])
def test_nonsense_is_none(value: str | None) -> None:
    assert after(value) is None


@given(st.integers(0, 3600))
def test_both_forms_mean_the_same(seconds: int) -> None:
    date = format_datetime(NOW + timedelta(seconds=seconds), usegmt=True)
    assert after(date) == after(str(seconds)) == seconds


@given(st.text())
def test_never_raises_and_stays_in_bounds(value: str) -> None:
    seconds = after(value)
    assert seconds is None or 0 <= seconds <= 3600
