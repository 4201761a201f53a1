"""Four: another mixin with handlers."""

from __future__ import annotations

from framework import Context
from tests.typing.services.shop.queues import Mail, ShopQueues, Stock, Thumb
from tests.typing.services.shop.resources import Resources


class Media(Resources):
    @ShopQueues.thumbs.handler
    def thumb(self, thumb: Thumb, ctx: Context) -> None:
        ctx.log.debug("thumb", key=thumb.key)

    @ShopQueues.mails.handler
    async def mail(self, mail: Mail) -> None: ...

    @ShopQueues.stock.handler
    def count(self, stock: list[Stock]) -> None:
        self.numbers.enqueue(sum(item["count"] for item in stock))

    @ShopQueues.notes.handler
    def note(self, note: str | None, ctx: Context) -> None: ...

    @ShopQueues.nothing.handler
    def nothing_at_all(self, _: None, ctx: Context) -> None: ...
