"""`on_failure`, plain and async: it is told, within a time, and nothing that it does changes the job's end."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Awaitable
from typing import Any

import pytest

from framework import Context, Failure, Queue, RetryPolicy, WorkerApp
from framework.model.events import Event, HookFailed, JobFinished
from framework.model.outcome import Outcome
from framework.testing import harness
from tests.unit.helpers import a_lease, an_executor

ONCE = RetryPolicy(max_retries=0)


class App(WorkerApp):
    sync = Queue[int]("sync", retry=ONCE)
    asy = Queue[int]("asy", retry=ONCE)

    def __init__(self, end: BaseException | None = None) -> None:
        self.end = end
        self.told: list[str] = []

    @sync.handler
    def work(self, number: int) -> None:
        raise ValueError("x")

    @asy.handler
    async def work_async(self, number: int) -> None:
        raise ValueError("x")


class Plain(App):
    def on_failure(self, failure: Failure, ctx: Context) -> None:
        self.told.append(failure.message)
        if self.end is not None:
            raise self.end


class Async(App):
    async def on_failure(self, failure: Failure, ctx: Context) -> None:
        await asyncio.sleep(0)
        self.told.append(failure.message)
        if self.end is not None:
            raise self.end


class Gives(App):
    """Not declared async: what it returns is."""

    def on_failure(self, failure: Failure, ctx: Context) -> Awaitable[None]:
        return Async.on_failure(self, failure, ctx)  # type: ignore[arg-type]


def run(app: App, queue: str, **options: Any) -> tuple[Outcome, list[Event]]:
    events: list[Event] = []
    executor = an_executor(app, events, queue, **{"retry": ONCE, **options})
    attempt = executor.attempt(a_lease(b"1", queue=queue))

    async def call(made: Awaitable[Any]) -> Any:
        return await made

    if executor.handler.is_async:
        return asyncio.run(executor.run_async(attempt, call=call)), events
    return executor.run(attempt), events


@pytest.mark.parametrize("queue", ["sync", "asy"])
@pytest.mark.parametrize("kind", [Plain, Async, Gives])
@pytest.mark.parametrize(
    "end", [None, RuntimeError("r"), SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError(), GeneratorExit()]
)
def test_it_is_told_and_whatever_it_raises_changes_nothing(kind: Any, queue: str, end: BaseException | None) -> None:
    app = kind(end)
    outcome, events = run(app, queue)
    assert app.told == ["x"]
    assert outcome.kind.value == "dead_lettered"
    assert outcome.failure is not None
    assert outcome.failure.message == "x"
    assert [type(event) for event in events] == ([HookFailed] if end is not None else []) + [JobFinished]


@pytest.mark.parametrize("queue", ["sync", "asy"])
def test_an_async_one_that_does_not_end_is_left_behind(queue: str) -> None:
    never = threading.Event()

    class Hangs(App):
        async def on_failure(self, failure: Failure, ctx: Context) -> None:
            while not never.is_set():
                try:
                    await asyncio.sleep(0.01 if sys.exc_info()[0] is None else 0)
                except asyncio.CancelledError:
                    self.told.append("cancelled")
                    if queue == "asy":
                        return  # asyncio.run, with which this test runs it, would wait

    app = Hangs()
    outcome, events = run(app, queue, kill_after=0.2)
    never.set()
    assert outcome.kind.value == "dead_lettered"
    failed = events[0]
    assert isinstance(failed, HookFailed)
    assert failed.error == "on_failure has not ended within 0.1 s"
    assert app.told[:1] == ["cancelled"]


def test_what_it_does_to_its_failure_stays_with_it() -> None:
    class Changes(App):
        def on_failure(self, failure: Failure, ctx: Context) -> None:
            object.__setattr__(failure, "message", 5)

    outcome, _ = run(Changes(), "sync")
    assert outcome.failure is not None
    assert outcome.failure.message == "x"


@pytest.mark.parametrize("kind", [Plain, Async])
async def test_in_a_test_with_a_running_loop(kind: Any) -> None:
    app = kind()
    with harness(app) as t:
        App.sync.enqueue(1)
        App.asy.enqueue(1)
        for _ in range(2):
            try:
                await t.adrain()
            except ValueError:
                continue
    assert app.told == ["x", "x"]


@pytest.mark.parametrize("queue", ["sync", "asy"])
def test_an_assertion_of_a_test_leaves_it(queue: str) -> None:
    """pytest.fail in a fake reporter, and Ctrl-C, are meant for the test."""
    app = Plain(pytest.fail.Exception("expected no failure"))
    with harness(app) as t:
        app.worker_handlers[queue].queue.enqueue(1)
        with pytest.raises(pytest.fail.Exception):
            t.drain()
