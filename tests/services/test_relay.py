"""The service as its users would test it: with `framework.testing`, handlers on the real codec and retry path."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from framework.testing import Harness, harness
from services.example_worker import WebhookRelay
from services.example_worker.digest import pack, summarise
from services.example_worker.events import make_event
from services.example_worker.queues import Delivery, Digest, RelayQueues
from tests.services.conftest import StartReceiver

Tell = Callable[..., None]


def delivery(index: int = 0, subscriber: str = "shop") -> Delivery:
    event = make_event(index)
    return Delivery(subscriber=subscriber, event=event.event, body=event.body)


def test_every_delivery_arrives(start_receiver: StartReceiver, environment: Tell) -> None:
    receiver = start_receiver("ok=1")
    environment(receiver)
    with harness(WebhookRelay) as t:
        for index in range(10):
            RelayQueues.deliveries.enqueue(delivery(index))
        assert t.drain(WebhookRelay.deliveries) == 10
        assert t.enqueued(WebhookRelay.deliveries) == []
        assert t.dead(WebhookRelay.deliveries) == []
    assert (receiver.counts.delivered, receiver.counts.bad_signatures) == (10, 0)


def test_a_retried_delivery_arrives_once(start_receiver: StartReceiver, environment: Tell) -> None:
    receiver = start_receiver("ok=50,503=30,500=20")
    environment(receiver)
    with harness(WebhookRelay) as t:
        for index in range(20):
            WebhookRelay.deliveries.enqueue(delivery(index), job_id=f"d-{index}")
        t.drain(WebhookRelay.deliveries, raise_errors=False)
        assert t.dead(WebhookRelay.deliveries) == []
    assert (receiver.counts.delivered, receiver.counts.duplicates) == (20, 0)
    assert receiver.counts.requests > 20


def test_a_refused_delivery_is_a_dead_letter_at_once(start_receiver: StartReceiver, environment: Tell) -> None:
    receiver = start_receiver("404=1")
    environment(receiver)
    with harness(WebhookRelay) as t:
        job_id = WebhookRelay.deliveries.enqueue(delivery())
        t.drain(WebhookRelay.deliveries)
        (letter,) = t.dead(WebhookRelay.deliveries)
    assert receiver.counts.requests == 1
    assert (letter.job_id, letter.queue, letter.reason) == (job_id, "deliveries", "rejected")
    assert letter.attempts[-1].message == "shop answered 404"
    assert Delivery.model_validate(letter.payload) == delivery()


def test_a_subscriber_that_stays_down_is_given_up_after_nine_attempts(
    start_receiver: StartReceiver, environment: Tell
) -> None:
    receiver = start_receiver("502=1")
    environment(receiver)
    with harness(WebhookRelay) as t:
        WebhookRelay.deliveries.enqueue(delivery())
        t.drain(WebhookRelay.deliveries, raise_errors=False)
        (letter,) = t.dead(WebhookRelay.deliveries)
    assert receiver.counts.requests == 9
    assert (letter.reason, len(letter.attempts)) == ("error", 9)


def test_an_unknown_subscriber_is_a_dead_letter() -> None:
    with harness(WebhookRelay) as t:
        WebhookRelay.deliveries.enqueue(delivery(subscriber="nobody"))
        t.drain(WebhookRelay.deliveries)
        (letter,) = t.dead(WebhookRelay.deliveries)
    assert "RELAY_SUBSCRIBERS__NOBODY__URL" in letter.attempts[-1].message


def test_a_handled_letter_rests(start_receiver: StartReceiver, environment: Tell) -> None:
    environment(start_receiver("410=1"))
    with harness(WebhookRelay) as t:
        WebhookRelay.deliveries.enqueue(delivery())
        t.drain(WebhookRelay.deliveries)
        assert t.drain(WebhookRelay.dead_letters) == 1
        assert t.drain(WebhookRelay.dead_letters) == 0  # handled once
        assert len(t.dead(WebhookRelay.dead_letters)) == 1  # and still there


@contextmanager
def digested(batch: str, packed: str) -> Iterator[Harness[WebhookRelay]]:
    with harness(WebhookRelay) as t:
        WebhookRelay.digests.enqueue(Digest(batch=batch, subscriber="shop", deliveries=packed))
        t.drain(WebhookRelay.digests)
        yield t


def test_a_digest_is_delivered_to_its_subscriber() -> None:
    batch = [(event.event, event.body) for event in map(make_event, range(25))]
    with digested("b-1", pack(batch)) as t:
        (sent,) = t.enqueued(WebhookRelay.deliveries)
        assert t.dead(WebhookRelay.digests) == []
    assert (sent.subscriber, sent.event) == ("shop", "digest")
    assert json.loads(sent.body) == {"batch": "b-1", **summarise(batch)}


def test_a_digest_run_twice_is_sent_once() -> None:
    packed = pack([("push", "{}")])
    with digested("b-1", packed) as t:
        WebhookRelay.digests.enqueue(Digest(batch="b-1", subscriber="shop", deliveries=packed))
        t.drain(WebhookRelay.digests)
        assert len(t.enqueued(WebhookRelay.deliveries)) == 1


@pytest.mark.parametrize("packed", ["rubbish!", pack([("push", "not json")])])
def test_a_bad_batch_is_a_dead_letter_at_once(packed: str) -> None:
    with digested("b-1", packed) as t:
        (letter,) = t.dead(WebhookRelay.digests)
        assert t.enqueued(WebhookRelay.deliveries) == []
    assert (letter.queue, letter.reason, len(letter.attempts)) == ("digests", "rejected", 1)
