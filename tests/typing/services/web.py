"""FastAPI in another container: it imports the contract only."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

from fastapi import FastAPI, HTTPException

from framework import EnqueueError, EnqueueUncertain, QueueFull
from tests.typing.services.shop.queues import Invoice, Mail, ShopQueues


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncGenerator[None, None]:
    with ShopQueues.connect():
        yield


api = FastAPI(lifespan=lifespan)


@api.post("/orders/{order}/invoice", status_code=202)
async def invoice(order: int) -> dict[str, str]:
    try:
        job_id = await ShopQueues.invoices.aenqueue(
            Invoice(order=order), job_id=f"invoice-{order}", priority=1, timeout=5
        )
    except QueueFull as full:
        raise HTTPException(503, "busy", headers={"Retry-After": f"{full.retry_after:.0f}"}) from full
    except EnqueueUncertain as unknown:
        job_id = unknown.job_id
    return {"job": job_id}


@api.delete("/jobs/{job}")
async def cancel(job: str) -> dict[str, bool]:
    answer = await ShopQueues.invoices.acancel(job)
    return {"stopped": answer == "cancelled" or ShopQueues.invoices.cancel(job) == "stopping"}


@api.post("/news", status_code=202)
def news(tenant: str, addresses: list[str]) -> dict[str, list[str]]:
    try:
        ids = ShopQueues.mails.enqueue_many(
            (Mail(tenant=tenant, to=to) for to in addresses), delay=timedelta(minutes=1), block=0.5
        )
    except EnqueueError as error:
        ids = list(error.enqueued)
    ShopQueues.numbers.enqueue(len(ids), run_at=datetime.now(UTC) + timedelta(hours=1))
    return {"jobs": ids}
