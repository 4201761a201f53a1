"""Litestar; the workers run elsewhere: `worker run services.web.workers`."""

from __future__ import annotations

from litestar import Litestar, post
from litestar.exceptions import NotFoundException

from framework.contrib.litestar import Jobs, JobsMiddleware, exception_handlers, lifespan, provide_jobs
from services.web.shop import Invoice, Mail, ShopQueues


@post("/orders/{order:int}/invoice", status_code=202)
async def invoice(order: int) -> dict[str, str]:
    return {"job": await ShopQueues.invoices.aenqueue(Invoice(order=order))}


@post("/orders/{order:int}", status_code=202)
async def place(order: int, jobs: Jobs) -> dict[str, int]:
    jobs.add(ShopQueues.invoices, Invoice(order=order))
    jobs.add(ShopQueues.mails, Mail(to="ada@example.com", text=f"your order {order}"))
    if order == 0:
        raise NotFoundException("no such order")
    return {"order": order}


api = Litestar(
    route_handlers=[invoice, place],
    lifespan=[lifespan(ShopQueues)],
    middleware=[JobsMiddleware],
    dependencies={"jobs": provide_jobs},
    exception_handlers=exception_handlers,
)
