"""A service for `opentelemetry-instrument worker run`: handlers call a server over HTTP, as most do."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from framework import Context, Queue, RetryPolicy, Slot, WorkerApp

log = logging.getLogger("service")


class Calls(WorkerApp):
    calls = Queue[str]("calls", workers=2, retry=RetryPolicy(max_retries=1, first_delay=0, jitter=False))
    async_calls = Queue[str]("async-calls", concurrency=4)

    @contextmanager
    def lifespan(self, slot: Slot) -> Iterator[None]:
        with httpx.Client() as self.http:
            yield

    @calls.handler
    def call(self, url: str, ctx: Context) -> None:
        log.warning("calling")
        self.http.post(url, content=b"x")
        if ctx.attempt == 1 and url.endswith("fails"):
            raise OSError("not now")
        if ctx.attempt == 1 and url.endswith("dies"):
            os._exit(9)

    @async_calls.handler
    async def call_async(self, url: str) -> None:
        async with httpx.AsyncClient() as client:
            await client.post(url, content=b"x")
