"""Payloads of other versions: upgrade functions, whose version is newer, and the grace for what cannot be read."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from framework import Queue, WorkerApp
from framework.model.errors import DeclarationError, SettingsError
from framework.model.events import Event, JobFinished
from framework.model.extras import Extras
from framework.model.job import Lease
from framework.model.outcome import Kind, Outcome
from framework.service.codec import codec_for
from framework.service.codec.upgrades import Reader
from framework.service.options import resolve
from framework.service.settings import load_settings
from tests.unit.helpers import a_lease, an_executor, load_service

OLD, OLDER, THEIRS = "0123456789ab", "a123456789ab", "b123456789ab"


class Delivery(BaseModel):
    url: str
    seconds: float = 1


class App(WorkerApp):
    deliveries = Queue[Delivery]("jobs")
    later = Queue[Delivery]("later")

    def __init__(self) -> None:
        self.got: list[Delivery] = []

    @deliveries.upgrade(from_fingerprint=OLD)
    @deliveries.upgrade(from_version="1.4")
    @staticmethod
    def in_milliseconds(old: dict[str, Any]) -> dict[str, Any]:
        return {"url": old["url"], "seconds": old["milliseconds"] / 1000}

    @deliveries.handler
    def deliver(self, delivery: Delivery) -> None:
        self.got.append(delivery)

    @later.handler
    async def deliver_later(self, delivery: Delivery) -> None:
        self.got.append(delivery)


@App.deliveries.upgrade(from_fingerprint=OLDER)
def of_a_model(old: str) -> Delivery:
    return Delivery(url=old)


OWN = codec_for(Delivery, queue="jobs").fingerprint


def lease_of(payload: bytes, fingerprint: str | None = None, version: str | None = None, **fields: Any) -> Lease:
    return a_lease(payload, extras=Extras(fingerprint=fingerprint, version=version), **fields)


def run(app: App, lease: Lease, events: list[Event] | None = None, **options: Any) -> Outcome:
    executor = an_executor(app, events, lease.queue, **options)
    attempt = executor.attempt(lease)
    if executor.handler.is_async:

        async def call(made: Any) -> Any:
            return await made

        return asyncio.run(executor.run_async(attempt, call=call))
    return executor.run(attempt)


# --- upgrades --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fingerprint", "version", "payload", "seconds"),
    [
        (OLD, None, b'{"url":"a","milliseconds":1500}', 1.5),
        (OLD, "9", b'{"url":"a","milliseconds":1500}', 1.5),
        (THEIRS, "1.4", b'{"url":"a","milliseconds":1500}', 1.5),
        (None, "1.4", b'{"url":"a","milliseconds":1500}', 1.5),
        (OLDER, "1.4", b'"a"', 1.0),
        (OWN, "2.0", b'{"url":"a","seconds":3}', 3.0),
        (None, None, b'{"url":"a","seconds":3}', 3.0),
    ],
)
def test_an_old_payload_reaches_the_handler_upgraded(
    fingerprint: str | None, version: str | None, payload: bytes, seconds: float
) -> None:
    app = App()
    assert run(app, lease_of(payload, fingerprint, version), version="2.0").kind is Kind.SUCCEEDED
    assert app.got == [Delivery(url="a", seconds=seconds)]


def test_what_this_very_version_has_enqueued_is_never_upgraded() -> None:
    """A deploy that forgot to raise WORKER_VERSION."""
    app = App()
    assert run(app, lease_of(b'{"url":"a"}', OWN, "1.4"), version="1.4").kind is Kind.SUCCEEDED
    assert app.got == [Delivery(url="a")]


@pytest.mark.parametrize(
    ("payload", "why"), [(b'{"url":"secret"}', "KeyError"), (b"{secret", "JSONDecodeError"), (b"7", "TypeError")]
)
def test_an_upgrade_that_fails_makes_a_dead_letter_without_the_payload(payload: bytes, why: str) -> None:
    outcome = run(App(), lease_of(payload, OLD))
    assert outcome.kind is Kind.DEAD_LETTERED
    assert outcome.failure is not None
    assert outcome.failure.reason == "invalid_payload"
    assert outcome.failure.message.endswith(why)
    assert "test_upgrades.py:" in outcome.failure.message
    assert "secret" not in repr(outcome)
    full = run(App(), lease_of(b'{"url":"a"}', OLD), full_errors=True).failure
    assert full is not None
    assert "milliseconds" in full.message


@pytest.mark.parametrize(
    ("declaration", "why"),
    [
        ("@q.upgrade(from_version='1')\nasync def old(payload: dict) -> dict: ...", "a plain function of one argument"),
        ("q.upgrade(from_version='1')(7)", "a plain function of one argument"),
        ("class A:\n    @q.upgrade(from_version='1')\n    def old(self, payload): ...", "write @staticmethod above it"),
        ("@q.upgrade\ndef old(payload: dict) -> dict: ...", "write @….upgrade(from_version=...) above the function"),
        ("@q.upgrade()\ndef old(payload: dict) -> dict: ...", "give from_fingerprint or from_version"),
        ("@q.upgrade(from_version='1', from_fingerprint='0123456789ab')\ndef old(p): ...", "give from_fingerprint or"),
        ("@q.upgrade(from_version=1)\ndef old(payload: dict) -> dict: ...", "give from_fingerprint or from_version"),
        ("@q.upgrade(from_fingerprint='xyz')\ndef old(p): ...", "from_fingerprint='xyz': 12 hex digits"),
        (
            "@q.upgrade(from_version='1')\ndef a(p): ...\n@q.upgrade(from_version='1')\ndef b(p): ...",
            "has a function for the same payloads",
        ),
    ],
)
def test_a_wrong_declaration_is_refused_with_its_place(tmp_path: Path, declaration: str, why: str) -> None:
    with pytest.raises(DeclarationError) as refused:
        load_service(f"q = Queue[Delivery]('q')\n{declaration}", tmp_path / "service.py")
    text = str(refused.value)
    assert "service.py:" in text
    assert "upgrade of queue 'q'" in text
    assert why in text
    assert "\n" not in text


# --- whose version ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("theirs", "ours", "newer"),
    [
        ("2.0", "1.9", True), ("1.10", "1.9", True), ("v3", "2.9.9", True), ("1.9", "1.10", False), ("1", "2", False),
        ("1.0", "1", True), ("1", "1.0.0", True), (None, "1", True), ("1", "", True), ("2025-01-02", "3", True),
        ("1.2rc1", "1.3", True), ("deadbeef", "deadbeee", True), ("v1.2", "1.3", False), ("1.2", "1.2", True),
    ],
)  # fmt: skip
def test_a_version_is_older_only_where_its_numbers_say_so(theirs: str | None, ours: str, newer: bool) -> None:
    reader = Reader(codec_for(Delivery, queue="jobs"), App.deliveries.upgrades, ours)
    assert reader.may_be_newer(Extras(fingerprint=THEIRS, version=theirs)) is newer
    assert not reader.may_be_newer(Extras(fingerprint=OWN, version=theirs))
    assert not reader.may_be_newer(Extras(version=theirs)), "without a fingerprint"
    assert not reader.may_be_newer(Extras(fingerprint=OLD, version=theirs)), "an upgrade function is for it"


# --- grace -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("queue", ["jobs", "later"])
@pytest.mark.parametrize(
    ("enqueued", "delay"),  # it is 1010 now
    [(1010.0, 1.0), (1009.5, 1.0), (1006.0, 4.0), (1000.0, 10.0), (500.0, 30.0), (420.0, 10.0), (2000.0, 1.0)],
)
def test_a_job_of_a_newer_version_is_put_back_uncharged(enqueued: float, delay: float, queue: str) -> None:
    events: list[Event] = []
    lease = lease_of(b'{"target":"secret"}', THEIRS, "3", queue=queue)
    lease.job.enqueued_at = enqueued  # type: ignore[misc]
    outcome = run(App(), lease, events, version="2")
    assert (outcome.kind, outcome.delay, outcome.failure) == (Kind.RELEASED, delay, None)
    assert outcome.message == "put back for a newer version: url: missing"
    assert outcome.is_unreadable
    (event,) = [event for event in events if isinstance(event, JobFinished)]
    assert (event.outcome, event.reason, event.delay) == ("released", None, delay)
    assert "secret" not in repr(events)


@pytest.mark.parametrize(
    ("fingerprint", "version", "options"),
    [
        (None, "3", {}),
        (OWN, "3", {}),
        (THEIRS, "1.9", {}),
        (THEIRS, "3", {"grace": 0.0}),
        (THEIRS, "3", {"grace": 10.0}),  # it waits since 1000, and it is 1010
    ],
)
def test_any_other_is_a_dead_letter_at_once(
    fingerprint: str | None, version: str | None, options: dict[str, Any]
) -> None:
    outcome = run(App(), lease_of(b"{}", fingerprint, version), version="2", **options)
    assert outcome.kind is Kind.DEAD_LETTERED
    assert outcome.failure is not None
    assert outcome.failure.reason == "invalid_payload"


def test_a_delayed_job_has_its_grace_from_when_it_may_run() -> None:
    outcome = run(App(), lease_of(b"{}", THEIRS, "3", not_before=1009.0), version="2", grace=5.0)
    assert (outcome.kind, outcome.delay) == (Kind.RELEASED, 1.0)


def test_it_is_said_once_for_each_fingerprint(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    executor = an_executor(App(), version="2")
    for fingerprint in (THEIRS, THEIRS, "c123456789ab"):
        executor.run(executor.attempt(lease_of(b'{"target":"secret"}', fingerprint, "3")))
    first, second = caplog.messages
    assert f"queue 'jobs': jobs of version 3 (fingerprint {THEIRS}) cannot be read" in first
    assert "c123456789ab" in second
    assert "secret" not in caplog.text


# --- settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "version"),
    [
        ({}, ""),
        ({"WORKER_VERSION": "1.2"}, "1.2"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "a=b,service.version=2%2E0,c"}, "2.0"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "service.version=2.0", "WORKER_VERSION": "1.2"}, "1.2"),
        ({"OTEL_RESOURCE_ATTRIBUTES": f"service.version={'x' * 200}"}, "x" * 100),
        ({"OTEL_RESOURCE_ATTRIBUTES": "service.version=a%0Ab"}, ""),
    ],
)
def test_the_version_comes_from_its_variable_or_from_the_resource(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], version: str
) -> None:
    for name in ("WORKER_VERSION", "OTEL_RESOURCE_ATTRIBUTES"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert resolve(App.deliveries, load_settings()).version == version


@pytest.mark.parametrize("value", ["x" * 101, "a\nb", "\udcff"])
def test_a_version_that_cannot_be_stored_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("WORKER_VERSION", value)
    with pytest.raises(SettingsError, match=r"WORKER_VERSION.*at most 100 printable characters"):
        load_settings()


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: Queue[int]("q", grace=-1), "grace=-1.0: must be 0 or more seconds"),
        (lambda: Queue[int]("q", grace=float("nan")), "grace=nan"),
        (lambda: Queue[int]("q", grace="x"), "is no duration"),  # type: ignore[arg-type]
    ],
)
def test_a_wrong_grace_is_refused(make: Callable[[], object], why: str) -> None:
    with pytest.raises(DeclarationError, match=why):
        make()


def test_a_wrong_grace_in_the_environment_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKER_QUEUES__DELIVERIES__GRACE", "-1")
    with pytest.raises(SettingsError, match="WORKER_QUEUES__DELIVERIES__GRACE: grace=-1"):
        resolve(App.deliveries, load_settings())
