"""A process's dealings with its engine: order of the writes, patience with an engine that fails, limits."""

from __future__ import annotations

import asyncio
import errno
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from framework import Queue, WorkerApp
from framework.engine.ledger import Ledger
from framework.engine.memory.engine import MemoryEngine, MemoryStore
from framework.model.attempt import Attempt
from framework.model.errors import EngineUnavailable, WorkerError
from framework.model.events import (
    EngineFailed,
    EngineRecovered,
    Event,
    JobFinished,
    JobsClaimed,
    JobsSettled,
    LeasesLost,
    LoopBlocked,
    WorkerLeaving,
)
from framework.model.job import Lease, RunRecord
from framework.model.options import PoolOptions, QueueOptions
from framework.model.outcome import Outcome
from framework.process.scoreboard import LEAVING, READY, Scoreboard
from framework.worker import LeaveSignal, WorkerCore
from framework.worker.interrupts.blocking import LoopWatch
from tests.support.settling import ack
from tests.unit.helpers import a_job, an_executor

LONG = 30.0


class App(WorkerApp):
    jobs = Queue[int]("jobs")
    hold: threading.Event

    @jobs.handler
    def job(self, number: int) -> None:
        if number < 0:
            raise ValueError(number)


class Engine(MemoryEngine):
    """In memory; the verbs in `broken` cannot be done now. Notes the order of its calls."""

    def __init__(self, store: MemoryStore) -> None:
        super().__init__(store, incarnation="w")
        self.broken: set[str] = set()
        self.calls: list[str] = []

    def __getattribute__(self, name: str) -> Any:
        if name in ("claim", "settle", "release"):
            self.calls.append(name)
            if name in self.broken:
                raise EngineUnavailable(f"{name}: disk full")
        return super().__getattribute__(name)


class Book(Ledger):
    """A real ledger. Notes the order of its calls among those of the engine; `begin` fails where that is broken."""

    def __init__(self, place: Path, engine: Engine) -> None:
        super().__init__(place, "w", slots=2)
        self.engine = engine

    def begin(self, lease: Lease, run: RunRecord) -> None:
        self.engine.calls.append("begin")
        if "begin" in self.engine.broken:
            raise OSError(errno.ENOSPC, "No space left on device")
        super().begin(lease, run)

    def end(self, lease: Lease, outcome: Outcome) -> None:
        self.engine.calls.append("end")
        super().end(lease, outcome)

    def told(self, lease: Lease) -> None:
        self.engine.calls.append("told")
        super().told(lease)

    def free(self, lease: Lease) -> None:
        self.engine.calls.append("free")
        super().free(lease)


