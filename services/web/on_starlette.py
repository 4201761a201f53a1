"""Starlette; the workers run elsewhere: `worker run services.web.workers`."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from framework.contrib.asgi import JobsMiddleware, jobs_of, lifespan
from services.web.shop import Invoice, Mail, ShopQueues


async def invoice(request: Request) -> JSONResponse:
    number = request.path_params["order"]
    return JSONResponse({"job": await ShopQueues.invoices.aenqueue(Invoice(order=number))}, 202)


async def place(request: Request) -> JSONResponse:
    number, jobs = request.path_params["order"], jobs_of(request)
    jobs.add(ShopQueues.invoices, Invoice(order=number))
    jobs.add(ShopQueues.mails, Mail(to="ada@example.com", text=f"your order {number}"))
    return JSONResponse({"order": number}, 202 if number else 404)


api = Starlette(
    routes=[
        Route("/orders/{order:int}/invoice", invoice, methods=["POST"]),
        Route("/orders/{order:int}", place, methods=["POST"]),
    ],
    lifespan=lifespan(ShopQueues),
    middleware=[Middleware(JobsMiddleware, status=429, retry_after=7)],
)
