"""The contract: all that a web application imports of the shop."""

from __future__ import annotations

from pydantic import BaseModel

from framework import Queue, WorkerApp


class Invoice(BaseModel):
    order: int


class Mail(BaseModel):
    to: str
    text: str


class ShopQueues(WorkerApp):
    invoices = Queue[Invoice]("shop.invoices", timeout=20)
    mails = Queue[Mail]("shop.mails", concurrency=10, timeout=20)
