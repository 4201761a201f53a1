"""`enqueue_many(..., then=...)` and `ctx.ended`: as a service uses them, and what they say of mistakes and failures."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel

from framework import (
    Context,
    DeadLetter,
    Discard,
    Ended,
    EnqueueFailed,
    EnqueueUncertain,
    InvalidArgument,
    InvalidPayload,
    PayloadTooLarge,
    Queue,
    QueueFull,
    Reject,
    RetryPolicy,
    Unique,
    WorkerApp,
)
from framework.engine.memory.engine import MemoryEngine, MemoryStore
from framework.model.errors import EngineUnavailable
from framework.model.fan_in import FanIn
from framework.service.producer import BATCH, Producer
from framework.testing import context, harness


class Report(BaseModel):
    month: int


class App(WorkerApp):
    dead = Queue[DeadLetter]("dead")
    months = Queue[Report]("months", retry=RetryPolicy(max_retries=1, first_delay=0), max_length=2 * BATCH)
    years = Queue[str]("years", max_payload_bytes=20, ttl=60)
    keyed = Queue[str]("keyed", unique=Unique(key=lambda text: text))

    def __init__(self) -> None:
        self.ended: list[tuple[str, Ended | None]] = []

    @months.handler
    def month(self, report: Report, ctx: Context) -> None:
        assert ctx.ended is None
        if report.month == 4:
            raise Reject("a bad month")
        if report.month == 5:
            raise Discard("an old month")
        if report.month == 6 and ctx.attempt == 1:
            raise ValueError("once")

    @years.handler
    def year(self, name: str, ctx: Context) -> None:
        self.ended.append((name, ctx.ended))

    @keyed.handler
    def key(self, text: str) -> None: ...


def months(count: int = 7) -> Iterator[Report]:
    return (Report(month=number) for number in range(count))


def test_the_follow_up_runs_once_all_have_ended() -> None:
    with harness(App) as t:
        made = App.months.enqueue_many(months(), then=App.years.with_payload("2026", priority=1))
        assert len(made) == 7
        t.drain(raise_errors=False)
        assert t.app.ended == [("2026", Ended(succeeded=5, discarded=1, dead=1))]
        assert made.follow_up not in made
        t.drain()
        assert len(t.app.ended) == 1


def test_coroutines_fan_in_too() -> None:
    async def produce() -> str:
        return (await App.months.aenqueue_many(months(3), then=App.years.with_payload("2026"))).follow_up

    with harness(App) as t:
        assert asyncio.run(produce())
        t.drain()
        assert t.app.ended == [("2026", Ended(succeeded=3))]


def test_no_members_are_followed_at_once() -> None:
    with harness(App) as t:
        assert App.months.enqueue_many([], then=App.years.with_payload("none")) == []
        t.drain()
        assert t.app.ended == [("none", Ended())]
        assert Ended().all_succeeded
        assert not Ended(succeeded=1, unknown=1).all_succeeded


def test_a_handler_is_called_with_counts_by_a_test() -> None:
    app = App()
    app.year("2026", context(ended=Ended(succeeded=2)))
    assert app.ended == [("2026", Ended(succeeded=2))]


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "a queue": ({"then": App.years}, r"then=<.*: write then=Reports\.done\.with_payload"),
    "a payload": ({"then": "2026"}, "then='2026': write"),
    "its queue has unique keys": ({"then": App.keyed.with_payload("a")}, "queue 'keyed' has unique=, and a follow-up"),
    "a transaction": ({"then": App.years.with_payload("a"), "connection": object()}, "without connection="),
    "an option that does not exist": ({"then": App.years.with_payload("a", prio=1)}, "no option 'prio'"),  # type: ignore[call-arg]
    "a wrong option": ({"then": App.years.with_payload("a", priority=10)}, "priority=10"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_named_and_nothing_is_queued(mistake: str) -> None:
    options, message = MISTAKES[mistake]
    with harness(App) as t:
        with pytest.raises((InvalidArgument, TypeError), match=message):
            App.months.enqueue_many(months(), **options)
        assert t.enqueued(App.months) == []


def test_members_are_jobs_that_cannot_exist_already() -> None:
    then = App.years.with_payload("2026")
    with harness(App) as t:
        with pytest.raises(InvalidArgument, match="jobs= with ids of your own"):
            App.months.enqueue_many(jobs=[(Report(month=1), "a")], then=then)  # type: ignore[call-overload]
        with pytest.raises(InvalidArgument, match="queue 'keyed' has unique="):
            App.keyed.enqueue_many(["a"], then=then)
        assert t.enqueued(App.months) == []


@pytest.mark.parametrize(
    ("then", "error"),
    [
        (App.years.with_payload(7), InvalidPayload),  # type: ignore[arg-type]
        (App.years.with_payload("a" * 30), PayloadTooLarge),
        (App.dead.with_payload("a"), InvalidPayload),  # type: ignore[arg-type]
    ],
)
def test_a_follow_up_that_cannot_be_stored_is_refused_before_its_members(then: Any, error: type[Exception]) -> None:
    with harness(App) as t:
        with pytest.raises(error):
            App.months.enqueue_many(months(), then=then)
        assert t.enqueued(App.months) == []


def two_thousand() -> Iterator[Report]:
    yield from months(BATCH + 10)
    raise ZeroDivisionError


def some_bad() -> Iterator[Any]:
    yield from months(BATCH + 10)
    yield "no report"


@pytest.mark.parametrize(
    ("payloads", "error", "stored"),
    [
        (two_thousand, ZeroDivisionError, BATCH),
        (some_bad, InvalidPayload, BATCH),
        (lambda: months(3 * BATCH), QueueFull, 2 * BATCH),
    ],
)
def test_after_an_error_in_the_middle_there_is_no_follow_up(payloads: Any, error: type[Exception], stored: int) -> None:
    with harness(App) as t:
        with pytest.raises(error) as raised:
            App.months.enqueue_many(payloads(), then=App.years.with_payload("2026"))
        assert len(getattr(raised.value, "enqueued", range(stored))) == stored
        t.drain(raise_errors=False)
        assert t.app.ended == []


class Far(MemoryEngine):
    """Its fan-ins fail at one verb."""

    def __init__(self, verb: str, answer: Any) -> None:
        super().__init__(MemoryStore(), incarnation="p")
        self.calls = self.fan_ins

        def fail(*_: Any) -> Any:
            if isinstance(answer, Exception):
                raise answer
            return answer

        setattr(self.fan_ins, verb, fail)


@pytest.mark.parametrize(
    ("verb", "answer", "error", "stored"),
    [
        ("begin", EngineUnavailable("no network"), EnqueueFailed, 0),
        ("grow", EngineUnavailable("no network"), EnqueueFailed, 0),
        ("grow", False, EnqueueFailed, 0),
        ("seal", EngineUnavailable("no network"), EnqueueUncertain, 7),
        ("seal", False, EnqueueFailed, 7),
    ],
)
def test_an_engine_that_fails_is_told(verb: str, answer: Any, error: type[Exception], stored: int) -> None:
    engine = Far(verb, answer)
    producer = Producer(engine, options=lambda queue: queue.options)
    with App.months.connected(producer), pytest.raises(error) as raised:
        App.months.enqueue_many(months(), then=App.years.with_payload("2026"))
    assert len(raised.value.enqueued) == stored  # type: ignore[attr-defined]
    assert engine.stats("months").ready == stored
    if verb == "grow":
        assert engine.store.fans.known == {}, "it is dropped"


class Bare:
    """An engine of another author, without fan-ins."""

    def __init__(self) -> None:
        self._inner = MemoryEngine(MemoryStore(), incarnation="p")

    def __getattr__(self, name: str) -> Any:
        if name == "fan_ins":
            raise AttributeError(name)
        return getattr(self._inner, name)


def test_an_engine_without_fan_ins_says_so() -> None:
    producer = Producer(Bare(), options=lambda queue: queue.options)  # type: ignore[arg-type]
    with App.months.connected(producer), pytest.raises(EnqueueFailed, match="the engine 'memory' has no fan-ins"):
        App.months.enqueue_many(months(), then=App.years.with_payload("2026"))
    with App.months.connected(producer):
        assert len(App.months.enqueue_many(months())) == 7


def test_the_state_of_a_fan_in_can_be_looked_at() -> None:
    engine = MemoryEngine(MemoryStore(), incarnation="p")
    producer = Producer(engine, options=lambda queue: queue.options)
    with App.months.connected(producer):
        made = App.months.enqueue_many(months(), then=App.years.with_payload("2026"))
    assert engine.fan_ins.look("months", made.follow_up) == FanIn(7, True, Ended())
