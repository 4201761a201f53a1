"""The bounded share of tests.faults.resources: each scenario once, not timed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable

import pytest

from tests.faults.resources import SCENARIOS, a_disk_in_trouble


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: mounts small disks")
@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=SCENARIOS)
def test_what_runs_out_comes_back(scenario: Callable[[], float]) -> None:
    if scenario is a_disk_in_trouble and shutil.which("mkfs.ext4") is None:
        pytest.skip("no mkfs.ext4")
    assert scenario() >= 0
