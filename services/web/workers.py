"""The handlers, which only the workers load."""

from __future__ import annotations

from framework import Context
from services.web.shop import Invoice, Mail, ShopQueues


class Shop(ShopQueues):
    @ShopQueues.invoices.handler
    def print_invoice(self, invoice: Invoice, ctx: Context) -> None:
        ctx.log.info("invoice_printed", order=invoice.order)

    @ShopQueues.mails.handler
    async def send_mail(self, mail: Mail, ctx: Context) -> None:
        ctx.log.info("mail_sent", to=mail.to)
