"""A service whose jobs end in the ways that `observability.md` explains. `python -m docs.traces` runs it."""

from __future__ import annotations

import os
import signal
import time

from opentelemetry import trace

from framework import Context, DeadLetter, Queue, RetryPolicy, WorkerApp

tracer = trace.get_tracer("docs.story")


class Story(WorkerApp):
    """What becomes of a job is its payload: `retried`, `killed` or `dead`."""

    alerts = Queue[DeadLetter]("alerts")
    deliveries = Queue[str](
        "deliveries",
        workers=3,
        timeout=30,
        retry=RetryPolicy(max_retries=2, first_delay=0.4, jitter=False),
        dead_letter=alerts,
    )

    @deliveries.handler
    def deliver(self, fate: str, ctx: Context) -> None:
        with tracer.start_as_current_span("POST /hooks", kind=trace.SpanKind.CLIENT):
            time.sleep(0.15)
        if fate == "dead" or (fate == "retried" and ctx.attempt < 3):
            raise ConnectionError("the receiver answered 503")
        if fate == "killed" and ctx.attempt == 1:
            time.sleep(1.2)  # long enough for the SDK to have sent the call above
            os.kill(os.getpid(), signal.SIGKILL)

    @alerts.handler
    def tell(self, letter: DeadLetter, ctx: Context) -> None:
        with tracer.start_as_current_span("tell a person"):
            time.sleep(0.05)
