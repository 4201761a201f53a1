"""A service with schedules, whose handler writes down each tick."""

from __future__ import annotations

from framework import Context, Cron, Every, Queue, WorkerApp
from tests.support.services.torture import note


class Scheduled(WorkerApp):
    """Two schedules of a second or less are as much as a test can wait for."""

    ticks = Queue[str](
        "ticks",
        schedules=[
            Every(1, "second", missed="all"),
            Every(1.5, "more", missed="all"),
            Cron("0 0 1 1 *", "yearly", key="new year"),
        ],
    )

    @ticks.handler
    def tick(self, which: str, ctx: Context) -> None:
        assert ctx.scheduled_for is not None
        note(f"{which} {ctx.scheduled_for.timestamp():.3f} {ctx.attempt}")
