"""A process's dealings with its engine: order of the writes, patience with an engine that fails."""

from __future__ import annotations

import time
from pathlib import Path

from framework.engine.memory.engine import MemoryEngine
from framework.model.events import (
    EngineFailed,
    EngineRecovered,
    JobFinished,
    JobsClaimed,
    JobsSettled,
    LeasesLost,
)
from tests.support.settling import ack
from tests.unit.desk import Desk, desk

__all__ = ["desk"]


def test_the_order_of_the_writes(desk: Desk) -> None:
    """The run before the handler, the outcome before telemetry, all that before the settlement; then the slot is free.

    Verified: with the outcome recorded in `finish` this fails, and a kill between telemetry and ledger charges a job
    that telemetry counts as done.
    """
    emit = desk.executor._emit
    desk.executor._emit = lambda event: (desk.engine.calls.append("telemetry"), emit(event))[1]
    desk.put(1)
    attempt = desk.claim_one()
    assert desk.board.busy_rows(1) == []
    desk.core.begin(attempt, 1)
    (row,) = desk.board.busy_rows(1)
    assert (row.row, row.job_id, row.delivery) == (1, "j1", 1)
    assert (row.soft - row.started, row.hard - row.started) == (30 * 10**9, 35 * 10**9)
    desk.executor.run(attempt)
    assert desk.engine.calls == ["claim", "begin", "end", "telemetry"]
    desk.core.finish(attempt, 1)
    assert desk.engine.calls[4:] == ["told", "settle", "free"]
    assert len(desk.ledger) == 0
    assert desk.board.busy_rows(1) == []
    assert (desk.core.jobs, desk.core.used) == (1, 0)
    assert [type(event) for event in desk.events] == [JobsClaimed, JobFinished, JobsSettled]


def test_no_timeout_is_no_deadline(tmp_path: Path) -> None:
    desk = Desk(tmp_path, timeout=None)
    desk.put(1)
    desk.core.begin(desk.claim_one(), 0)
    (row,) = desk.board.busy_rows(1)
    assert (row.soft, row.hard) == (0, 0)


def test_a_ledger_that_has_no_room_starts_nothing(desk: Desk) -> None:
    desk.put(1)
    attempt = desk.claim_one()
    desk.engine.broken = {"begin"}
    assert not desk.core.begin(attempt, 0)
    assert desk.board.busy_rows(1) == []
    assert desk.core.used == 0
    assert desk.engine.stats("jobs").ready == 1
    desk.engine.broken = set()
    desk.core.gate._retry_at = 0.0
    assert desk.run_one().lease.attempt == 1  # none was spent
    assert {event.verb for event in desk.said(EngineFailed)} == {event.verb for event in desk.said(EngineRecovered)}


def test_what_cannot_be_settled_now_is_settled_later(desk: Desk) -> None:
    desk.put(1, -2)
    desk.engine.broken = {"settle"}
    desk.run_one()
    desk.core.gate._retry_at = 0.0
    desk.run_one()
    assert desk.engine.stats("jobs").in_flight == 2
    assert len(desk.ledger) == 2
    assert not desk.retry_now()
    assert not desk.core.settle_late()  # waits before it tries again
    desk.engine.broken = set()
    assert desk.retry_now()
    assert (desk.engine.stats("jobs").in_flight, desk.engine.stats("jobs").delayed) == (0, 1)
    assert {event.verb for event in desk.said(EngineRecovered)} == {"settle"}
    assert len(desk.ledger) == 0
    assert [event.verb for event in desk.said(JobsSettled)] == ["ack", "retry"]
    assert desk.core.settle_late()


