"""The service of the suite `machines`: it notes which machine ran what, and when."""

from __future__ import annotations

import os
import time

from pydantic import BaseModel

from framework import Context, Queue, RetryPolicy, WorkerApp
from tests.support.services.torture import note


class Work(BaseModel):
    key: str
    seconds: float = 0.0


class Shared(WorkerApp):
    jobs = Queue[Work](
        "jobs", workers=2, timeout=120, retry=RetryPolicy(max_retries=9, first_delay=0.05, factor=1, jitter=False)
    )

    @jobs.handler
    def work(self, work: Work, ctx: Context) -> None:
        place = f"{work.key} {ctx.attempt} {os.environ['MACHINE']}"
        note(f"start {place} {time.time()}")
        end = time.monotonic() + work.seconds
        while time.monotonic() < end:
            time.sleep(0.01)
        note(f"end {place} {time.time()}")
