"""FastAPI with its workers beside it: `uvicorn services.web.on_fastapi:api` is the only command of the container."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException

from framework import Queue
from framework.contrib.fastapi import JobsMiddleware, RequestJobs, from_queue, lifespan
from services.web.shop import Invoice, Mail, ShopQueues
from services.web.workers import Shop

Invoices = Annotated[Queue[Invoice], Depends(from_queue(ShopQueues.invoices))]

api = FastAPI(lifespan=lifespan(Shop, running=True))
api.add_middleware(JobsMiddleware)


@api.post("/orders/{order}/invoice", status_code=202)
async def invoice(order: int, invoices: Invoices) -> dict[str, str]:
    """The caller gets the id of the job. A full queue, or an engine that is down, is answered by 503."""
    return {"job": await invoices.aenqueue(Invoice(order=order), job_id=f"invoice-{order}")}


@api.post("/orders/{order}", status_code=202)
async def place(order: int, jobs: RequestJobs) -> dict[str, int]:
    """Both jobs are stored before the response begins; neither, if the request fails."""
    jobs.add(ShopQueues.invoices, Invoice(order=order), job_id=f"invoice-{order}")
    jobs.add(ShopQueues.mails, Mail(to="ada@example.com", text=f"your order {order}"))
    if order == 0:
        raise HTTPException(404, "no such order")
    return {"order": order}
