"""The example relay with a ledger: each handler writes down in which span it runs, and how it left."""

from __future__ import annotations

from framework import Context, DeadLetter
from services.example_worker.queues import Delivery, Digest
from services.example_worker.relay import WebhookRelay
from tests.support.ledger import Noted


class NotedRelay(WebhookRelay):
    """The same queues, handlers and resources."""

    async def deliver(self, delivery: Delivery, ctx: Context) -> None:
        with Noted("deliver", ctx):
            await super().deliver(delivery, ctx)

    def summarise_batch(self, digest: Digest, ctx: Context) -> None:
        with Noted("summarise", ctx):
            super().summarise_batch(digest, ctx)

    def report(self, letter: DeadLetter, ctx: Context) -> None:
        with Noted("report", ctx):
            super().report(letter, ctx)
