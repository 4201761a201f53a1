"""A bounded share of the shutdown soak; the whole: `make faults`, or `python -m tests.faults.shutdown_soak`."""

from __future__ import annotations

import pytest

from tests.faults.shutdown_soak import soak


@pytest.mark.timeout(180)
def test_sigterm_ends_it_in_time_whatever_hangs() -> None:
    report = soak(9, 20260, late=4.0)  # the soak allows 1 s; here the machine may be busy with other tests
    assert report.violations == [], report.text()
    assert report.tried["rounds"] == 9
