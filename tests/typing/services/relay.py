"""A webhook relay: async, a client opened in `alifespan`, a dead-letter queue with a handler."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import httpx
from pydantic import BaseModel

from framework import Context, DeadLetter, Queue, Reject, RetryLater, RetryPolicy, Slo, Slot, WorkerApp


class Delivery(BaseModel):
    url: str
    body: str
    secret: str


class Relay(WorkerApp):
    http: httpx.AsyncClient

    dead_letters = Queue[DeadLetter]("dead-letters")
    deliveries = Queue[Delivery](
        "deliveries",
        workers=2,
        concurrency=20,
        timeout=10,
        retry=RetryPolicy(max_retries=8),
        dead_letter=dead_letters,
        slo=Slo(wait=2.5, target=0.99),
    )

    @asynccontextmanager
    async def alifespan(self, slot: Slot) -> AsyncGenerator[None, None]:
        async with super().alifespan(slot), httpx.AsyncClient() as self.http:
            yield

    @deliveries.handler
    async def deliver(self, delivery: Delivery, ctx: Context) -> None:
        signature = hmac.new(delivery.secret.encode(), delivery.body.encode(), hashlib.sha256).hexdigest()
        headers = {"X-Signature": signature, "X-Id": ctx.job_id}
        answer = await self.http.post(delivery.url, content=delivery.body, headers=headers)
        if answer.status_code == 429:
            raise RetryLater("busy", delay=float(answer.headers.get("retry-after", "30")))
        if 400 <= answer.status_code < 500:
            raise Reject(f"subscriber answered {answer.status_code}")
        answer.raise_for_status()

    @dead_letters.handler
    def report(self, letter: DeadLetter, ctx: Context) -> None:
        last = letter.attempts[-1] if letter.attempts else None
        ctx.log.bind(queue=letter.queue).error("gave up", reason=letter.reason, error=last.message if last else "")
