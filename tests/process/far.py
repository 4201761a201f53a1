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
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict
from types import FrameType
from typing import Any, ClassVar

from framework import Context, Failure, Queue, RetryLater, RetryPolicy, Slot, WorkerApp
from framework.engine.ledger import Ledger
from framework.engine.memory import engine as memory
from framework.engine.memory.engine import MemoryEngine, MemoryStore
from framework.model.events import AttemptLost, Event, JobFinished, LeasesLost
from framework.model.options import PoolOptions, QueueOptions
from framework.process.scoreboard import Scoreboard
from framework.worker import AsyncWorker, LeaveSignal, SyncWorker, ThreadWorker, WorkerCore
from framework.worker.gate import thread_gate
from tests.contract.slow import SlowBroker
from tests.support.processes import wait_until
from tests.unit.helpers import a_job, an_executor

LONG = 30.0
CONCURRENCY = 20


class Far(WorkerApp):
    """Handlers that end as the scenario wants."""

    loop_jobs = Queue[int]("loop")
    jobs = Queue[int]("thread")
    many_jobs = Queue[int]("threads")
    began: ClassVar[int] = 0
    together: asyncio.Event
    counting = threading.Lock()
    barrier: ClassVar[threading.Barrier]
    scenario: ClassVar[str] = ""
    world: ClassVar[World]
    told: ClassVar[list[str]] = []

    def on_failure(self, failure: Failure, ctx: Context) -> None:
        self.told.append(f"{ctx.job_id} {failure.reason} {ctx.attempt}")

    @asynccontextmanager
    async def alifespan(self, slot: Slot) -> AsyncGenerator[None, None]:
        self.together = asyncio.Event()
        if self.scenario == "turning":
            self.world.watch = Watch()
            self.world.engine.work = self.world.watch.verb
        yield
        self.world.engine.work = lambda: None  # the loop is about to end
        sys.setprofile(None)

    @loop_jobs.handler
    async def on_loop(self, number: int) -> None:
        Far.began += 1
        if self.scenario.startswith("taken") and Far.began == 1:
            with failing(self.scenario):
                await asyncio.sleep(LONG)
        elif self.scenario in ("together", "turning"):
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
        if self.scenario.startswith("taken") and Far.began == 1:
            with failing(self.scenario):
                nap()
        elif self.scenario == "threads together":
            self.barrier.wait(LONG)
        elif self.scenario == "threads":
            time.sleep(random.random() * 0.02)
            if number % 10 == 1 and Far.began < 150:
                raise RetryLater("once more", delay=0)

    @jobs.handler
    def in_thread(self, number: int) -> None:
        Far.began += 1
        if self.scenario.startswith("taken") and Far.began == 1:
            with failing(self.scenario):
                nap()
        elif number == 1 and self.scenario == "behind":  # the one before is settled while this one runs
            self.world.wait(lambda: self.world.left() == 1)


class Watch:
    """What the loop's thread does while verbs are under way.

    Attributes:
        turns: how often the loop has turned while a verb waited for that.
        stood_still: verbs during which the loop did not turn: something on it waited for them.
        most: calls of functions that one callback of the loop has made at most.
    """

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.turns = self.most = self._calls = 0
        self.stood_still: list[str] = []
        sys.setprofile(self._count)

    def verb(self) -> None:
        """A verb that takes until the loop has turned."""
        turned = threading.Event()
        if threading.current_thread() is threading.main_thread():
            self.stood_still.append("a verb on the loop")
            return
        self.loop.call_soon_threadsafe(self.loop.call_soon, turned.set)
        if turned.wait(LONG / 2):
            self.turns += 1
        else:
            self.stood_still.append("the loop waited for a verb")

    def _count(self, frame: FrameType, event: str, _: object) -> None:
        if frame.f_code is asyncio.Handle._run.__code__ and event in ("call", "return"):
            self.most, self._calls = max(self.most, self._calls), 0
        elif event in ("call", "c_call"):
            self._calls += 1


