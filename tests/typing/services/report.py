"""A nightly report: schedules, and a fan-out that hands its job back when the worker drains."""

from __future__ import annotations

from datetime import date, timedelta

from pydantic import BaseModel

from framework import Context, Cron, Every, Failure, Queue, Snooze, WorkerApp


class Nightly(BaseModel):
    kind: str
    day: date | None = None


class Page(BaseModel):
    day: date
    customer: int


class Reports(WorkerApp):
    customers = 50

    nightly = Queue[Nightly](
        "nightly",
        timeout=timedelta(hours=2),
        ttl=timedelta(days=1),
        schedules=[
            Cron("0 2 * * *", Nightly(kind="daily"), timezone="Europe/Berlin"),
            Every(timedelta(hours=6), Nightly(kind="interim")),
        ],
    )
    pages = Queue[Page]("pages", workers=4, timeout=120)

    async def on_failure(self, failure: Failure, ctx: Context) -> None:
        ctx.log.warning("failed", reason=failure.reason)

    @nightly.handler
    def fan_out(self, run: Nightly, ctx: Context) -> None:
        day = run.day or (ctx.scheduled_for or ctx.enqueued_at).date() - timedelta(days=1)
        for customer in range(self.customers):
            if ctx.should_stop:
                raise Snooze
            self.pages.enqueue(Page(day=day, customer=customer), job_id=f"page-{day}-{customer}")

    @pages.handler
    def page(self, page: Page) -> None:
        """The context is left out."""
