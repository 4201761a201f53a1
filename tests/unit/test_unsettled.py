"""One lease that cannot be settled: no other job of its worker waits for it, and no drain."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from framework.engine.ledger import DeadLedgers
from framework.model.errors import EngineUnavailable
from framework.model.events import EngineFailed, EngineRecovered, ServiceMistake
from framework.model.outcome import SUCCEEDED, Settlement
from framework.model.retry import Later
from framework.worker.gate.unsettled import FIRST_RETRY, LAST_RETRY, Unsettled
from tests.unit.desk import Desk
from tests.unit.helpers import a_lease


@pytest.fixture
def stone(tmp_path: Path) -> Desk:
    """A worker whose first job refuses every settlement; its engine works for all others."""
    desk = Desk(tmp_path)
    desk.put(1, 2, 3, 4, 5)
    settle = desk.engine.settle

    def refuse(done: Sequence[Settlement]) -> None:
        left = [one.lease for one in done if one.lease.job.id == "j1"]
        settle([one for one in done if one.lease not in left])
        if left:
            raise EngineUnavailable("/spool/j1: Operation not permitted", unsettled=left)

    desk.engine.settle = refuse  # type: ignore[method-assign]
    return desk


def test_the_other_jobs_run_at_once_and_it_is_said_once(stone: Desk) -> None:
    """Regression: each try of such a job kept the worker from claiming for up to two seconds, and wrote a line."""
    for _ in range(5):
        stone.run_one()
    assert stone.core.gate._retry_at == 0.0
    assert stone.engine.stats("jobs").in_flight == 1
    for _ in range(10):
        assert not stone.retry_now()
        assert list(stone.core.gate.claim(1, 0.0)) == []
    [failed] = stone.said(EngineFailed)
    assert "Operation not permitted" in failed.error
    assert stone.said(EngineRecovered) == []
    assert stone.core.ruined == ""


def test_a_drain_leaves_it_once_the_engine_works_for_others(stone: Desk) -> None:
    stone.run_one()
    assert not stone.core.leave_behind(), "nobody says that the engine works elsewhere"
    stone.board.engine_worked(0, int((time.monotonic() + 60) * 1e9))
    assert stone.core.leave_behind()
    [said] = stone.said(ServiceMistake)
    assert "cannot be settled stay claimed" in said.text
    stone.ledger.close()
    ledgers = DeadLedgers(stone.ledger._place)
    dead = ledgers.of("w")
    assert dead is not None
    [entry] = dead._entries.values()
    assert entry.outcome == SUCCEEDED, "its rescuer finishes it"
    ledgers.close()


def test_an_engine_that_fails_for_all_holds_the_claims(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.put(1, 2, 3)
    leases = desk.core.gate.claim(3, 0.0)
    desk.engine.broken = {"settle"}
    for lease in leases[:2]:
        desk.core.gate.settle(lease, SUCCEEDED)
    assert desk.core.gate._retry_at == 0.0
    desk.core.gate.settle(leases[2], SUCCEEDED)
    assert desk.core.gate._retry_at > 0.0


def test_each_failure_waits_longer_for_the_next_try() -> None:
    now = [10.0]
    found = Later[Unsettled](FIRST_RETRY, LAST_RETRY, clock=lambda: now[0])
    assert not found
    item, delays = Unsettled(Settlement(a_lease(), SUCCEEDED), 0), []
    for _ in range(8):
        delays.append(found.add(item))
        assert found
        assert found.due() == []
        now[0] = item.retry_at
        assert found.due() == [item]
    assert delays == [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]
    assert item.since == 10.0
