"""What is tried again later and later goes on for days: a float that is doubled a thousand times is none any more."""

from __future__ import annotations

import errno

from framework.engine.spool.claim.setbacks import LAST, Setbacks
from framework.model.retry import Later, Retried, doubled
from framework.worker.gate.unsettled import FIRST_RETRY, LAST_RETRY, Unsettled
from tests.unit.helpers import a_lease

MANY = 2_000  # failures: half an hour of a worker's tries, seventeen of maintenance


def test_it_is_doubled_up_to_the_last() -> None:
    assert [doubled(0.5, times, 30.0) for times in range(9)] == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]
    assert doubled(0.5, 10**9, 30.0) == 30.0


def test_the_first_failure_is_remembered_and_each_wait_is_longer() -> None:
    tried = Retried()
    assert [tried.failed(now, 1.0, 3.0) for now in (10.0, 20.0, 30.0)] == [1.0, 2.0, 3.0]
    assert (tried.failures, tried.since, tried.retry_at) == (3, 10.0, 33.0)


def test_a_file_that_never_moves_is_tried_for_ever() -> None:
    """Regression: the 1,026th failure, after some eight hours, was an OverflowError, and ended the process."""
    now = [0.0]
    found = Setbacks(clock=lambda: now[0])
    for _ in range(MANY):
        found.add("p", OSError(errno.EPERM, "x"))
    now[0] = LAST - 0.1
    assert found.waits("p")


def test_a_lease_that_is_never_settled_is_tried_for_ever() -> None:
    """Regression: a worker died of it after 34 minutes, and maintenance after eight hours."""
    found = Later[Unsettled](FIRST_RETRY, LAST_RETRY, clock=lambda: 0.0)
    item = Unsettled(a_lease(), None)  # type: ignore[arg-type]
    assert [found.add(item) for _ in range(MANY)][-1] == LAST_RETRY
