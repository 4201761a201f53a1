"""Ruin: an outage that only one process has, because a handler has changed something in it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from framework.model.events import LeasesLost
from framework.worker import core, descriptors
from tests.support.settling import ack
from tests.unit.desk import Desk, desk

__all__ = ["desk"]  # a fixture


def fail_often(desk: Desk, times: int = 5) -> None:
    for _ in range(times):
        desk.core.gate._retry_at = 0.0
        desk.core.gate.claim(1, 0)


def test_an_outage_is_no_ruin(desk: Desk) -> None:
    desk.put(1)
    desk.run_one()
    desk.engine.broken.add("claim")
    fail_often(desk)
    assert (desk.core.ruined, bool(desk.leave), desk.board.ruin(1)) == ("", False, None)


@pytest.mark.parametrize("has_run", [True, False])
def test_an_engine_that_fails_here_alone(desk: Desk, monkeypatch: pytest.MonkeyPatch, has_run: bool) -> None:
    """A process that has run nothing is as it was born: replacing it helps nobody, and goes on for ever."""
    monkeypatch.setattr(core, "OTHERS_WORK", 0.0)
    if has_run:
        desk.put(1)
        desk.run_one()
    desk.engine.broken.add("claim")
    fail_often(desk)
    assert not desk.leave, "maintenance has not said anything since"
    desk.board.engine_worked(0, time.monotonic_ns())
    fail_often(desk, 1)
    assert bool(desk.leave) == has_run
    assert desk.core.ruined == ("the engine fails only here: EngineUnavailable: claim: disk full" if has_run else "")


def test_an_engine_that_works_now_and_then_is_no_ruin(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """One file that cannot be removed must not cost a process after the other."""
    monkeypatch.setattr(core, "OTHERS_WORK", 0.0)
    desk.put(1, 2, 3, 4)
    desk.engine.broken.add("settle")
    for _ in range(4):
        desk.core.gate._retry_at = 0.0
        desk.run_one()
        desk.board.engine_worked(0, time.monotonic_ns())
    assert not desk.leave


def test_a_closed_descriptor_explains_the_failures_and_charges_the_job_that_ran(desk: Desk, tmp_path: Path) -> None:
    before = descriptors()
    with (tmp_path / "held").open("w") as held:
        desk.core.check._held = {fd: what for fd, what in descriptors().items() if fd not in before}
        assert list(desk.core.check._held) == [held.fileno()]
        desk.put(1, 2)
        desk.run_one()
        held.close()
        desk.engine.broken |= {"settle", "claim"}
        desk.put(3)
        attempt = desk.executor.attempt(desk.store_claim())
        assert desk.core.begin(attempt, 1)
        desk.executor.run(attempt)
        desk.core.finish(attempt, 1)
        assert desk.core.gate.doubtful
        assert not desk.leave, "one failure is not enough"
        fail_often(desk, 2)
    assert desk.core.ruined == "1 of the engine's 1 descriptors were closed"
    assert desk.leave.why == f"ruined: {desk.core.ruined}"
    assert desk.core.settle_late(), "it does not wait for what it cannot do"
    kill_reason = desk.board.ruin(1)
    assert kill_reason is not None
    assert (kill_reason.charges(1), kill_reason.charges(0), kill_reason.detail) == (True, False, desk.core.ruined)


def test_a_claim_that_seems_lost_because_its_directory_is_another_now(desk: Desk, tmp_path: Path) -> None:
    desk.put(1)
    attempt = desk.claim_one()
    assert desk.core.begin(attempt, 0)
    desk.executor.run(attempt)
    ack(desk.engine, [attempt.lease])
    desk.core.check._held = {9999: (1, 1)}
    desk.core.finish(attempt, 0)
    assert desk.core.ruined
    assert desk.said(LeasesLost) == []
    kill_reason = desk.board.ruin(1)
    assert kill_reason is not None
    assert kill_reason.charges(0)
