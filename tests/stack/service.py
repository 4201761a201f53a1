"""The example relay with a ledger: each handler writes down in which span it runs, and how it left."""

from __future__ import annotations

import json
import os
from collections.abc import Generator
from contextlib import contextmanager

from opentelemetry import trace

from framework import Context, DeadLetter
from services.example_worker.queues import Delivery, Digest
from services.example_worker.relay import WebhookRelay


@contextmanager
def noted(queue: str, ctx: Context) -> Generator[None, None, None]:
    """A line when the handler starts and one when it ends, however it ends; only a kill leaves the first one alone."""
    span = trace.get_current_span().get_span_context()
    known = {
        "queue": queue,
        "job": ctx.job_id,
        "attempt": ctx.attempt,
        "trace": f"{span.trace_id:032x}",
        "span": f"{span.span_id:016x}",
        "pid": os.getpid(),
    }
    _write({"what": "start"} | known)
    try:
        yield
    finally:
        _write({"what": "end"} | known)


def _write(entry: dict[str, object]) -> None:
    """By one append, which is atomic among processes."""
    ledger = os.open(os.environ["LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(ledger, (json.dumps(entry) + "\n").encode())
    os.close(ledger)


class NotedRelay(WebhookRelay):
    """The same queues, handlers and resources."""

    async def deliver(self, delivery: Delivery, ctx: Context) -> None:
        with noted("deliveries", ctx):
            await super().deliver(delivery, ctx)

    def summarise_batch(self, digest: Digest, ctx: Context) -> None:
        with noted("digests", ctx):
            super().summarise_batch(digest, ctx)

    def report(self, letter: DeadLetter, ctx: Context) -> None:
        with noted("dead-letters", ctx):
            super().report(letter, ctx)
