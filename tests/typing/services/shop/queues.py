"""A large service, one: the contract. Queues and payloads; another container imports only this."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import BaseModel
from typing_extensions import TypedDict

from framework import DeadLetter, Queue, WorkerApp


class Invoice(BaseModel):
    order: int


class Thumb(BaseModel):
    key: str


class Mail(BaseModel):
    tenant: str
    to: str


@dataclass
class Refund:
    order: int
    cents: int


class Stock(TypedDict):
    sku: str
    count: int


class ShopQueues(WorkerApp):
    dead = Queue[DeadLetter]("dead")
    invoices = Queue[Invoice]("invoices", concurrency=20, dead_letter=dead)
    thumbs = Queue[Thumb]("thumbs", workers=4, dead_letter=dead)
    mails = Queue[Mail]("mails", concurrency=5, dead_letter=dead)
    refunds = Queue[Refund]("refunds")
    stock = Queue[list[Stock]]("stock")
    numbers = Queue[int]("numbers")
    notes = Queue[str | None]("notes")
    nothing = Queue[None]("nothing")
