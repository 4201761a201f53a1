"""A service whose handlers write down the span in which they run: the ledger of telemetry_kills."""

from __future__ import annotations

import asyncio
import os
import time

from opentelemetry import trace

from framework import Context, Queue, Reject, RetryPolicy, WorkerApp

_RETRY = RetryPolicy(max_retries=100, first_delay=0.01, factor=1, jitter=False)


def note(what: str, number: int) -> None:
    """One line, by one atomic append."""
    span_id = trace.get_current_span().get_span_context().span_id
    ledger = os.open(os.environ["LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(ledger, f"{what} {number} {span_id:016x}\n".encode())
    os.close(ledger)


class Told(WorkerApp):
    sync = Queue[int]("sync", workers=2, timeout=60, retry=_RETRY)
    many = Queue[int]("many", workers=1, concurrency=10, timeout=60, retry=_RETRY)
    threads = Queue[int]("threads", workers=1, concurrency=10, timeout=60, retry=_RETRY)

    @sync.handler
    @threads.handler
    def act(self, number: int, ctx: Context) -> None:
        note("start", number)
        time.sleep(0.0005 * (number % 4))
        if number % 10 == 9 and ctx.attempt < 3:
            raise ValueError("one in ten, twice")
        if number % 100 == 50:
            raise Reject("one in a hundred")
        note("end", number)

    @many.handler
    async def act_async(self, number: int) -> None:
        note("start", number)
        await asyncio.sleep(0.002 * (number % 4))
        note("end", number)
