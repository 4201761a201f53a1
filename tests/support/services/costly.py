"""A service whose handlers use processor time and memory, as much as the payload says."""

from __future__ import annotations

import time

from pydantic import BaseModel

from framework import Queue, RetryPolicy, WorkerApp
from tests.support.ledger import note

kept: list[bytearray] = []


class Work(BaseModel):
    seconds: float = 0.0
    mib: int = 0
    fails: bool = False


class Costly(WorkerApp):
    one = Queue[Work]("one", retry=RetryPolicy(max_retries=0))
    threads = Queue[Work]("threads", concurrency=2, retry=RetryPolicy(max_retries=0))
    loop = Queue[Work]("loop")

    @one.handler
    @threads.handler
    def work(self, work: Work) -> None:
        end = time.thread_time() + work.seconds
        while time.thread_time() < end:
            pass
        if work.mib:
            kept.append(bytearray(b"x") * (work.mib << 20))
        note("worked")
        if work.fails:
            raise ValueError("as told")

    @loop.handler
    async def work_async(self, work: Work) -> None:
        note("worked")
