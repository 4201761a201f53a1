"""Mistakes of a test."""

from __future__ import annotations

from framework.testing import context, harness
from tests.typing.services.relay import Delivery, Relay
from tests.typing.services.shop.app import Shop
from tests.typing.services.shop.queues import Invoice, Mail


class NoApp:
    pass


async def mistakes() -> None:
    with harness(NoApp):  # E no WorkerApp
        pass
    with harness():  # E which app?
        pass
    with harness("services.shop.app"):  # E the class, not its name
        pass
    with harness(Shop) as t:
        mails: list[Invoice] = t.enqueued(Shop.mails)  # E another type
        print(mails)
        t.enqueued("mails")  # E a queue, not its name
        t.drain("invoices")  # E
        t.drain([Shop.invoices])  # E not a list
        runs: str = t.drain(Shop.invoices)  # E a count
        print(runs)
        t.adrain(Shop.invoices) + 1  # E not awaited
        for mail in t.dead(Shop.mails):
            print(mail.tenant)  # E a letter, not a mail
        t.app.nothing_like_this()  # E
        t.jobs  # E
    async with harness(Shop):  # E not an async context manager
        pass
    app = Relay()
    await app.deliver(Mail(tenant="t", to="x"), context())  # E another payload
    await app.deliver(Delivery(url="", body="", secret=""))  # E the context is missing
    await app.deliver(Delivery(url="", body="", secret=""), None)  # E
    context(attempts=3)  # E no such option
    context(3)  # E named
