"""`framework.testing`: real codec, retry and dead-letter path, without time passing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from framework import (
    Context,
    DeadLetter,
    Discard,
    InvalidPayload,
    Queue,
    QueueFull,
    Reject,
    RetryLater,
    RetryPolicy,
    Slot,
    Snooze,
    WorkerApp,
)
from framework.testing import Harness, context, harness


class Stop(BaseException):
    """What a test framework raises to end a test."""


class Foreign(WorkerApp):
    """Another service's contract."""

    orders = Queue[int]("orders")


class App(WorkerApp):
    dead = Queue[DeadLetter]("dead")
    sync = Queue[str]("sync", dead_letter=dead, retry=RetryPolicy(max_retries=2))
    later = Queue[str]("later", concurrency=5, dead_letter=dead, retry=RetryPolicy(max_retries=2), ttl=3600)
    alone = Queue[str]("alone", retry=RetryPolicy(max_retries=0), max_length=3)
    unhandled = Queue[int]("unhandled")

    def __init__(self) -> None:
        self.order: list[Any] = []
        self.letter_ends: BaseException | None = None

    @contextmanager
    def lifespan(self, slot: Slot) -> Generator[None, None, None]:
        self.order.append(("open", slot.queue.name, slot.index))
        with super().lifespan(slot):
            yield
        self.order.append("close")

    @asynccontextmanager
    async def alifespan(self, slot: Slot) -> AsyncGenerator[None, None]:
        self.order.append("aopen")
        async with super().alifespan(slot), asyncio.TaskGroup() as self.group:
            yield
        self.order.append("aclose")

    def end(self, what: str, ctx: Context) -> None:
        self.order.append((what, ctx.attempt))
        ends: dict[str, BaseException] = {
            "fail": ValueError("bad"),
            "reject": Reject("no"),
            "discard": Discard("gone"),
            "snooze": Snooze(delay=60),
            "later": RetryLater("busy", delay=timedelta(days=365)),
            "stop": Stop("test"),
            "interrupt": KeyboardInterrupt(),
            "exit": SystemExit(1),
        }
        if what in ends and not (what == "snooze" and len(self.order) > 4):
            raise ends[what]

    @sync.handler
    def run_sync(self, what: str, ctx: Context) -> None:
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop()
        self.end(what, ctx)

    @later.handler
    async def run_later(self, what: str, ctx: Context) -> None:
        await asyncio.sleep(0)
        assert not self.group._exiting  # type: ignore[attr-defined]
        self.end(what, ctx)

    @alone.handler
    def run_alone(self, what: str, ctx: Context) -> None:
        self.order.append((what, ctx.attempt))
        if what == "enqueue":
            self.sync.enqueue("made by a job", job_id="made")
            Foreign.orders.enqueue(7)
        elif what == "endless":
            self.alone.enqueue("endless")
        elif what == "sleepy":
            raise Snooze
        else:
            raise ValueError(what)

    @dead.handler
    def letter(self, letter: DeadLetter, ctx: Context) -> None:
        self.order.append(("letter", letter.payload, letter.reason))
        if self.letter_ends is not None:
            raise self.letter_ends


QUEUES = [App.sync, App.later]


def runs(t: Harness[App]) -> list[Any]:
    return [item for item in t.app.order if isinstance(item, tuple) and item[0] != "open"]


@pytest.mark.parametrize("queue", QUEUES, ids=["sync", "async"])
def test_a_job_is_done(queue: Queue[str]) -> None:
    with harness(App) as t:
        queue.enqueue("ok")
        assert t.enqueued(queue) == ["ok"]
        assert t.drain(queue) == 1
        assert (t.enqueued(queue), t.dead(queue), t.failures) == ([], [], [])
        assert t.drain(queue) == 0


@pytest.mark.parametrize("queue", QUEUES, ids=["sync", "async"])
def test_an_error_is_retried_to_its_dead_letter(queue: Queue[str]) -> None:
    began = time.monotonic()
    with harness(App) as t:
        job_id = queue.enqueue("fail")
        assert t.drain(queue, raise_errors=False) == 3
        (letter,) = t.dead(queue)
        assert (letter.job_id, letter.queue, letter.payload, letter.reason) == (job_id, queue.name, "fail", "error")
        assert [(f.attempt, f.message) for f in letter.attempts] == [(1, "bad"), (2, "bad"), (3, "bad")]
        assert [f.exception for f in letter.attempts] == [None] * 3
        assert [type(f.exception) for f in t.failures] == [ValueError] * 3
        waits = [b.started_at - a.ended_at for a, b in zip(t.failures, t.failures[1:], strict=False)]
        assert 0.5 <= waits[0] <= 1
        assert 2 <= waits[1] <= 4
    assert time.monotonic() - began < 20


