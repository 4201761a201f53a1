"""Services whose queues share pools of each kind. For test_pools.py."""

from __future__ import annotations

import os
import threading
from collections.abc import Generator
from contextlib import contextmanager

from framework import Context, DeadLetter, Failure, Pool, Queue, RetryPolicy, Slot, WorkerApp
from tests.support.ledger import note
from tests.support.services.acts import Task, misbehave, misbehave_async

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
        if task.misbehaves(ctx.attempt):
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
        if task.misbehaves(ctx.attempt):
            await misbehave_async(task, ctx)
        note(f"end {task.key} {ctx.attempt} {ctx.queue}")

    @Pooled.dead.handler
    async def bury(self, letter: DeadLetter) -> None:
        note(f"letter {letter.queue} {letter.job_id} {letter.reason}")
