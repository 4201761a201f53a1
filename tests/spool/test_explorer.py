"""The bounded share of tests.faults.explorer: the first schedules of each small protocol."""

from __future__ import annotations

import pytest

from tests.faults.explorer import explore
from tests.faults.small_protocols import PROTOCOLS

MOST = 120  # schedules; most protocols have fewer


@pytest.mark.parametrize("name", PROTOCOLS)
def test_every_order_of_steps(name: str) -> None:
    """Verified by the mutation gate: births in another order, without a lock, without the lock of an id."""
    tried, _, broken = explore(name, most=MOST)
    assert not broken
    assert tried > 1
