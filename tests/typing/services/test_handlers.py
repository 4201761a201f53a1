"""How users test a service: handlers as plain methods, and jobs through the harness. Run, and type-checked."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import assert_type

import httpx
import pytest

from framework import DeadLetter, JobId, Queue, Reject, Snooze
from framework.testing import context, harness
from tests.typing.services.mailer import Letter, Mailer
from tests.typing.services.relay import Delivery, Relay
from tests.typing.services.report import Nightly, Page, Reports
from tests.typing.services.shop.app import Shop
from tests.typing.services.shop.queues import Invoice, Mail, Refund, ShopQueues, Stock
from tests.typing.services.thumbs import Image, Shrinker, Thumbnails


async def test_async_handler_as_a_method() -> None:
    app = Relay()
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200)

    app.http = httpx.AsyncClient(transport=httpx.MockTransport(answer))
    await app.deliver(Delivery(url="http://subscriber.invalid", body="b", secret="s"), context(attempt=3))
    assert seen[0].headers["x-id"] == context().job_id


def test_sync_handler_as_a_method(tmp_path: Path) -> None:
    app = Thumbnails()
    app.shrinker = Shrinker()
    (tmp_path / "a").write_bytes(bytes(1000))
    app.resize(Image(source=tmp_path / "a", target=tmp_path / "b"), context(timeout=5))
    assert (tmp_path / "b").stat().st_size == 256
    with pytest.raises(Reject):
        app.resize(Image(source=tmp_path / "c", target=tmp_path / "b"), context())


def test_a_draining_worker_gets_its_job_back() -> None:
    with harness(Reports) as t, pytest.raises(Snooze):
        t.app.fan_out(Nightly(kind="daily"), context(stopping=True))


def test_fan_out_does_not_double() -> None:
    with harness(Reports()) as t:
        t.app.customers = 3
        for _ in range(2):
            Reports.nightly.enqueue(Nightly(kind="daily"))
        assert t.drain(Reports.nightly) == 2
        pages = t.enqueued(Reports.pages)
        assert_type(pages, list[Page])
        assert [page.customer for page in pages] == [0, 1, 2]


def test_harness_runs_handlers_of_every_mixin() -> None:
    with harness(Shop) as t:
        assert_type(t.app, Shop)
        assert t.app.db.opened
        job_id = Shop.invoices.enqueue(Invoice(order=1))
        assert_type(job_id, JobId)
        assert_type(job_id.duplicate, bool)
        assert t.drain(Shop.invoices) == 1
        mails = t.enqueued(Shop.mails)
        assert_type(mails, list[Mail])
        assert mails == t.enqueued(ShopQueues.mails) == [Mail(tenant="t", to="buyer-1")]
        assert_type(t.dead(Shop.invoices), list[DeadLetter])
        Shop.refunds.enqueue(Refund(order=1, cents=5))
        Shop.stock.enqueue([Stock(sku="a", count=2), Stock(sku="b", count=3)])
        Shop.nothing.enqueue(None)
        assert t.drain(Shop.refunds, Shop.stock, Shop.nothing) == 3
        assert (t.enqueued(Shop.notes), t.enqueued(Shop.numbers)) == (["refunded 5 cents"], [5])
        assert t.failures == []


async def test_harness_in_a_loop() -> None:
    with harness(Shop) as t:
        await Shop.mails.aenqueue_many([Mail(tenant="t", to="a"), Mail(tenant="t", to="b")])
        assert await t.adrain() == 2


def test_discard() -> None:
    Mailer.gone.add("nobody")
    with harness(Mailer) as t:
        Mailer.letters.enqueue(Letter(tenant="t", to="nobody", body=""))
        assert t.drain() == 1
        assert (t.enqueued(Mailer.letters), t.dead(Mailer.letters)) == ([], [])


assert_type(Relay.deliveries, Queue[Delivery])
assert_type(Relay().dead_letters, Queue[DeadLetter])
assert_type(context().scheduled_for, datetime | None)
