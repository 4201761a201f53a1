"""Mistakes of a handler."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager

from pydantic import BaseModel

from framework import Context, DeadLetter, Discard, Item, Queue, Reject, RetryLater, Running, Slot, Snooze, WorkerApp
from tests.typing.services.shop.queues import Invoice, Mail
from tests.typing.services.shop.resources import Resources


class Delivery(BaseModel):
    url: str


class Service(WorkerApp):
    deliveries = Queue[Delivery]("deliveries")
    dead = Queue[DeadLetter]("dead")

    @deliveries.handler  # E another payload
    def other(self, delivery: Mail, ctx: Context) -> None: ...

    @deliveries.handler  # E async, another payload
    async def async_other(self, delivery: Mail) -> None: ...

    @deliveries.handler  # E ctx of a wrong type
    def slot(self, delivery: Delivery, ctx: Slot) -> None: ...

    @deliveries.handler  # E the two are swapped
    def swapped(self, ctx: Context, delivery: Delivery) -> None: ...

    @deliveries.handler  # E a result has nowhere to go
    def result(self, delivery: Delivery) -> str:
        return delivery.url

    @deliveries.handler  # E
    async def async_result(self, delivery: Delivery) -> str:
        return delivery.url

    @deliveries.handler  # E no payload
    def nothing(self) -> None: ...

    @deliveries.handler  # E one argument too many
    def many(self, delivery: Delivery, ctx: Context, more: int) -> None: ...

    @deliveries.handler()  # E not a factory
    def called(self, delivery: Delivery) -> None: ...

    @dead.handler  # E letters are what a dead-letter queue carries
    def letters(self, letter: Delivery) -> None: ...

    @deliveries.batch_handler(size=5)  # E items, not a list of payloads
    def payloads(self, items: Sequence[Delivery]) -> None: ...

    @deliveries.batch_handler()  # E another payload
    def others(self, items: Sequence[Item[Mail]]) -> None: ...

    @deliveries.batch_handler(5)  # E named
    def unnamed(self, items: Sequence[Item[Delivery]]) -> None: ...

    @deliveries.batch_handler()
    def bulk(self, items: Sequence[Item[Delivery]]) -> None:
        items[0].payload.uri  # E no such field
        items[0].reject()  # E a reason is needed


class Billing(Resources):
    @Resources.invoices.handler  # E inherited queue, another payload
    async def invoice(self, invoice: Mail, ctx: Context) -> None: ...

    @Resources.mails.handler
    def untyped(self, mail, ctx: Context) -> None: ...  # E no annotation

    @Resources.thumbs.handler
    def bare(self, thumb, ctx): ...  # E missing ctx type

    async def body(self, invoice: Invoice, ctx: Context) -> None:
        self.db.cursor()  # E no such method
        ctx.attempt = 3  # E frozen
        ctx.deadline  # E no such attribute
        ctx.log.info()  # E an event is needed
        ctx.remaining + 1  # E perhaps None
        ctx.should_stop()  # E a property
        ctx.saved = 1  # E by save()
        ctx.progress("half")  # E a number
        ctx.progress(1, 2, 3)  # E a text
        raise Reject()  # E a reason is needed


class Around(WorkerApp):
    def around(self, job: Running) -> None: ...  # E no context manager

    @contextmanager
    def aaround(self, job: Running) -> Generator[None, None, None]:  # E of an async hook
        job.job_id = "other"  # E frozen
        yield


def ends() -> None:
    Discard()  # E a reason is needed
    Snooze(5)  # E named
    RetryLater("busy", 5)  # E named
    RetryLater(delay="5")  # E
