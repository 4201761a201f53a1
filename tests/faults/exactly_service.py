"""The service of the suite `exactly_once`: each handler leaves an effect in the database, and a successor once."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager

import psycopg
from pydantic import BaseModel

from framework import Context, Queue, RetryPolicy, Slot, WorkerApp

EFFECT = "insert into effect values (%s, %s)"
# A kill is charged to its job, and no job may run out of attempts.
RETRY = RetryPolicy(max_retries=1000, first_delay=0.01, factor=1, jitter=False)


class Step(BaseModel):
    key: str
    last: bool = False


class Once(WorkerApp):
    once = Queue[Step]("once", workers=2, retry=RETRY)
    aonce = Queue[Step]("aonce", workers=1, concurrency=8, retry=RETRY)
    own = Queue[Step]("own", workers=1, retry=RETRY)
    control = Queue[Step]("control", workers=2, retry=RETRY)

    @contextmanager
    def lifespan(self, slot: Slot) -> Generator[None, None, None]:
        with psycopg.connect(os.environ["DATABASE"], autocommit=True) as self.connection:
            yield

    @once.handler
    def in_a_block(self, step: Step, ctx: Context) -> None:
        with ctx.transaction() as connection:
            connection.execute(EFFECT, (step.key, "once"))
            if not step.last:
                Once.once.enqueue(Step(key=f"{step.key}/next", last=True), connection=connection)

    @aonce.handler
    async def on_a_loop(self, step: Step, ctx: Context) -> None:
        async with ctx.transaction() as connection:
            await connection.execute(EFFECT, (step.key, "aonce"))
            if not step.last:
                await Once.aonce.aenqueue(Step(key=f"{step.key}/next", last=True), connection=connection)

    @own.handler
    def in_its_own_transaction(self, step: Step, ctx: Context) -> None:
        with self.connection.transaction():
            self.connection.execute(EFFECT, (step.key, "own"))
            if not step.last:
                Once.own.enqueue_many([Step(key=f"{step.key}/next", last=True)], connection=self.connection)
            ctx.complete(self.connection)

    @control.handler
    def effect_then_ack(self, step: Step, ctx: Context) -> None:
        self.connection.execute(EFFECT, (step.key, "control"))
