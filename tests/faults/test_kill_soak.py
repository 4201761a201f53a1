"""A bounded share of the kill soak; the whole: `make faults`, or `python -m tests.faults.kill_soak`."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.faults.kill_soak import SETTINGS, Plan, Producers, calm_down, soak
from tests.faults.killer import Killer
from tests.faults.report import Report
from tests.support.cluster import Cluster
from tests.support.processes import wait_until


@pytest.mark.timeout(180)
def test_random_kills_lose_nothing_and_leave_nothing_behind(tmp_path: Path) -> None:
    report = soak(Plan(jobs=600, kills=16, seconds=8, pause=0.15, patience=60, seed=20260), tmp_path)
    assert report.violations == [], report.text()
    assert report.tried["SIGKILLs by us"], report.text()
    assert report.tried["runs left unfinished"], report.text()


def test_a_last_blow_that_kills_a_supervisor_is_no_broken_promise(tmp_path: Path) -> None:
    report = Report("kill_soak")
    cluster = Cluster(tmp_path, "tests.support.services.soak:Soak", **SETTINGS, OTEL_SDK_DISABLED="true")
    killer = Killer(cluster, list, random.Random(1))
    try:
        tree = cluster.start_tree()
        assert wait_until(lambda: cluster.ready(tree), 30)
        killer._behead(tree, None)
        calm_down(Plan(patience=30), cluster, Producers(cluster, 0, random.Random(1)), killer, report)
    finally:
        cluster.close()
    assert report.violations == []
