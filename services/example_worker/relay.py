"""The relay: handlers, and the HTTP client that they share."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime

import httpx
from opentelemetry import propagate, trace
from opentelemetry.trace import SpanKind, Status, StatusCode

from framework import Context, DeadLetter, Reject, RetryLater, Slot
from services.example_worker.digest import BadBatch, summarise, unpack
from services.example_worker.queues import Delivery, Digest, RelayQueues
from services.example_worker.retry_after import parse_http_date, parse_retry_after
from services.example_worker.settings import RelaySettings, Subscriber
from services.example_worker.signing import HEADER, sign

MAX_ANSWER = 64 * 1024  # bytes of a subscriber's answer that are read so that its connection can be used again
tracer = trace.get_tracer(__name__)


class SubscriberFailed(Exception):
    """The subscriber's fault and perhaps a passing one: retried by the queue's policy."""


class WebhookRelay(RelayQueues):
    """Posts each delivery to its subscriber until it is taken, refused for good, or out of attempts."""

    settings: RelaySettings
    http: httpx.AsyncClient

    @contextmanager
    def lifespan(self, slot: Slot) -> Generator[None, None, None]:
        self.settings = RelaySettings()
        # At level info httpx logs every URL, and a webhook's URL often is a secret.
        logging.getLogger("httpx").setLevel(logging.WARNING)
        with super().lifespan(slot):
            yield

    @asynccontextmanager
    async def alifespan(self, slot: Slot) -> AsyncGenerator[None, None]:
        client = httpx.AsyncClient(timeout=self.settings.timeout, headers={"User-Agent": "example-webhook-relay"})
        async with super().alifespan(slot), client as self.http:
            yield

    @RelayQueues.deliveries.handler
    async def deliver(self, delivery: Delivery, ctx: Context) -> None:
        """Connection errors and timeouts of httpx are left to the retry policy: their names are good error types."""
        subscriber = self.settings.subscribers.get(delivery.subscriber)
        if subscriber is None:
            name = delivery.subscriber.upper()
            raise Reject(
                f"no subscriber {delivery.subscriber!r}: set RELAY_SUBSCRIBERS__{name}__URL and __SECRET, replay"
            )
        judge(await self.post(subscriber, delivery, ctx), delivery.subscriber, self.settings.max_retry_after)

    async def post(self, subscriber: Subscriber, delivery: Delivery, ctx: Context) -> httpx.Response:
        """One HTTP request in a CLIENT span, whose context travels in its headers."""
        body = delivery.body.encode()
        headers = {
            "Content-Type": "application/json",
            "X-Event": delivery.event,
            "X-Delivery": ctx.job_id,  # the same for every attempt: the subscriber can tell a repetition
            "X-Attempt": str(ctx.attempt),
            HEADER: sign(subscriber.secret.get_secret_value(), body),
        }
        attributes: dict[str, str | int] = {  # no url.full: paths and queries of webhooks carry tokens
            "http.request.method": "POST",
            "server.address": subscriber.url.host or "",
            "server.port": subscriber.url.port or 0,
            "http.request.body.size": len(body),
            "http.request.resend_count": ctx.attempt - 1,
        }
        with tracer.start_as_current_span("POST", kind=SpanKind.CLIENT, attributes=attributes) as span:
            propagate.inject(headers)
            async with self.http.stream("POST", str(subscriber.url), content=body, headers=headers) as response:
                await skim(response)
            span.set_attribute("http.response.status_code", response.status_code)
            if response.status_code >= 400:
                span.set_attribute("error.type", str(response.status_code))
                span.set_status(Status(StatusCode.ERROR))
        return response

    @RelayQueues.digests.handler
    def summarise_batch(self, digest: Digest, ctx: Context) -> None:
        """The result goes where the events went: results are a service's own matter, a queue keeps none."""
        try:
            summary = summarise(unpack(digest.deliveries))
        except BadBatch as error:
            raise Reject(str(error)) from error
        body = json.dumps({"batch": digest.batch, **summary})
        # The chosen id: run a second time, this handler sends no second digest while the first is on its way.
        self.deliveries.enqueue(
            Delivery(subscriber=digest.subscriber, event="digest", body=body), job_id=f"{digest.batch}-digest"
        )
        ctx.log.info("batch_summarised", batch=digest.batch, deliveries=summary["deliveries"], root=summary["root"])

    @RelayQueues.dead_letters.handler
    def report(self, letter: DeadLetter, ctx: Context) -> None:
        """Here a pager would be called. The letter rests afterwards, for replay."""
        last = letter.attempts[-1].message if letter.attempts else ""
        ctx.log.error(
            "delivery_given_up", home=letter.queue, reason=letter.reason, attempts=len(letter.attempts), error=last
        )


async def skim(response: httpx.Response) -> None:
    """Reads the answer away, up to a limit: a connection is reused only after its answer was read."""
    size = 0
    async for chunk in response.aiter_raw():
        size += len(chunk)
        if size > MAX_ANSWER:
            break


def judge(response: httpx.Response, subscriber: str, longest: float) -> None:
    """Returns where the delivery was taken.

    Raises:
        RetryLater: 429 or 503; after `Retry-After`, at most `longest` seconds, where the subscriber sent one.
        SubscriberFailed: any other 5xx.
        Reject: anything else; the same request would be refused again. So are redirects: an address is a setting.
    """
    status = response.status_code
    if 200 <= status < 300:
        return
    said = f"{subscriber} answered {status}"
    if status in (429, 503):
        now = parse_http_date(response.headers.get("Date")) or datetime.now(UTC)
        delay = parse_retry_after(response.headers.get("Retry-After"), now=now, longest=longest)
        raise RetryLater(said, delay=delay)
    raise SubscriberFailed(said) if status >= 500 else Reject(said)
