"""One run: every way in which it can end, at every attempt."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from contextvars import ContextVar
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from framework import (
    Context,
    DeadLetter,
    Discard,
    Failure,
    JobInterrupted,
    Queue,
    Reject,
    RetryLater,
    RetryPolicy,
    Snooze,
    WorkerApp,
)
from framework.model.events import Event, HookFailed, JobFinished
from framework.model.job import Lease
from framework.model.outcome import MOST_UNSPENT, Kind, Outcome
from tests.unit.helpers import a_job, a_lease, an_executor

MOST = 3  # attempts


class GaveUp(Exception):
    pass


class App(WorkerApp):
    dead = Queue[DeadLetter]("dead")
    jobs = Queue[int]("jobs", dead_letter=dead)
    later = Queue[int]("later")

    def __init__(self, end: BaseException | None = None) -> None:
        self.end = end
        self.payload: Any = None
        self.ctx: Any = None
        self.failures: list[Failure] = []

    @jobs.handler
    def job(self, number: int, ctx: Context) -> None:
        self.payload, self.ctx = number, ctx
        if self.end is not None:
            raise self.end

    @later.handler
    async def later_job(self, number: int, ctx: Context) -> None:
        await asyncio.sleep(0)
        self.job(number, ctx)

    @dead.handler
    def letter(self, letter: DeadLetter, ctx: Context) -> None:
        self.payload, self.ctx = letter, ctx
        if self.end is not None:
            raise self.end

    def on_failure(self, failure: Failure, ctx: Context) -> None:
        self.failures.append(failure)


POLICY = RetryPolicy(max_retries=MOST - 1, first_delay=8, factor=2, jitter=False, give_up_on=(GaveUp,))
DONE, RETRY, DEAD = Kind.SUCCEEDED, Kind.RETRIED, Kind.DEAD_LETTERED


def run(app: App, lease: Lease, events: list[Event] | None = None) -> Outcome:
    executor = an_executor(app, events, lease.queue, retry=POLICY, is_dead_letter=lease.queue == "dead")
    attempt = executor.attempt(lease)
    if executor.handler.is_async:

        async def call(handler: Awaitable[Any]) -> Any:
            return await handler

        return asyncio.run(executor.run_async(attempt, call=call))
    return executor.run(attempt)


# end, reason, error type, (kind, delay) of attempts 1, 2 and 3
ENDS: list[tuple[BaseException | None, str, str, list[tuple[Kind, float]]]] = [
    (None, "", "", [(DONE, 0), (DONE, 0), (DONE, 0)]),
    (ValueError("x"), "error", "ValueError", [(RETRY, 8), (RETRY, 16), (DEAD, 0)]),
    (GaveUp("x"), "error", "tests.unit.test_executor.GaveUp", [(DEAD, 0), (DEAD, 0), (DEAD, 0)]),
    (RetryLater("x"), "error", "framework.RetryLater", [(RETRY, 8), (RETRY, 16), (DEAD, 0)]),
    (RetryLater("x", delay=1), "error", "framework.RetryLater", [(RETRY, 1), (RETRY, 1), (DEAD, 0)]),
    (RetryLater("x", delay=-9), "error", "framework.RetryLater", [(RETRY, 0), (RETRY, 0), (DEAD, 0)]),
    (RetryLater("x", delay=7, spend=False), "", "", [(Kind.RELEASED, 7)] * 3),
    (RetryLater("x", spend=False), "", "", [(Kind.RELEASED, 8), (Kind.RELEASED, 16), (Kind.RELEASED, 32)]),
    (Reject("x"), "rejected", "framework.Reject", [(DEAD, 0), (DEAD, 0), (DEAD, 0)]),
    (Snooze(delay=7), "", "", [(Kind.RELEASED, 7)] * 3),
    (Snooze(), "", "", [(Kind.RELEASED, 0)] * 3),
    (Discard("x"), "", "", [(Kind.DISCARDED, 0)] * 3),
    (JobInterrupted("timeout"), "timeout", "timeout", [(RETRY, 8), (RETRY, 16), (DEAD, 0)]),
    (JobInterrupted("draining"), "", "", [(Kind.RELEASED, 0)] * 3),
    (SystemExit(3), "error", "SystemExit", [(RETRY, 8), (RETRY, 16), (DEAD, 0)]),
    (KeyboardInterrupt(), "error", "KeyboardInterrupt", [(RETRY, 8), (RETRY, 16), (DEAD, 0)]),
    (asyncio.CancelledError(), "error", "asyncio.exceptions.CancelledError", [(RETRY, 8), (RETRY, 16), (DEAD, 0)]),
    (ExceptionGroup("x", [ValueError()]), "error", "ExceptionGroup", [(RETRY, 8), (RETRY, 16), (DEAD, 0)]),
    (MemoryError(), "error", "MemoryError", [(RETRY, 8), (RETRY, 16), (DEAD, 0)]),
    (RecursionError("x"), "error", "RecursionError", [(RETRY, 8), (RETRY, 16), (DEAD, 0)]),
]


@pytest.mark.parametrize("queue", ["jobs", "later"])
@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize(
    ("end", "reason", "error_type", "outcomes"),
    ENDS,
    ids=[f"{type(row[0]).__name__}{index}" for index, row in enumerate(ENDS)],
)
def test_outcomes(
    end: BaseException | None, reason: str, error_type: str, outcomes: list[tuple[Kind, float]], number: int, queue: str
) -> None:
    app, events = App(end), list[Event]()
    outcome = run(app, a_lease(b"7", queue=queue, attempt=number), events)
    assert (outcome.kind, outcome.delay) == outcomes[number - 1]
    assert app.payload == 7
    (event,) = events
    assert isinstance(event, JobFinished)
    assert (event.outcome, event.attempt, event.delay) == (outcome.kind.value, number, outcome.delay)
    assert (event.reason or "", event.error_type, event.wait, event.max_attempts) == (reason, error_type, 10.0, MOST)
    failure = outcome.failure
    if reason:
        assert failure is not None
        assert app.failures == [failure]
        assert failure.exception is end
        assert (failure.attempt, failure.reason, failure.queue, failure.delivery) == (number, reason, queue, number)
        assert (failure.error_type, failure.started_at, failure.ended_at) == (error_type, 1010.0, 1010.0)
        assert "in job" in failure.traceback
    else:
        assert failure is None
        assert app.failures == []


def test_a_wait_that_spends_no_attempt_says_why_and_ends_after_many() -> None:
    end, events = RetryLater("answered 429", delay=3, spend=False), list[Event]()
    lease = replace(a_lease(b"7", queue="jobs", attempt=2), delivery=MOST_UNSPENT + 1)
    outcome = run(App(end), lease, events)
    assert (outcome.kind, outcome.message) == (Kind.RELEASED, "answered 429")
    assert isinstance(events[0], JobFinished)
    assert events[0].message == "answered 429"
    outcome = run(App(end), replace(lease, delivery=MOST_UNSPENT + 2))
    assert (outcome.kind, outcome.delay) == (RETRY, 3)
    outcome = run(App(end), replace(lease, attempt=MOST, delivery=MOST_UNSPENT + MOST))
    assert outcome.kind is DEAD
    assert outcome.failure is not None
    assert outcome.failure.message == "answered 429"


@pytest.mark.parametrize(
    ("end", "kind", "number"),
    [
        (None, Kind.ARCHIVED, 1),
        (Discard("x"), Kind.DISCARDED, 1),
        (Snooze(delay=1), Kind.RELEASED, 1),
        (ValueError(), RETRY, 1),
        (ValueError(), DEAD, MOST),
        (Reject("x"), DEAD, 1),
        (JobInterrupted("draining"), Kind.RELEASED, 1),
    ],
)
def test_dead_letters(end: BaseException | None, kind: Kind, number: int) -> None:
    history = (Failure(1, "error", "first"), Failure(2, "timeout", "second"))
    app = App(end)
    outcome = run(app, a_lease(b"[1]", queue="dead", home="jobs", attempt=number, history=history))
    assert outcome.kind == kind
    assert app.payload == DeadLetter("j1", "jobs", [1], "timeout", history)
    assert app.ctx.queue == "dead"


def test_a_letter_with_an_undecodable_payload_reaches_its_handler() -> None:
    app = App()
    assert run(app, a_lease(b"\xff{", queue="dead", home="jobs")).kind == Kind.ARCHIVED
    assert (app.payload.payload, app.payload.reason, app.payload.attempts) == ("\ufffd{", "error", ())


@pytest.mark.parametrize("queue", ["jobs", "later"])
@pytest.mark.parametrize("payload", [b'"hunter2"', b"{", b"", b"\xff", b"null"])
def test_undecodable_payload_is_a_dead_letter_at_once(payload: bytes, queue: str) -> None:
    app, events = App(), list[Event]()
    outcome = run(app, a_lease(payload, queue=queue), events)
    assert (outcome.kind, app.payload) == (DEAD, None)
    assert outcome.failure is not None
    failure = outcome.failure
    assert (failure.reason, failure.error_type, failure.traceback) == ("invalid_payload", "invalid_payload", "")
    assert "hunter2" not in failure.message
    assert app.failures == [failure]


def test_context() -> None:
    app = App()
    job = a_job(b"7", not_before=1003.0, scheduled_for=1003.0)
    executor = an_executor(app, retry=POLICY, timeout=30)
    executor.run(executor.attempt(Lease(job, "jobs", 2, 5, 1003.0, None)))
    ctx = app.ctx
    assert (ctx.job_id, ctx.queue, ctx.attempt, ctx.max_attempts) == ("j1", "jobs", 2, MOST)
    assert ctx.enqueued_at == datetime.fromtimestamp(1000, UTC)
    assert ctx.scheduled_for == datetime.fromtimestamp(1003, UTC)
    assert (ctx.remaining, ctx.should_stop) == (30.0, False)
    ctx.log.bind(a=1).info("x", b=2)


def test_context_counts_down_to_the_soft_timeout() -> None:
    now = [100.0]
    ctx = Context("j", "q", 1, 1, datetime.now(UTC), None, None, 130.0, lambda _: now[0] > 120, lambda: now[0])  # type: ignore[arg-type]
    assert (ctx.remaining, ctx.should_stop) == (30.0, False)
    now[0] = 200.0
    assert (ctx.remaining, ctx.should_stop) == (0.0, True)
    assert "_deadline" not in repr(ctx)


def test_what_a_handler_has_left_does_not_shrink_while_everything_stands_still() -> None:
    app, still = App(), [10.0]
    executor = an_executor(app, timeout=30, stood_still=lambda: still[0])
    executor.run(executor.attempt(a_lease(b"7")))
    still[0] = 8.0  # the clock of the test stands: as if two seconds had passed
    assert app.ctx.remaining == 28.0


def test_no_timeout_leaves_remaining_open() -> None:
    app = App()
    executor = an_executor(app, timeout=None)
    executor.run(executor.attempt(a_lease(b"7")))
    assert app.ctx.remaining is None


def test_on_failure_that_fails_changes_nothing() -> None:
    class Broken(App):
        def on_failure(self, failure: Failure, ctx: Context) -> None:
            raise RuntimeError("reporter down")

    events: list[Event] = []
    assert run(Broken(ValueError()), a_lease(b"7"), events).kind == RETRY
    failed, finished = events
    assert isinstance(failed, HookFailed)
    assert (failed.hook, failed.queue, failed.job_id, failed.error) == ("on_failure", "jobs", "j1", "reporter down")
    assert "reporter down" in failed.traceback
    assert isinstance(finished, JobFinished)


class Bare(Snooze):
    def __init__(self) -> None: ...


class BareRetry(RetryLater):
    def __init__(self) -> None: ...


class Endless(Snooze):
    def __init__(self) -> None:
        self.delay = float("nan")


class Pretends(Exception):
    @property
    def __class__(self) -> Any:
        return Snooze


class Closed(type):
    def __subclasscheck__(cls, other: type) -> bool:
        raise RuntimeError("subclasscheck")


class GivenUp(Exception, metaclass=Closed):
    pass


@pytest.mark.parametrize("queue", ["jobs", "later"])
@pytest.mark.parametrize(
    ("end", "kind", "delay"),
    [
        (Bare(), Kind.RELEASED, 0),
        (BareRetry(), RETRY, 8),
        (Endless(), RETRY, 8),
        (Pretends(), RETRY, 8),
        (ValueError("with a class of give_up_on that raises"), RETRY, 8),
    ],
)
def test_exceptions_that_are_not_what_they_say(end: BaseException, kind: Kind, delay: float, queue: str) -> None:
    policy = RetryPolicy(max_retries=MOST - 1, first_delay=8, factor=2, jitter=False, give_up_on=(GivenUp,))
    app = App(end)
    executor = an_executor(app, [], queue, retry=policy)
    attempt = executor.attempt(a_lease(b"7", queue=queue))

    async def call(handler: Awaitable[Any]) -> Any:
        return await handler

    if queue == "later":
        outcome = asyncio.run(executor.run_async(attempt, call=call))
    else:
        outcome = executor.run(attempt)
    assert (outcome.kind, outcome.delay) == (kind, delay)


def test_an_early_clock_makes_no_negative_wait() -> None:
    executor = an_executor(App())
    assert executor.attempt(Lease(a_job(), "jobs", 1, 1, 99_999.0, None)).wait == 0.0


def test_what_a_sync_handler_puts_into_its_context_ends_with_its_job() -> None:
    """As with an async one. What was there before, from a lifespan, is seen by every job.

    Verified: without a context of its own the second job finds what the first has set.
    """
    tenant: ContextVar[str] = ContextVar("tenant", default="nobody")
    found: list[str] = []

    class Leaky(App):
        def job(self, number: int, ctx: Context) -> None:
            found.append(tenant.get())
            tenant.set(f"of job {number}")

    executor = an_executor(Leaky())
    for number in (b"1", b"2"):
        executor.run(executor.attempt(a_lease(number)))
    tenant.set("of the lifespan")
    executor.run(executor.attempt(a_lease(b"3")))
    assert found == ["nobody", "nobody", "of the lifespan"]


@pytest.mark.parametrize("heard", [True, False])
def test_a_success_that_nobody_hears_is_not_told_and_a_failure_always_is(heard: bool) -> None:
    events: list[Event] = []
    asked: list[tuple[type[Event], str]] = []

    def wants(kind: type[Event], outcome: str) -> bool:
        asked.append((kind, outcome))
        return heard

    app = App()
    executor = an_executor(app, events, wants=wants)
    for end in (None, ValueError(), Discard("not needed")):
        app.end = end
        executor.run(executor.attempt(a_lease(b"7")))
    assert [event.outcome for event in events if isinstance(event, JobFinished)] == ["succeeded"] * heard + [
        "retried",
        "discarded",
    ]
    assert asked == [(JobFinished, "succeeded")], "it is asked once, not for every job"
