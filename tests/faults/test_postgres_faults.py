"""A bounded share of the suite `postgres`; the whole: `make faults`, or `python -m tests.faults.postgres_faults`."""

from __future__ import annotations

import pytest

from tests.faults.postgres_faults import soak


@pytest.mark.timeout(180)
def test_a_server_that_fails_costs_no_acknowledged_job_and_workers_recover() -> None:
    report = soak(4, 60.0, 20262, late=10.0, only="killed,hole,too_many,terminated")
    assert report.violations == [], report.text()
