"""Three: a mixin with handlers."""

from __future__ import annotations

from framework import Context
from tests.typing.services.shop.queues import Invoice, Mail, Refund
from tests.typing.services.shop.resources import Resources


class Billing(Resources):
    @Resources.invoices.handler
    async def invoice(self, invoice: Invoice, ctx: Context) -> None:
        await self.http.get("https://bank.invalid")
        with self.db.connection():
            ctx.log.info("invoiced", order=invoice.order)
        await self.mails.aenqueue(Mail(tenant="t", to=f"buyer-{invoice.order}"))

    @Resources.refunds.handler
    def refund(self, refund: Refund) -> None:
        with self.db.connection():
            self.notes.enqueue(f"refunded {refund.cents} cents")