def test_successes_wait_for_each_other_with_their_outcomes_in_the_ledger(desk: Desk) -> None:
    desk.put(1, 2, 3)
    for _ in range(3):
        desk.run_soon()
    assert "settle" not in desk.engine.calls
    assert (len(desk.ledger), desk.engine.calls.count("end"), desk.engine.calls.count("told")) == (3, 3, 3)
    assert (desk.core.jobs, desk.core.used, desk.board.busy_rows(1)) == (3, 0, [])
    desk.core.gate.flush()
    assert desk.engine.calls.count("settle") == 1
    assert (desk.engine.stats("jobs").in_flight, len(desk.ledger)) == (0, 0)
    assert [(event.verb, event.count) for event in desk.said(JobsSettled)] == [("ack", 3)]


def test_a_failure_waits_for_nothing_and_takes_along_what_waits(desk: Desk) -> None:
    desk.put(1, -2)
    desk.run_soon()
    desk.run_soon()
    assert desk.engine.calls.count("settle") == 1
    assert (desk.engine.stats("jobs").in_flight, desk.engine.stats("jobs").delayed, len(desk.ledger)) == (0, 1, 0)


def test_nothing_waits_for_others_while_the_engine_fails(desk: Desk) -> None:
    desk.put(1, 2, 3)
    desk.run_soon()
    desk.engine.broken = {"settle"}
    desk.core.gate.flush()
    assert desk.engine.stats("jobs").in_flight == 1
    desk.core.gate._retry_at = 0.0
    desk.run_soon()
    assert desk.engine.calls.count("settle") == 2, "each success asks the engine again"
    desk.engine.broken = set()
    assert desk.retry_now()
    assert (desk.engine.stats("jobs").in_flight, len(desk.ledger)) == (0, 0)


def test_what_waits_gives_its_slots_to_a_ledger_without_room(desk: Desk) -> None:
    desk.put(1, 2)
    desk.run_soon()
    attempt = desk.claim_one()
    desk.engine.broken = {"begin"}
    assert not desk.core.begin(attempt, 0)
    assert desk.engine.calls[-5:] == ["settle", "free", "begin", "release", "free"]


def test_a_failing_engine_is_asked_later_and_later(desk: Desk) -> None:
    desk.engine.broken = {"claim"}
    for _ in range(9):
        assert desk.core.gate.claim(1, 0.0) == ()
        desk.core.gate._retry_at = 0.0
    assert [event.delay for event in desk.said(EngineFailed)] == [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0, 2.0]
    desk.core.gate._retry_at = time.monotonic() + 60
    asked = desk.engine.calls.count("claim")
    assert desk.core.gate.claim(1, 0.0) == ()
    assert desk.engine.calls.count("claim") == asked
    desk.engine.broken = set()
    desk.core.gate._retry_at = 0.0
    desk.put(1)
    assert len(desk.core.gate.claim(1, 0.0)) == 1
    (recovered,) = desk.said(EngineRecovered)
    assert recovered.verb == "claim"


def test_a_recovery_is_seen_although_nothing_waits(desk: Desk) -> None:
    desk.engine.broken = {"claim"}
    desk.core.gate.claim(1, 0.0)
    desk.engine.broken = set()
    desk.core.gate._retry_at = 0.0
    assert list(desk.core.gate.claim(1, 0.0)) == []
    assert [event.verb for event in desk.said(EngineRecovered)] == ["claim"]


def test_a_lost_lease_is_said_and_forgotten(desk: Desk) -> None:
    desk.put(1)
    attempt = desk.claim_one()
    desk.store.kill("w")
    other = MemoryEngine(desk.store, incarnation="other")
    other.open([])
    (rescued,) = other.rescue()
    ack(other, [rescued.lease])
    desk.core.begin(attempt, 0)
    desk.executor.run(attempt)
    desk.core.finish(attempt, 0)
    (lost,) = desk.said(LeasesLost)
    assert list(lost.job_ids) == ["j1"]
    assert desk.said(JobsSettled) == []
    assert desk.core.settle_late()


def test_unstarted_leases_go_back_to_their_place(desk: Desk) -> None:
    desk.put(1, 2, 3)
    desk.core.gate.give_back(desk.core.gate.claim(2, 0))
    assert [lease.job.id for lease in desk.core.gate.claim(3, 0)] == ["j1", "j2", "j3"]
