"""Services whose queues share pools of each kind. For test_pools.py."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager

from framework import Context, DeadLetter, Failure, Pool, Queue, RetryPolicy, Slot, WorkerApp
from tests.support.services.torture import Task, misbehave, note

SHORT = RetryPolicy(max_retries=2, first_delay=0.05, factor=1, jitter=False)
NEVER = RetryPolicy(max_retries=0)


class Pooled(WorkerApp):
    """Three queues in one pool: `brief` has short deadlines, `long` long ones, `once` one attempt."""

    light = Pool("light", workers=1, concurrency=1)
    dead = Queue[DeadLetter]("dead", pool=light)
    brief = Queue[Task]("brief", pool=light, timeout=1, kill_after=1, retry=SHORT)
    long = Queue[Task]("long", pool=light, timeout=60, kill_after=60, retry=SHORT, weight=3)
    once = Queue[Task]("once", pool=light, timeout=60, retry=NEVER, dead_letter=dead)
    alone = Queue[Task]("alone", timeout=60)

    @contextmanager
    def lifespan(self, slot: Slot) -> Generator[None, None, None]:
        names = " ".join(queue.name for queue in slot.queues)
        note(f"slot {slot.pool.name if slot.pool else '-'} {slot.index}: {names}")
        yield

    def on_failure(self, failure: Failure, ctx: Context) -> None:
        note(f"failed {ctx.queue} {ctx.job_id} {failure.reason}")


class Sync(Pooled):
    """One job at a time, or in threads as the environment says."""

    @Pooled.brief.handler
    @Pooled.long.handler
    @Pooled.once.handler
    @Pooled.alone.handler
    def act(self, task: Task, ctx: Context) -> None:
        note(f"start {task.key} {ctx.attempt} {os.getpid()} {threading.current_thread().name}")
        if not task.until or ctx.attempt <= task.until:
            misbehave(task, ctx)
        note(f"end {task.key} {ctx.attempt} {ctx.queue}")

    @Pooled.dead.handler
    def bury(self, letter: DeadLetter) -> None:
        note(f"letter {letter.queue} {letter.job_id} {letter.reason}")


class Async(Pooled):
    """On an event loop."""

    @Pooled.brief.handler
    @Pooled.long.handler
    @Pooled.once.handler
    @Pooled.alone.handler
    async def act(self, task: Task, ctx: Context) -> None:
        note(f"start {task.key} {ctx.attempt} {os.getpid()} loop")
        if not task.until or ctx.attempt <= task.until:
            match task.do:
                case "sleep":
                    await asyncio.sleep(task.seconds or 600)
                case "block_loop":
                    time.sleep(task.seconds or 600)
                case "swallow":
                    while True:
                        try:
                            await asyncio.sleep(0.05)
                        except asyncio.CancelledError:
                            note(f"swallowed {task.key}")
                case _:
                    misbehave(task, ctx)
        note(f"end {task.key} {ctx.attempt} {ctx.queue}")

    @Pooled.dead.handler
    async def bury(self, letter: DeadLetter) -> None:
        note(f"letter {letter.queue} {letter.job_id} {letter.reason}")
