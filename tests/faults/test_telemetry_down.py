"""A bounded share of the runs without a collector; the whole: `make faults`."""

from __future__ import annotations

import pytest

from tests.faults.telemetry_down import compare


@pytest.mark.timeout(180)
def test_without_a_collector_a_job_costs_the_same_and_no_span_is_uncounted() -> None:
    report = compare(200)
    assert report.violations == [], report.text()
