"""A service with hooks around its runs, whose handlers save and report. For test_handling.py."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Literal

from pydantic import BaseModel

from framework import Context, Item, Queue, RetryPolicy, Running, WorkerApp
from tests.support.ledger import note

SHORT = RetryPolicy(max_retries=2, first_delay=0.05, factor=1, jitter=False)
Act = Literal["ok", "wait", "late enter", "late exit", "die", "report", "reject", "raise"]


class Task(BaseModel):
    do: Act
    key: str = ""


class Handling(WorkerApp):
    """The same handler in the main thread, in threads, and on an event loop."""

    plain = Queue[Task]("plain", timeout=1, kill_after=4, retry=SHORT)
    threads = Queue[Task]("threads", concurrency=3, timeout=1, kill_after=4, retry=SHORT)
    later = Queue[Task]("later", concurrency=3, timeout=1, kill_after=4, retry=SHORT)

    @contextmanager
    def around(self, job: Running) -> Generator[None, None, None]:
        with super().around(job):
            if isinstance(job.payload, tuple):  # a batch
                yield
                return
            key = f"{job.queue} {job.payload.key} {job.attempt}"
            note(f"enter {key}")
            if job.payload.do == "late enter" and job.attempt == 1:
                pass_time(1.3)
            how = "ok"
            try:
                yield
            except BaseException as error:
                how = f"{type(error).__name__}({error})"
                raise
            finally:
                if job.payload.do == "late exit" and job.queue != "later":
                    pass_time(1.3)
                note(f"exit {key} {how}")

    @asynccontextmanager
    async def aaround(self, job: Running) -> AsyncGenerator[None, None]:
        async with super().aaround(job):
            if isinstance(job.payload, tuple):
                yield
                return
            note(f"aenter {job.payload.key} {job.attempt}")
            try:
                yield
            finally:
                await asyncio.sleep(0)
                note(f"aexit {job.payload.key} {job.attempt}")

    @plain.handler
    @threads.handler
    def act(self, task: Task, ctx: Context) -> None:
        self.begin(task, ctx)
        if task.do == "die" and ctx.attempt < 3:
            ctx.save(next_of(ctx.saved))
            os.kill(os.getpid(), signal.SIGKILL)
        while waits(task, ctx):
            time.sleep(0.01)

    @later.handler
    async def act_later(self, task: Task, ctx: Context) -> None:
        self.begin(task, ctx)
        if task.do == "die" and ctx.attempt < 3:
            await ctx.asave(next_of(ctx.saved))
            os.kill(os.getpid(), signal.SIGKILL)
        while waits(task, ctx):
            await asyncio.sleep(0.01)

    bulk = Queue[Task]("bulk", timeout=1, kill_after=4, retry=SHORT)
    abulk = Queue[Task]("abulk", timeout=1, kill_after=4, retry=SHORT)

    @bulk.batch_handler(size=10, wait=0.2)
    def act_all(self, items: Sequence[Item[Task]]) -> None:
        self.begin_all(items)
        while any(waits(item.payload, item.ctx) for item in items):
            time.sleep(0.01)

    @abulk.batch_handler(size=10, wait=0.2)
    async def act_all_later(self, items: Sequence[Item[Task]]) -> None:
        self.begin_all(items)
        while any(waits(item.payload, item.ctx) for item in items):
            await asyncio.sleep(0.01)

    def begin_all(self, items: Sequence[Item[Task]]) -> None:
        keys = sorted(f"{item.payload.key}.{item.ctx.attempt}" for item in items)
        note(f"batch {items[0].ctx.queue} {' '.join(keys)}")
        for item in items:
            item.ctx.log.info("in a batch")
            if item.payload.do == "reject":
                item.reject("not this one")
        if any(item.payload.do == "die" and item.ctx.attempt == 1 for item in items):
            os.kill(os.getpid(), signal.SIGKILL)
        if any(item.payload.do == "raise" and item.ctx.attempt == 1 for item in items):
            raise ValueError("all of them")

    def begin(self, task: Task, ctx: Context) -> None:
        note(f"run {ctx.queue} {task.key} {ctx.attempt} {ctx.saved}")
        if task.do == "report":
            ctx.progress(3, 10, "three\tof ten")


def waits(task: Task, ctx: Context) -> bool:
    if task.do == "report":
        return not os.path.exists(os.environ["LEDGER"] + ".go")
    return (task.do == "wait" and ctx.attempt == 1) or (task.do == "late enter" and ctx.attempt == 1)


def next_of(saved: Any) -> dict[str, int]:
    return {"at": (saved or {"at": 0})["at"] + 1}


def pass_time(seconds: float) -> None:
    """Take so long, in many lines of Python."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.01)
