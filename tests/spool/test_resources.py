"""The bounded share of tests.faults.resources: each scenario once, not timed."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from tests.faults.resources import SCENARIOS


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: mounts small disks")
@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=SCENARIOS)
def test_what_runs_out_comes_back(scenario: Callable[[], float]) -> None:
    assert scenario() >= 0