def nap() -> None:
    """Python code that goes on for long, and can be interrupted."""
    end = time.monotonic() + LONG
    while time.monotonic() < end:
        time.sleep(0.005)


@contextmanager
def failing(scenario: str) -> Iterator[None]:
    """Where the scenario says so, cleaning up after an interruption fails."""
    try:
        yield
    except BaseException:
        if scenario == "taken, and fails":
            raise ConnectionError("cannot clean up") from None
        raise


class World:
    """The engine, the worker, and what is done to them."""

    def __init__(self, scenario: str, queue: str, jobs: int, delay: float = 0.02, *, retries: int = 1) -> None:
        Far.scenario, Far.world = scenario, self
        self.watch: Watch | None = None
        self.queue = queue
        self.events: list[Event] = []
        self.engine = SlowBroker(MemoryEngine(MemoryStore(), incarnation="far"), delay=delay)
        self.engine.open([QueueOptions(queue)])
        self.engine.inner.enqueue([a_job(str(n).encode(), queue, f"j{n}") for n in range(jobs)])
        self.engine.calls.clear()
        policy = RetryPolicy(max_retries=retries, first_delay=0.01)
        executor = an_executor(Far(), self.events, queue, concurrency=CONCURRENCY, retry=policy)
        board = Scoreboard.in_memory([("maintenance", 0), (f"{queue}/0", CONCURRENCY)], app="Far")
        leave = LeaveSignal(LONG, lambda: 0)
        self.core = WorkerCore(
            f"{queue}/0",
            1,
            board=board,
            engine=self.engine,
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

    def history(self) -> list[list[object]]:
        """The failures of dead letters."""
        views = self.engine.inner.browse(self.queue, "dead")
        return [[one.attempt, one.reason, one.delivery] for view in views for one in view.job.history]

    def wait(self, what: Callable[[], object]) -> None:
        """Raises TimeoutError."""
        if not wait_until(what, LONG, 0.005):
            raise TimeoutError

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
            "outcomes": [event.outcome for event in self.events if isinstance(event, JobFinished)],
            "attempts": [[event.attempt, event.delivery] for event in self.events if isinstance(event, JobFinished)],
            "lost attempts": [_lost(event) for event in self.events if isinstance(event, AttemptLost)],
            "dead": self.engine.inner.stats(self.queue).dead,
            "history": self.history(),
            "told": Far.told,
            "watch": {} if self.watch is None else self._watched(self.watch),
            "threads": [thread.name for thread in threading.enumerate() if thread.name == "engine"],
        }

    def _watched(self, watch: Watch) -> dict[str, Any]:
        return {"turns": watch.turns, "stood still": watch.stood_still, "most": watch.most}


def _lost(event: AttemptLost) -> list[object]:
    return [event.lease.job.id, event.run.attempt, event.lease.delivery, event.how, event.outcome, event.reason]


def taken(scenario: str, queue: str) -> dict[str, Any]:
    """The only job goes to another owner while its handler runs; that owner gives it back."""
    thread_gate.LOOK_EVERY = 0.05
    world = World(scenario, queue, 1)
    world.engine.flaws.taken = {"j0"}
    return world.run(lambda: world.left() == 0)


def elsewhere(queue: str, retries: int) -> dict[str, Any]:
    """The only job was in the hands of a machine that is gone."""
    world = World("", queue, 1, retries=retries)
    world.engine.die_elsewhere(queue)
    return world.run(lambda: world.left() == 0)


def main(scenario: str, queue: str = "", retries: str = "1") -> dict[str, Any]:
    """Plays one scenario."""
    if scenario.startswith("taken"):
        return taken(scenario, queue)
    if scenario == "elsewhere":
        return elsewhere(queue, int(retries))
    if scenario in ("together", "turning"):  # the next claim settles: no clock decides what is settled together
        world = World(scenario, "loop", CONCURRENCY, delay=LONG)
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
    print(json.dumps(main(*sys.argv[1:])))
