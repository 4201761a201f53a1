"""A bounded share of the kill soak; the whole: `make faults`, or `python -m tests.faults.kill_soak`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.kill_soak import Plan, soak


@pytest.mark.timeout(180)
def test_random_kills_lose_nothing_and_leave_nothing_behind(tmp_path: Path) -> None:
    report = soak(Plan(jobs=1000, kills=25, seconds=8, pause=0.15, patience=60, seed=20260), tmp_path)
    assert report.violations == [], report.text()
    assert report.tried["SIGKILLs by us"], report.text()
    assert report.tried["runs left unfinished"], report.text()
