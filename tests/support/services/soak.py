"""The services of the soaks: their handlers write down each run in the ledger, and many of them misbehave."""

from __future__ import annotations

import asyncio
import os
import time

from framework import Context, DeadLetter, Queue, Reject, RetryPolicy, WorkerApp
from tests.support.ledger import Noted, note_run_records
from tests.support.services.acts import Task, misbehave, misbehave_async

OFTEN = RetryPolicy(max_retries=100, first_delay=0.01, factor=1, jitter=False)
CONCURRENCY = {"sync": 1, "many": 8, "threads": 8, "dead": 1}  # of a process of each queue of Soak


class Soak(WorkerApp):
    dead = Queue[DeadLetter](
        "dead", kill_after=1, timeout=1, retry=RetryPolicy(max_retries=5, first_delay=0.05, factor=1)
    )
    sync = Queue[Task](
        "sync",
        workers=2,
        timeout=0.5,
        kill_after=0.5,
        retry=RetryPolicy(max_retries=3, first_delay=0.05, factor=2),
        dead_letter=dead,
        max_length=1500,
        max_memory="220MiB",
    )
    many = Queue[Task](
        "many",
        concurrency=8,
        timeout=1,
        kill_after=1,
        retry=RetryPolicy(max_retries=3, first_delay=0.05, factor=2),
        max_length=1500,
    )
    threads = Queue[Task](
        "threads",
        concurrency=8,
        timeout=1,
        kill_after=1,
        retry=RetryPolicy(max_retries=3, first_delay=0.05, factor=2),
        max_length=1500,
    )

    @sync.handler
    @threads.handler
    def act(self, task: Task, ctx: Context) -> None:
        with Noted(task.do, ctx) as noted:
            if task.misbehaves(ctx.attempt):
                misbehave(task, ctx, noted.beat)

    @many.handler
    async def act_async(self, task: Task, ctx: Context) -> None:
        with Noted(task.do, ctx) as noted:
            if task.misbehaves(ctx.attempt):
                await misbehave_async(task, ctx, noted.beat)

    @dead.handler
    def bury(self, letter: DeadLetter, ctx: Context) -> None:
        with Noted("letter", ctx):
            pass


class Told(WorkerApp):
    """Many quick jobs whose handlers are killed at any moment; all that can be told is compared with telemetry."""

    sync = Queue[int]("sync", workers=2, timeout=60, retry=OFTEN)
    many = Queue[int]("many", workers=1, concurrency=10, timeout=60, retry=OFTEN)
    threads = Queue[int]("threads", workers=1, concurrency=10, timeout=60, retry=OFTEN)

    @sync.handler
    @threads.handler
    def act(self, number: int, ctx: Context) -> None:
        with Noted("quick", ctx):
            time.sleep(0.0005 * (number % 4))
            if number % 10 == 9 and ctx.attempt < 3:
                raise ValueError("one in ten, twice")
            if number % 100 == 50:
                raise Reject("one in a hundred")

    @many.handler
    async def act_async(self, number: int, ctx: Context) -> None:
        with Noted("quick", ctx):
            await asyncio.sleep(0.002 * (number % 4))


if "LEDGER" in os.environ:
    note_run_records()
