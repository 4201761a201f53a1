"""A worker's core on an engine in memory that can be broken, with a ledger that notes the order of its calls."""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from framework import Queue, WorkerApp
from framework.engine.ledger import Ledger
from framework.engine.memory.engine import MemoryEngine, MemoryStore
from framework.model.attempt import Attempt
from framework.model.errors import EngineUnavailable
from framework.model.events import (
    Event,
)
from framework.model.job import Lease, RunRecord
from framework.model.options import PoolOptions, QueueOptions
from framework.model.outcome import Outcome
from framework.process.scoreboard import Scoreboard
from framework.worker import LeaveSignal, WorkerCore
from tests.unit.helpers import a_job, an_executor


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


class NotedLedger(Ledger):
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

    def sent(self, lease: Lease) -> None:
        self.engine.calls.append("told")
        super().sent(lease)

    def free(self, lease: Lease) -> None:
        self.engine.calls.append("free")
        super().free(lease)


class Desk:
    """A worker's core on an engine in memory, with all that it says."""

    def __init__(self, path: Path, app: WorkerApp | None = None, **options: Any) -> None:
        self.events: list[Event] = []
        self.store = MemoryStore()
        self.engine = Engine(self.store)
        self.engine.open([QueueOptions("jobs")])
        self.board = Scoreboard.create(path / "board", [("maintenance", 0), ("jobs/0", 2)], app="App")
        self.executor = an_executor(app or App(), self.events, concurrency=2, **options)
        self.leave = LeaveSignal(25.0, lambda: 0)
        self.ledger = NotedLedger(path / "ledgers", self.engine)
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
