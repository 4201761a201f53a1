"""Forty small queues in one pool. For `bench/pools.py`."""

from __future__ import annotations

import os
from typing import Any

from framework import Pool, Queue, WorkerApp

QUEUES = int(os.environ.get("QUEUES", "40"))
light = Pool("light", workers=int(os.environ.get("POOL_WORKERS", "2")), concurrency=20)
queues: list[Queue[Any]] = [Queue[int](f"small-{number:02}", pool=light) for number in range(QUEUES)]


async def handle(self: WorkerApp, number: int) -> None:
    """Do nothing."""


for queue in queues:
    handle = queue.handler(handle)

Forty = type("Forty", (WorkerApp,), {"light": light, **{f"q{n}": q for n, q in enumerate(queues)}, "handle": handle})