class Desk:
    def __init__(self, path: Path, **options: Any) -> None:
        self.events: list[Event] = []
        self.store = MemoryStore()
        self.engine = Engine(self.store)
        self.engine.open([QueueOptions("jobs")])
        self.board = Scoreboard.create(path / "board", [("maintenance", 0), ("jobs/0", 2)], app="App")
        self.executor = an_executor(App(), self.events, concurrency=2, **options)
        self.leave = LeaveSignal(25.0, lambda: 0)
        self.ledger = Book(path / "ledgers", self.engine)
        self.core = WorkerCore(
            "jobs/0",
            1,
            board=self.board,
            engine=self.engine,
            executors=[self.executor],
            options=PoolOptions.own_of(self.executor.options),
            emit=self.events.append,
            leave=self.leave,
            ledger=self.ledger,
        )

    def put(self, *payloads: int) -> None:
        self.engine.enqueue([a_job(str(payload).encode(), job_id=f"j{payload}") for payload in payloads])

    def claim_one(self) -> Attempt:
        (lease,) = self.core.gate.claim(1, 0)
        return self.executor.attempt(lease)

    def store_claim(self) -> Lease:
        """By the engine itself, which may be broken for the core."""
        broken, self.engine.broken = self.engine.broken, set()
        (lease,) = self.engine.claim(["jobs"], limit=1, wait=0)
        self.engine.broken = broken
        return lease

    def run_one(self) -> Attempt:
        attempt = self.claim_one()
        assert self.core.begin(attempt, 0)
        self.executor.run(attempt)
        self.core.finish(attempt, 0)
        return attempt

    def run_soon(self) -> Attempt:
        attempt = self.claim_one()
        assert self.core.begin(attempt, 0)
        self.executor.run(attempt)
        self.core.finish(attempt, 0, soon=True)
        return attempt

    def retry_now(self) -> bool:
        self.core.gate._retry_at = 0.0
        for item in self.core.gate._unsettled.items():
            item.retry_at = 0.0
        return self.core.settle_late()

    def said(self, kind: type[Event]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    return Desk(tmp_path)


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


def test_max_jobs_per_process(tmp_path: Path) -> None:
    desk = Desk(tmp_path, max_jobs_per_process=2)
    desk.put(1, 2, 3)
    assert desk.core.room() == 2
    desk.run_one()
    assert (desk.core.room(), bool(desk.leave)) == (1, False)
    assert desk.core.room(running=1) == 0
    desk.run_one()
    assert (desk.leave.why, desk.core.room()) == ("max_jobs_per_process", 0)
    desk.core.leaving()
    assert desk.board.slot(1).state == LEAVING
    assert [event.why for event in desk.said(WorkerLeaving)] == ["max_jobs_per_process"]


def test_max_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resident = [100 * 2**20]
    monkeypatch.setattr("framework.worker.core.resident", lambda: resident[0])
    desk = Desk(tmp_path, max_memory=200 * 2**20)
    desk.core.ready()
    assert desk.board.slot(1).state == READY
    desk.core.check_limits()
    assert not desk.leave
    resident[0] = 201 * 2**20
    desk.core.check_limits()
    assert not desk.leave  # not at every job: reading it costs
    desk.core._next_memory_check = 0.0
    desk.core.check_limits()
    assert desk.leave.why == "max_memory"


def test_a_limit_below_what_the_process_has_already(tmp_path: Path) -> None:
    desk = Desk(tmp_path, max_memory=2**20)
    with pytest.raises(WorkerError, match=r"jobs/0: max_memory=1 MiB is below the \d+ MiB that the process has"):
        desk.core.ready()


def test_a_tick_shows_what_runs(desk: Desk) -> None:
    desk.put(1, 2)
    desk.run_one()
    desk.core.begin(desk.claim_one(), 0)
    before = time.monotonic_ns()
    desk.core.tick()
    slot = desk.board.slot(1)
    assert (slot.used, slot.jobs) == (1, 1)
    assert slot.tick >= before


def test_a_loop_that_stood_still_with_its_process_is_not_blocked(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread that looks at the clock stood still, too."""
    now, waits = [1_000.0], iter([(1.0, False), (60.0, False), (1.0, False), (5.5, True)])

    def wait(_: float) -> bool:
        seconds, stop = next(waits)
        now[0] += seconds
        return stop

    monkeypatch.setattr("framework.worker.interrupts.blocking.time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr("framework.worker.interrupts.blocking.threading.Thread.start", lambda _: None)
    watch = LoopWatch(desk.core, asyncio.new_event_loop(), after=5.0)
    monkeypatch.setattr(watch, "_stop", SimpleNamespace(wait=wait))
    watch._look()
    assert desk.said(LoopBlocked) == []


async def test_a_blocked_loop_has_a_name(desk: Desk) -> None:
    """Once per blockage, with the stack of who blocks it."""
    said = threading.Event()

    def emit(event: Event) -> None:
        desk.events.append(event)
        said.set()

    desk.core.emit = emit
    desk.core.rows[1].start("slow", 1, 1, 0, 0, "jobs")
    desk.core.rows[1].on_cpu(True)
    watch = LoopWatch(desk.core, asyncio.get_running_loop(), after=0.02)
    try:
        for _ in range(2):
            watch.turned()
            assert said.wait(LONG)  # here the loop stands still
            said.clear()
            await asyncio.sleep(0)
        watch.turned()
    finally:
        watch.stop()
    for blocked in desk.said(LoopBlocked)[:2]:
        assert (blocked.process, blocked.queue, blocked.job_id, blocked.handler) == (
            "jobs/0",
            "jobs",
            "slow",
            "App.job",
        )
        assert "test_a_blocked_loop_has_a_name" in blocked.stack
        assert blocked.where.startswith("test_worker_core.py:")
        assert "said.wait(LONG)" in blocked.where