def test_a_year_passes_without_sleeping() -> None:
    with harness(App) as t:
        App.sync.enqueue("later", delay=timedelta(days=365))
        App.sync.enqueue("ok", run_at=datetime.now(UTC) + timedelta(days=3650))
        assert t.enqueued(App.sync) == ["later", "ok"]
        assert t.drain() == 5
        assert [attempt for _, attempt in runs(t)[:3]] == [1, 2, 3]


@pytest.mark.parametrize(("what", "reason"), [("reject", "rejected"), ("exit", "error"), ("fail", "error")])
def test_dead_letters_are_handled_and_rest(what: str, reason: str) -> None:
    with harness(App) as t:
        App.sync.enqueue(what)
        t.drain(App.sync, raise_errors=False)
        (waiting,) = t.enqueued(App.dead)
        assert t.dead(App.sync) == t.dead(App.dead) == [waiting]
        assert t.drain(App.dead) == 1
        assert t.enqueued(App.dead) == []
        assert t.dead(App.sync) == t.dead(App.dead) == [waiting]
        assert runs(t)[-1] == ("letter", what, reason)
        assert t.drain() == 0
        assert t.dead(App.later) == []


def test_a_dead_letter_can_be_discarded_by_its_handler() -> None:
    with harness(App) as t:
        t.app.letter_ends = Discard("known")
        App.sync.enqueue("reject")
        t.drain()
        assert t.dead(App.sync) == t.dead(App.dead) == []


def test_a_dead_letter_whose_handler_fails_for_good_is_kept() -> None:
    with harness(App) as t:
        t.app.letter_ends = ValueError("pager down")
        App.sync.enqueue("reject")
        assert t.drain(raise_errors=False) == 1 + 11
        (letter,) = t.dead(App.sync)
        assert [failure.queue for failure in letter.attempts][-1] == "dead"


def test_a_queue_without_dead_letter_queue_keeps_its_own() -> None:
    with harness(App) as t:
        App.alone.enqueue("broken")
        t.drain(raise_errors=False)
        (letter,) = t.dead(App.alone)
        assert (letter.queue, letter.attempts[-1].message) == ("alone", "broken")


def test_snooze_and_discard() -> None:
    with harness(App) as t:
        App.sync.enqueue("snooze")
        App.sync.enqueue("discard")
        t.drain()
        assert [attempt for what, attempt in runs(t) if what == "snooze"] == [1, 1, 1]
        assert (t.enqueued(App.sync), t.dead(App.sync), t.failures) == ([], [], [])


def test_only_the_named_queues_are_drained() -> None:
    with harness(App) as t:
        App.sync.enqueue("a")
        App.later.enqueue("b")
        assert t.drain(App.later) == 1
        assert t.enqueued(App.sync) == ["a"]


def test_everything_enqueued_stays_in_the_harness() -> None:
    """Also to another service's queue: a test must never write into a real spool."""
    with harness(App) as t:
        App.alone.enqueue("enqueue")
        t.drain(App.alone)
        assert t.enqueued(App.sync) == ["made by a job"]
        assert t.enqueued(Foreign.orders) == [7]
        assert t.dead(Foreign.orders) == []
        assert App.sync.enqueue("again", job_id="made") == "made"
        assert t.enqueued(App.sync) == ["made by a job"]


def test_each_harness_is_empty_and_the_producer_before_is_restored() -> None:
    with harness(App) as outer:
        App.sync.enqueue("outer")
        with harness(App) as inner:
            assert inner.enqueued(App.sync) == []
            App.sync.enqueue("inner")
            Foreign.orders.enqueue(1)
        App.sync.enqueue("outer again")
        assert outer.enqueued(App.sync) == ["outer", "outer again"]
        assert outer.enqueued(Foreign.orders) == []
    with pytest.raises(IndexError):
        App.sync._connected[-1]


def test_limits_hold() -> None:
    with harness(App):
        with pytest.raises(InvalidPayload):
            App.sync.enqueue(7)  # type: ignore[arg-type]
        with pytest.raises(QueueFull) as full:
            App.alone.enqueue_many(list("abcd"))
        assert len(full.value.enqueued) == 3


def test_a_job_expires_by_the_clock_of_the_harness() -> None:
    with harness(App) as t:
        App.later.enqueue("later")  # to be retried in a year; its ttl is an hour
        assert t.drain(App.later) == 1
        assert [letter.reason for letter in t.dead(App.later)] == ["expired"]


