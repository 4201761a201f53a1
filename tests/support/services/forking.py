"""A service that forks wherever its code is called, and whose children come back. For test_forks.py."""

from __future__ import annotations

import asyncio
import atexit
import os
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager

from framework import Context, Failure, Queue, RetryPolicy, Slot, WorkerApp
from tests.support.ledger import note


def split(where: str) -> None:
    """Forks; the child returns from here or raises."""
    if os.fork() == 0:
        note(f"child {os.getpid()} {where}")
        if os.environ["CHILDREN"] == "raise":
            raise ValueError(where)


async def split_later(where: str) -> None:
    await asyncio.sleep(0.05)
    split(where)


class Forking(WorkerApp):
    sync = Queue[str]("sync", timeout=20, retry=RetryPolicy(max_retries=0))
    many = Queue[str]("many", timeout=20, concurrency=5, retry=RetryPolicy(max_retries=0))

    def __init__(self) -> None:
        self.kept: list[object] = []
        split("constructor")

    @contextmanager
    def lifespan(self, slot: Slot) -> Generator[None, None, None]:
        split("lifespan")
        atexit.register(split, "atexit")
        yield
        split("end-of-lifespan")

    @asynccontextmanager
    async def alifespan(self, slot: Slot) -> AsyncGenerator[None, None]:
        split("alifespan")
        yield
        split("end-of-alifespan")

    def on_failure(self, failure: Failure, ctx: Context) -> None:
        split(f"on_failure-{failure.queue}-{failure.reason}")

    @sync.handler
    def work(self, key: str) -> None:
        self.act(key)
        note(f"end {key}")

    @many.handler
    async def work_async(self, key: str) -> None:
        if key == "task":
            self.kept.append(asyncio.create_task(split_later("task")))
        elif key == "awaited":
            await asyncio.gather(split_later("awaited"))
        elif key == "callback":
            asyncio.get_running_loop().call_later(0.05, split, "callback")
        elif key == "neighbour":
            note(f"start {key}")
            while not os.path.exists(os.environ["LEDGER"] + ".go"):
                await asyncio.sleep(0.01)
        self.act(key)
        note(f"end {key}")

    def act(self, key: str) -> None:
        if key == "fails":
            raise ValueError(key)
        if key == "aborts":
            os.abort()
