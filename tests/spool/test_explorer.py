"""The bounded share of tests.faults.explorer: the first schedules of each small protocol. MOST=number for more."""

from __future__ import annotations

import os

import pytest

from tests.faults.explorer import explore
from tests.faults.small_protocols import PROTOCOLS

MOST = int(os.environ.get("MOST", "40")) or 10**9  # schedules


@pytest.mark.parametrize("name", PROTOCOLS)
def test_every_order_of_steps(name: str) -> None:
    """Verified by the mutation gate: births in another order, without a lock, without the lock of an id."""
    tried, _, broken = explore(name, most=MOST)
    assert not broken
    assert tried > 1
