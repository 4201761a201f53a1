"""The contract: queues and payloads. All that a producer needs to know of the relay."""

from __future__ import annotations

from datetime import timedelta

from pydantic import BaseModel

from framework import DeadLetter, Queue, RetryPolicy, Slo, WorkerApp


class Delivery(BaseModel):
    """One event for one subscriber.

    The subscriber is a name: its address and its secret are looked up when the delivery runs. So no secret lies on
    disk, and a rotated secret or a moved address counts for what is already queued.

    Attributes:
        subscriber: a key of `RELAY_SUBSCRIBERS`.
        event: its type, such as `push`.
        body: JSON text, sent and signed as it stands.
    """

    subscriber: str
    event: str
    body: str


class Digest(BaseModel):
    """A batch of deliveries to be summarised for their subscriber.

    Attributes:
        batch: name of the batch; the digest is delivered once under this name.
        subscriber: as in Delivery.
        deliveries: base64 of the zlib-compressed batch, see `digest.pack`.
    """

    batch: str
    subscriber: str
    deliveries: str


class RelayQueues(WorkerApp):
    """Queues without handlers: import this to enqueue."""

    # Letters rest here until somebody replays or discards them; after two weeks nobody will.
    dead_letters = Queue[DeadLetter]("dead-letters", ttl=timedelta(days=14))
    deliveries = Queue[Delivery](
        "deliveries",
        workers=2,
        concurrency=20,
        timeout=15,
        retry=RetryPolicy(max_retries=8, first_delay=2, max_delay=timedelta(hours=1)),
        dead_letter=dead_letters,
        slo=Slo(wait=2.5, target=0.99),
    )
    digests = Queue[Digest](
        "digests",
        timeout=60,
        retry=RetryPolicy(max_retries=3),
        dead_letter=dead_letters,
        max_payload_bytes=8 * 1024 * 1024,
    )
