"""Mistakes of a producer."""

from __future__ import annotations

from tests.typing.services.relay import Delivery, Relay
from tests.typing.services.shop.app import Shop
from tests.typing.services.shop.queues import Invoice, Mail, Refund, ShopQueues, Stock


async def mistakes() -> None:
    Relay.deliveries.enqueue(Mail(tenant="t", to="x"))  # E another queue's payload
    Relay.deliveries.enqueue({"url": "", "body": "", "secret": ""})  # E a dict for a model
    Relay.deliveries.enqueue("http://x")  # E
    Relay.deliveries.enqueue(None)  # E
    Relay.deliveries.enqueue()  # E no payload
    Relay.deliveries.enqueue(payload=Delivery(url="", body="", secret=""))  # E positional only
    await Shop.mails.aenqueue(Invoice(order=1))  # E inherited over several modules
    Shop.invoices.enqueue(Invoice(order=1), delay="5")  # E
    Shop.invoices.enqueue(Invoice(order=1), run_at=1700000000)  # E seconds are no moment
    Shop.invoices.enqueue(Invoice(order=1), job_id=7)  # E
    Shop.invoices.enqueue(Invoice(order=1), prio=3)  # E no such option
    Shop.invoices.enqueue(Invoice(order=1), priority="3")  # E
    Shop.invoices.enqueue(Invoice(order=1), retry=3)  # E a policy, not a number
    Shop.invoices.enqueue(Invoice(order=1), headers={"tenant": 7})  # E
    await Shop.invoices.aenqueue(Invoice(order=1), timeout="5")  # E
    Shop.invoices.enqueue_many([Invoice(order=1)], ttl="1h")  # E
    Shop.invoices.enqueue(Invoice(order=1), block="5")  # E
    Shop.invoices.enqueue_many([Mail(tenant="t", to="x")])  # E wrong items
    Shop.invoices.enqueue_many(Invoice(order=1))  # E one where many are wanted
    await ShopQueues.refunds.aenqueue_many([Refund(order=1, cents=2), Invoice(order=1)])  # E one wrong item
    Shop.invoices.enqueue_many([Invoice(order=1)], job_id="a")  # E many cannot share an id
    Shop.invoices.enqueue_many(jobs=[(Mail(tenant="t", to="x"), "a")])  # E wrong items
    Shop.invoices.enqueue_many(jobs=[(Invoice(order=1), 7)])  # E ids are texts
    Shop.invoices.enqueue_many(jobs=[Invoice(order=1)])  # E no pairs
    Shop.invoices.enqueue_many([Invoice(order=1)], jobs=[(Invoice(order=1), "a")])  # E one of the two
    Shop.invoices.enqueue(Invoice(order=1), on_conflict="overwrite")  # E
    Shop.invoices.enqueue_many([Invoice(order=1)], then=Shop.mails)  # E a queue is no job
    other = Shop.mails.with_payload(Invoice(order=1))  # E another's payload
    Shop.invoices.enqueue_many([Invoice(order=1)], then=other)
    then = Shop.numbers.with_payload(7)
    Shop.invoices.enqueue_many(jobs=[(Invoice(order=1), "a")], then=then)  # E no ids of your own
    Shop.invoices.enqueue_many([Invoice(order=1)]).follow_up  # E there is none
    Shop.stock.enqueue(Stock(sku="a", count=1))  # E one for a list
    Shop.stock.enqueue([{"sku": "a"}])  # E an incomplete item
    Shop.numbers.enqueue("7")  # E
    Shop.notes.enqueue(7)  # E
    Shop.nothing.enqueue(0)  # E
    number: int = Shop.numbers.enqueue(7)  # E the id is text
    ids: str = Shop.numbers.enqueue_many([number])  # E a list of ids
    print(ids)
    Shop.unknown.enqueue(1)  # E no such queue
    with ShopQueues.connect("spool:."):  # E settings, not a URL
        pass
