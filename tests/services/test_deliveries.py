"""What each answer of a subscriber makes of a delivery, against a real receiver over real sockets."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import httpx
import pytest

from framework import Reject, RetryLater
from framework.testing import context
from services.example_worker import WebhookRelay
from services.example_worker.queues import Delivery
from services.example_worker.relay import MAX_ANSWER, SubscriberFailed, judge
from tests.services.conftest import StartReceiver

Tell = Callable[..., None]
Make = Callable[[httpx.AsyncClient], WebhookRelay]
PUSH = Delivery(subscriber="shop", event="push", body='{"größe": 1}')


def deliver(
    relay: Make, delivery: Delivery = PUSH, *, timeout: float = 5.0, attempt: int = 1, job_id: str = "job"
) -> None:
    async def run() -> None:
        async with httpx.AsyncClient(timeout=timeout, trust_env=False) as client:
            await relay(client).deliver(delivery, replace(context(attempt=attempt), job_id=job_id))

    asyncio.run(run())


@pytest.mark.parametrize("status", [200, 201, 202, 204])
def test_taken(status: int, start_receiver: StartReceiver, environment: Tell, relay: Make) -> None:
    receiver = start_receiver(f"{status}=1")
    environment(receiver)
    deliver(relay)
    stats = receiver.counts.snapshot()
    assert (stats["delivered"], stats["bad_signatures"], stats["events"]) == (1, 0, {"push": 1})
    assert stats["bytes"] == len(PUSH.body.encode())


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 422, 301, 302, 307])
def test_refused_for_good(status: int, start_receiver: StartReceiver, environment: Tell, relay: Make) -> None:
    environment(start_receiver(f"{status}=1"))
    with pytest.raises(Reject, match=f"shop answered {status}"):
        deliver(relay)


@pytest.mark.parametrize("status", [500, 502, 504, 599])
def test_failed_for_now(status: int, start_receiver: StartReceiver, environment: Tell, relay: Make) -> None:
    environment(start_receiver(f"{status}=1"))
    with pytest.raises(SubscriberFailed, match=f"shop answered {status}"):
        deliver(relay)


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("job_id", ["a", "b"], ids=["seconds", "date"])  # the receiver takes the form by the id
def test_told_when_to_come_back(
    status: int, job_id: str, start_receiver: StartReceiver, environment: Tell, relay: Make
) -> None:
    receiver = start_receiver(f"{status}=1", retry_after=7)
    environment(receiver)
    with pytest.raises(RetryLater, match=f"shop answered {status}") as raised:
        deliver(relay, job_id=job_id)
    assert raised.value.delay is not None
    assert 6 <= raised.value.delay <= 7  # a date has whole seconds


def test_a_long_pause_is_cut_short(
    start_receiver: StartReceiver, environment: Tell, relay: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment(start_receiver("429=1", retry_after=86_400))
    monkeypatch.setenv("RELAY_MAX_RETRY_AFTER", "60")
    with pytest.raises(RetryLater) as raised:
        deliver(relay)
    assert raised.value.delay == 60


def test_no_answer_in_time(start_receiver: StartReceiver, environment: Tell, relay: Make) -> None:
    environment(start_receiver("hang=1"))
    with pytest.raises(httpx.ReadTimeout):
        deliver(relay, timeout=0.1)


def test_connection_closed_without_an_answer(start_receiver: StartReceiver, environment: Tell, relay: Make) -> None:
    environment(start_receiver("hang=1", hang=0))
    with pytest.raises(httpx.RemoteProtocolError):
        deliver(relay)


def test_nobody_listens(start_receiver: StartReceiver, environment: Tell, relay: Make) -> None:
    receiver = start_receiver()
    with socket.socket() as taken:  # bound and not listening: connections are refused
        taken.bind(("127.0.0.1", 0))
        receiver.server_port = taken.getsockname()[1]
        environment(receiver)
        with pytest.raises(httpx.ConnectError):
            deliver(relay)


def test_an_unknown_subscriber_is_a_dead_letter_that_says_what_to_set(relay: Make) -> None:
    with pytest.raises(Reject, match="RELAY_SUBSCRIBERS__NOBODY__URL"):
        deliver(relay, Delivery(subscriber="nobody", event="push", body="{}"))


def test_a_wrong_secret_is_refused_by_the_subscriber(
    start_receiver: StartReceiver, environment: Tell, relay: Make
) -> None:
    receiver = start_receiver()
    environment(receiver, secret="rotated away")
    with pytest.raises(Reject, match="answered 401"):
        deliver(relay)
    assert receiver.counts.bad_signatures == 1


def test_the_subscriber_can_tell_a_repetition(start_receiver: StartReceiver, environment: Tell, relay: Make) -> None:
    receiver = start_receiver()
    environment(receiver)
    deliver(relay)
    deliver(relay, attempt=2)
    assert (receiver.counts.delivered, receiver.counts.duplicates) == (1, 1)


def test_an_endless_answer_is_not_read(environment: Tell, relay: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    read = 0

    async def endless() -> Any:
        nonlocal read
        while read < 100 * MAX_ANSWER:
            read += 1024
            yield bytes(1024)

    monkeypatch.setenv("RELAY_SUBSCRIBERS__SHOP__URL", "http://shop.test/hooks")
    monkeypatch.setenv("RELAY_SUBSCRIBERS__SHOP__SECRET", "s")
    transport = httpx.MockTransport(lambda request: httpx.Response(200, content=endless()))

    async def run() -> None:
        async with httpx.AsyncClient(transport=transport) as client:
            await relay(client).deliver(PUSH, context())

    asyncio.run(run())
    assert MAX_ANSWER < read < 2 * MAX_ANSWER


def test_a_date_counts_by_the_clock_of_the_subscriber() -> None:
    headers = {"Date": "Sun, 01 Mar 2020 12:00:00 GMT", "Retry-After": "Sun, 01 Mar 2020 12:00:30 GMT"}
    with pytest.raises(RetryLater) as raised:
        judge(httpx.Response(429, headers=headers), "shop", 3600)
    assert raised.value.delay == 30


def test_without_a_pause_the_policy_decides() -> None:
    with pytest.raises(RetryLater) as raised:
        judge(httpx.Response(503, headers={"Retry-After": "later"}), "shop", 3600)
    assert raised.value.delay is None


def test_no_secret_and_no_address_reach_the_disk_or_the_log(
    start_receiver: StartReceiver, environment: Tell, relay: Make, caplog: pytest.LogCaptureFixture
) -> None:
    receiver = start_receiver("500=1")
    environment(receiver)
    caplog.set_level("DEBUG")
    with pytest.raises(SubscriberFailed) as raised:
        deliver(relay)
    assert "http" not in str(raised.value)
    assert "secret" not in Delivery.model_json_schema()["properties"]
    assert "correct horse" not in caplog.text
    assert "correct horse" not in repr(relay(httpx.AsyncClient()).settings)