def test_lifespans() -> None:
    with harness(App) as t:
        assert t.app.order == [("open", "sync", 0)]
        App.sync.enqueue("a")
        App.later.enqueue("b")
        App.later.enqueue("c")
        t.drain()
        assert t.app.order[1:] == [("a", 1), "aopen", ("b", 1), ("c", 1), "aclose"]
        t.drain()
        App.sync.enqueue("d")
        t.drain()
        assert t.app.order[6:] == [("d", 1)]
    assert t.app.order[-1] == "close"


def test_an_instance_of_your_own() -> None:
    app = App()
    with harness(app) as t:
        assert t.app is app


def test_a_fake_set_inside_the_block_stays() -> None:
    class WithResource(App):
        @contextmanager
        def lifespan(self, slot: Slot) -> Generator[None, None, None]:
            self.resource = "real"
            yield

        def run_sync(self, what: str, ctx: Context) -> None:
            self.order.append((self.resource, ctx.attempt))

    with harness(WithResource) as t:
        t.app.resource = "fake"
        App.sync.enqueue("a")
        t.drain()
        assert runs(t) == [("fake", 1)]


def test_errors_of_the_lifespans_reach_the_test() -> None:
    class Broken(App):
        @contextmanager
        def lifespan(self, slot: Slot) -> Generator[None, None, None]:
            raise OSError("no database")
            yield

    class BrokenLater(App):
        @asynccontextmanager
        async def alifespan(self, slot: Slot) -> AsyncGenerator[None, None]:
            raise OSError("no client")
            yield

    with pytest.raises(OSError, match="no database"), harness(Broken):
        pass
    with harness(BrokenLater) as t:
        App.later.enqueue("a")
        with pytest.raises(OSError, match="no client"):
            t.drain()
    assert App.later._connected == []


@pytest.mark.parametrize(("what", "error"), [("stop", Stop), ("interrupt", KeyboardInterrupt)])
@pytest.mark.parametrize("queue", QUEUES, ids=["sync", "async"])
def test_what_is_meant_for_the_test_is_raised(what: str, error: type[BaseException], queue: Queue[str]) -> None:
    with harness(App) as t:
        queue.enqueue(what)
        with pytest.raises(error):
            t.drain(raise_errors=False)
        assert t.failures[-1].attempt == 1


@pytest.mark.parametrize(
    ("what", "complaint"),
    [("sleepy", "came back 1,000 times: does it always snooze"), ("endless", "does 'alone' enqueue its own successor")],
)
def test_no_end(what: str, complaint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("framework.testing.memory.MOST_RUNS", 2000)
    with harness(App) as t:
        App.alone.enqueue(what)
        with pytest.raises(RuntimeError, match=complaint):
            t.drain()


def test_misuse() -> None:
    with harness(App) as t:
        with pytest.raises(ValueError, match="App has no handler for queue 'unhandled'"):
            t.drain(App.unhandled)
        with pytest.raises(ValueError, match="App has no handler for queue 'orders'"):
            t.drain(Foreign.orders)


async def test_in_a_running_loop() -> None:
    with harness(App) as t:
        await App.later.aenqueue("fail")
        with pytest.raises(RuntimeError, match=r"use await t\.adrain"):
            t.drain()
        assert await t.adrain(App.later, raise_errors=False) == 3
        assert len(t.dead(App.later)) == 1
        assert (t.app.order.count("aopen"), t.app.order.count("aclose")) == (1, 1)
        assert await t.adrain(App.dead) == 1
        App.later.enqueue("stop")
        with pytest.raises(Stop):  # and no group of errors, though alifespan has a TaskGroup
            await t.adrain()


async def test_a_tests_own_timeout_is_not_the_jobs_failure() -> None:
    class Hangs(App):
        async def run_later(self, what: str, ctx: Context) -> None:
            await asyncio.Event().wait()

    with harness(Hangs) as t:
        App.later.enqueue("a")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await t.adrain()


def test_errors_are_easy_to_see(caplog: pytest.LogCaptureFixture) -> None:
    with harness(App) as t:
        App.sync.enqueue("fail", job_id="j1")
        t.drain(App.sync, raise_errors=False)
    assert "sync j1 attempt 3: bad" in caplog.text
    assert "ValueError: bad" in caplog.text


def test_context() -> None:
    ctx = context()
    assert (ctx.attempt, ctx.max_attempts, ctx.remaining, ctx.should_stop, ctx.scheduled_for) == (
        1,
        11,
        None,
        False,
        None,
    )
    assert ctx.enqueued_at.tzinfo is UTC
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    ctx = context(attempt=3, max_attempts=4, timeout=60, scheduled_for=moment, stopping=True)
    assert (ctx.attempt, ctx.max_attempts, ctx.scheduled_for, ctx.should_stop) == (3, 4, moment, True)
    assert ctx.remaining is not None
    assert 0 < ctx.remaining <= 60
    ctx.log.bind(a=1).exception("x", b=2)
