"""A bounded share of the suite `failover`; the whole: `make faults`, or `python -m tests.faults.failover`."""

from __future__ import annotations

import pytest

from tests.faults.failover import soak


@pytest.mark.timeout(180)
def test_a_promoted_replica_has_every_acknowledged_job_and_workers_find_it() -> None:
    report = soak(1, 60.0, 20262, late=15.0)
    assert report.violations == [], report.text()
