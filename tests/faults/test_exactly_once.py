"""A bounded share of the suite `exactly_once`; the whole: `make faults`, or `python -m tests.faults.exactly_once`."""

from __future__ import annotations

import pytest

from tests.faults.exactly_once import soak


@pytest.mark.timeout(180)
def test_every_effect_happens_exactly_once_though_workers_are_killed() -> None:
    report = soak(800, 5, 60.0, 20261)
    assert report.violations == [], report.text()
    assert report.part == "", "so many kills and jobs"
