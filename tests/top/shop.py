"""A service whose jobs end when the test says so, and whose texts are hostile."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from framework import Context, DeadLetter, Queue, RetryPolicy, WorkerApp
from tests.support.ledger import note

NEVER = RetryPolicy(max_retries=0)
HOSTILE = "[red]refused[/red] \x1b]0;owned\x07\u202e夜"


def mended() -> bool:
    """Whether the test has said that the cause is mended."""
    return Path(f"{os.environ['LEDGER']}.mended").exists()


class Shop(WorkerApp):
    dead = Queue[DeadLetter]("dead")
    orders = Queue[str]("orders", retry=NEVER, dead_letter=dead)
    reports = Queue[str]("reports", concurrency=4, timeout=600, kill_after=1, retry=NEVER)

    @orders.handler
    def order(self, key: str) -> None:
        if not mended():
            raise ValueError(HOSTILE)
        note(f"end {key}")

    @reports.handler
    async def report(self, key: str, ctx: Context) -> None:
        note(f"start {key}")
        ctx.progress(3, 10, HOSTILE)
        try:
            while not mended():
                await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            note(f"stopped {key}")
            raise
        note(f"end {key}")
