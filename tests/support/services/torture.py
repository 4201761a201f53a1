"""The usual service of tests: its handlers do what the payload says, and note `start KEY ATTEMPT PID` and `end`."""

from __future__ import annotations

import os

from framework import Context, DeadLetter, Queue, RetryPolicy, WorkerApp
from tests.support.ledger import note
from tests.support.services.acts import Task, misbehave, misbehave_async


class Torture(WorkerApp):
    dead = Queue[DeadLetter]("dead")
    sync = Queue[Task](
        "sync",
        workers=2,
        timeout=1,
        kill_after=1,
        retry=RetryPolicy(max_retries=2, first_delay=0.05, factor=1, jitter=False),
        dead_letter=dead,
    )
    many = Queue[Task](
        "many",
        workers=1,
        concurrency=20,
        timeout=2,
        kill_after=1,
        retry=RetryPolicy(max_retries=2, first_delay=0.05, factor=1, jitter=False),
    )

    @sync.handler
    def act(self, task: Task, ctx: Context) -> None:
        note(f"start {task.key} {ctx.attempt} {os.getpid()}")
        if task.misbehaves(ctx.attempt):
            misbehave(task, ctx)
        note(f"end {task.key} {ctx.attempt}")

    @many.handler
    async def act_async(self, task: Task, ctx: Context) -> None:
        note(f"start {task.key} {ctx.attempt} {os.getpid()}")
        if task.misbehaves(ctx.attempt):
            await misbehave_async(task, ctx)
        note(f"end {task.key} {ctx.attempt}")
