"""What a worker's process may use, and what it shows: jobs, memory, signs of life, a loop that is blocked."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from framework import Queue, WorkerApp
from framework.model.errors import WorkerError
from framework.model.events import Event, LoopBlocked, WorkerLeaving
from framework.process.scoreboard import LEAVING, READY
from framework.worker.interrupts.blocking import LoopWatch
from tests.unit.desk import Desk, desk

__all__ = ["desk"]

LONG = 30.0


class Here(WorkerApp):
    jobs = Queue[int]("jobs")

    @jobs.handler
    def job(self, number: int) -> None: ...


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
    desk.core.used = 1
    watch = LoopWatch(desk.core, asyncio.new_event_loop(), after=5.0)
    monkeypatch.setattr(watch, "_stop", SimpleNamespace(wait=wait))
    watch._look()
    assert desk.said(LoopBlocked) == []


async def test_a_blocked_loop_has_a_name(tmp_path: Path) -> None:
    """Once per blockage, with the stack of who blocks it, and its line in the file of the handler."""
    desk = Desk(tmp_path, Here())
    said = threading.Event()

    def emit(event: Event) -> None:
        desk.events.append(event)
        said.set()

    desk.core.emit = emit
    desk.core.used = 1
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
            "Here.job",
        )
        assert "test_a_blocked_loop_has_a_name" in blocked.stack
        assert blocked.where.startswith("test_worker_limits.py:")
        assert "said.wait(LONG)" in blocked.where
