"""A worker of this process on an engine that is far away: `python -m tests.process.far SCENARIO` prints what it did.

A process of its own, because a worker has the main thread and its signals.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
import threading
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Any, ClassVar

from framework import Queue, RetryLater, Slot, WorkerApp
from framework.brokers import memory
from framework.brokers.memory import MemoryBroker, MemoryStore
from framework.events import Event, JobFinished, LeasesLost
from framework.ledger import Ledger
from framework.options import PoolOptions
from framework.queues import QueueOptions
from framework.scoreboard import Scoreboard
from framework.worker import AsyncWorker, LeaveSignal, SyncWorker, ThreadWorker, WorkerCore, thread_gate
from tests.contract.slow import SlowBroker
from tests.unit.helpers import a_job, an_executor

LONG = 30.0
CONCURRENCY = 20


class Far(WorkerApp):
    """Handlers that end as the scenario wants."""

    loop_jobs = Queue[int]("loop")
    jobs = Queue[int]("thread")
    many_jobs = Queue[int]("threads")
    began: ClassVar[int] = 0
    lateness: ClassVar[list[float]] = []
    together: asyncio.Event
    counting = threading.Lock()
    barrier: ClassVar[threading.Barrier]
    scenario: ClassVar[str] = ""
    world: ClassVar[World]

    @asynccontextmanager
    async def alifespan(self, slot: Slot) -> AsyncGenerator[None, None]:
        self.together = asyncio.Event()
        looking = asyncio.create_task(self.look())
        yield
        looking.cancel()

    async def look(self) -> None:
        """How late a sleep of 50 ms is."""
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.05)
            self.lateness.append(time.monotonic() - before - 0.05)

    @loop_jobs.handler
    async def on_loop(self, number: int) -> None:
        Far.began += 1
        if self.scenario == "together":
            if Far.began == CONCURRENCY:
                self.together.set()
            await self.together.wait()
        elif self.scenario == "many":
            await asyncio.sleep(random.random() * 0.02)
            if number % 10 == 1 and Far.began < 150:
                raise RetryLater("once more", delay=0)

    @many_jobs.handler
    def in_threads(self, number: int) -> None:
        with self.counting:
            Far.began += 1
        if self.scenario == "threads together":
            self.barrier.wait(LONG)
        else:
            time.sleep(random.random() * 0.02)
            if number % 10 == 1 and Far.began < 150:
                raise RetryLater("once more", delay=0)

    @jobs.handler
    def in_thread(self, number: int) -> None:
        Far.began += 1
        if number == 1 and self.scenario == "behind":  # the one before is settled while this one runs
            self.world.wait(lambda: self.world.left() == 1)


class World:
    """The engine, the worker, and what is done to them."""

    def __init__(self, scenario: str, queue: str, jobs: int, delay: float = 0.02) -> None:
        Far.scenario, Far.world = scenario, self
        self.queue = queue
        self.events: list[Event] = []
        self.engine = SlowBroker(MemoryBroker(MemoryStore(), incarnation="far"), delay=delay)
        self.engine.open([QueueOptions(queue)])
        self.engine.inner.enqueue([a_job(str(n).encode(), queue, f"j{n}") for n in range(jobs)])
        self.engine.calls.clear()
        executor = an_executor(Far(), self.events, queue, concurrency=CONCURRENCY)
        board = Scoreboard.in_memory([("maintenance", 0), (f"{queue}/0", CONCURRENCY)], app="Far")
        leave = LeaveSignal(LONG, lambda: 0)
        self.core = WorkerCore(
            f"{queue}/0",
            1,
            board=board,
            broker=self.engine,
            ledger=Ledger(self.engine.local_dir / "ledgers", "far", slots=CONCURRENCY),
            executors=[executor],
            options=PoolOptions.own_of(executor.options),
            emit=self.events.append,
            leave=leave,
        )
        Far.barrier = threading.Barrier(CONCURRENCY)
        kinds: dict[str, Any] = {"loop": AsyncWorker, "thread": SyncWorker, "threads": ThreadWorker}
        kind = kinds[queue]
        self.worker = kind(self.core, executor.app, Slot(executor.handler.queue, 0), unblock=lambda: None)

    def left(self) -> int:
        """Jobs that are not settled for good."""
        found = self.engine.inner.stats(self.queue)
        return int(found.in_flight + found.ready + found.delayed)

    def wait(self, what: Callable[[], object]) -> None:
        """Raises TimeoutError."""
        end = time.monotonic() + LONG
        while not what():
            if time.monotonic() > end:
                raise TimeoutError
            time.sleep(0.005)

    def run(self, until: Callable[[], object]) -> dict[str, Any]:
        """The worker serves until something is true, then drains; returns what happened."""
        found: dict[str, Any] = {"in time": True}

        def watch() -> None:
            try:
                self.wait(until)
            except TimeoutError:
                found["in time"] = False
            os.kill(os.getpid(), signal.SIGTERM)

        threading.Thread(target=watch, daemon=True).start()
        self.worker.run()
        lost = [job_id for event in self.events if isinstance(event, LeasesLost) for job_id in event.job_ids]
        return found | {
            "calls": [asdict(call) for call in self.engine.calls],
            "main": threading.get_ident(),
            "left": self.left(),
            "ran": Far.began,
            "lost": lost,
            "retried": sum(isinstance(event, JobFinished) and event.outcome == "retried" for event in self.events),
            "late": max(Far.lateness, default=0.0),
            "threads": [thread.name for thread in threading.enumerate() if thread.name == "engine"],
        }


def main(scenario: str) -> dict[str, Any]:
    """Plays one scenario."""
    if scenario == "together":
        world = World(scenario, "loop", CONCURRENCY)
    elif scenario == "many":
        world = World(scenario, "loop", 200)
        world.engine.flaws.middle, world.engine.flaws.late, world.engine.flaws.lost = [3, 1, 0], 2, {"j33"}
    elif scenario == "while a claim waits":
        memory.LONGEST_WAIT = thread_gate.WAIT = 10 * LONG  # a claim that is not woken waits for longer than we do
        world = World(scenario, "loop", 1)
    elif scenario == "drain":
        world = World(scenario, "loop", 5, delay=10 * LONG)
        return world.run(lambda: Far.began == 5)
    elif scenario == "threads together":
        world = World(scenario, "threads", CONCURRENCY)
    elif scenario == "threads":
        world = World(scenario, "threads", 200)
        world.engine.flaws.middle, world.engine.flaws.late, world.engine.flaws.lost = [3, 1, 0], 2, {"j33"}
    elif scenario == "behind":
        world = World(scenario, "thread", 2)
    else:
        world = World(scenario, "thread", 100, delay=LONG)
    return world.run(lambda: world.left() == 0)


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1])))
