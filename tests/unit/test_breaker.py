"""The breaker of a queue: what it counts, what it spends, and an outage of an hour."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import replace

import pytest

from framework import Breaker, RetryPolicy
from framework.engine.memory.engine import MemoryEngine, MemoryStore
from framework.model.events import Event, QueueHeld, QueueReopened
from framework.model.job import Failure, Job, Lease, Reason
from framework.model.options import QueueOptions
from framework.model.outcome import (
    MOST_UNSPENT,
    SUCCEEDED,
    JobInterrupted,
    Kind,
    Outcome,
    RetryLater,
    Settlement,
    fail,
)
from framework.worker.executor.breaking import Guard

POLICY = RetryPolicy(max_retries=3, first_delay=1, jitter=False)
DOWN = ConnectionError("refused")


class World:
    """One process's guard, what it does to the engine, and what it tells."""

    def __init__(self, breaker: Breaker) -> None:
        self.now = 0.0
        self.held: list[float] = []
        self.events: list[Event] = []
        self.guard = Guard(
            "jobs", breaker, hold=lambda _, seconds: self.held.append(seconds), emit=self.events.append,
            clock=lambda: self.now,
        )  # fmt: skip

    def fails(self, error: BaseException = DOWN, *, reason: Reason = "error", **fields: object) -> Outcome:
        lease = a_lease(**fields)
        failure = Failure(lease.attempt, reason, str(error), error_type=type(error).__name__)
        return self.guard.failed(lease, error, fail(failure, POLICY))

    def works(self, *, canary: bool = False) -> None:
        self.guard.succeeded(a_lease(canary=canary))


def a_lease(**fields: object) -> Lease:
    job = Job("a", b"0" * 16, "jobs", b"{}", {}, enqueued_at=1.0)
    return replace(Lease(job, "jobs", 1, 1, 1.0, None), **fields)  # type: ignore[arg-type]


def test_a_share_of_failures_among_the_last_attempts_holds_the_queue() -> None:
    world = World(Breaker(failures=0.5, of=4, hold=10))
    for _ in range(3):
        world.works()
    world.fails()
    assert world.held == []
    assert world.fails().kind is Kind.RETRIED, "the attempt that holds the queue has failed like any other"
    assert world.held == [10]
    assert world.events == [QueueHeld("jobs", 2, 4, "ConnectionError", 10)]


def test_what_runs_already_when_the_queue_is_held_spends_no_attempt() -> None:
    world = World(Breaker(of=2, hold=10))
    world.fails()
    assert world.held == [10]
    found = world.fails()
    assert (found.kind, found.delay, found.failure) == (Kind.RELEASED, 10, None)
    assert found.message == "its queue is held: refused"
    world.now = 11.0
    assert world.fails().kind is Kind.RETRIED
    assert world.held == [10, 10]


def test_a_canary_that_fails_holds_the_queue_on_and_spends_no_attempt() -> None:
    world = World(Breaker(of=20, hold=10))
    assert world.fails(canary=True).kind is Kind.RELEASED
    assert (world.held, world.events) == ([10], [])


def test_a_canary_that_succeeds_reopens_the_queue() -> None:
    world = World(Breaker(of=2, hold=10))
    world.fails()
    world.works()
    assert world.held == [10]
    world.works(canary=True)
    assert world.held == [10, 0]
    assert world.events[1:] == [QueueReopened("jobs", "a")]
    assert world.fails().kind is Kind.RETRIED


def test_a_job_that_is_a_canary_for_ever_is_charged_at_last() -> None:
    world = World(Breaker(hold=10))
    assert world.fails(canary=True, delivery=MOST_UNSPENT).kind is Kind.RELEASED
    assert world.fails(canary=True, delivery=MOST_UNSPENT + 1).kind is Kind.RETRIED


@pytest.mark.parametrize(
    ("types", "error", "counts"),
    [
        ((), ValueError(), True),
        ((OSError,), DOWN, True),
        ((OSError,), ValueError(), False),
        ((TimeoutError,), JobInterrupted("timeout"), True),
        ((OSError,), JobInterrupted("timeout"), True),
        ((ConnectionError,), JobInterrupted("timeout"), False),
    ],
)
def test_error_types_say_what_counts(
    types: tuple[type[BaseException], ...], error: BaseException, counts: bool
) -> None:
    world = World(Breaker(failures=1, of=2, error_types=types))
    world.fails(error)
    world.fails(error)
    assert bool(world.held) is counts


def test_the_cause_of_an_error_counts() -> None:
    world = World(Breaker(failures=0.1, of=2, error_types=(OSError,)))
    error = RetryLater("later")
    error.__cause__ = DOWN
    world.fails(error)
    assert world.held


@pytest.mark.parametrize("reason", ["rejected", "invalid_payload"])
def test_failures_of_the_job_itself_do_not_count(reason: Reason) -> None:
    world = World(Breaker(failures=0.1, of=2))
    world.fails(reason=reason)
    assert world.held == []


def test_an_outage_of_an_hour_costs_no_job_and_hardly_an_attempt() -> None:
    """Two processes; 20 jobs come each second, and could be done ten times as fast."""
    outage = Outage(Breaker(failures=0.5, of=20, error_types=(ConnectionError,), hold=30))
    outage.run(120)
    outage.down = True
    outage.run(3600)
    outage.down = False
    assert outage.waiting > 20 * 3500
    back = outage.now
    while not outage.full:
        outage.step()
    assert outage.now - back <= 10
    while outage.took or outage.waiting:
        outage.step()
    assert outage.dead == 0
    assert outage.attempts["failed"] <= sum(outage.attempts.values()) / 100
    assert outage.attempts["succeeded"] == outage.stored
    assert [type(event) for event in outage.events] == [QueueHeld, QueueReopened]


class Outage:
    """Two processes with a guard each on one store, in steps of 0.2 seconds."""

    def __init__(self, breaker: Breaker) -> None:
        self.now, self.stored, self.down, self.full, self.took = 1_700_000_000.0, 0, False, False, 0
        self.attempts: Counter[str] = Counter()
        self.events: list[Event] = []
        store = MemoryStore()
        self._options = QueueOptions("jobs", breaker=breaker, max_length=None)
        self._engines = [MemoryEngine(store, incarnation=f"{n}", clock=lambda: self.now) for n in range(2)]
        self._guards = [
            Guard("jobs", breaker, hold=engine.hold, emit=self.events.append, clock=lambda: self.now)
            for engine in self._engines
        ]
        for engine in self._engines:
            engine.open([self._options])

    @property
    def waiting(self) -> int:
        stats = self._engines[0].stats("jobs")
        return (stats.ready or 0) + (stats.delayed or 0)

    @property
    def dead(self) -> int:
        return self._engines[0].stats("jobs").dead or 0

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            self._enqueue(4)
            self.step()

    def step(self) -> None:
        self.took = 0
        for engine, guard in zip(self._engines, self._guards, strict=True):
            leases = engine.claim(["jobs"], limit=20, wait=0)
            self.full = len(leases) == 20
            self.took += len(leases)
            engine.settle([Settlement(lease, self._end(guard, lease)) for lease in leases])
        self.now += 0.2

    def _end(self, guard: Guard, lease: Lease) -> Outcome:
        self.attempts["failed" if self.down else "succeeded"] += 1
        if self.down:
            failure = Failure(lease.attempt, "error", "refused", error_type="ConnectionError")
            return guard.failed(lease, DOWN, fail(failure, self._options.retry))
        guard.succeeded(lease)
        return SUCCEEDED

    def _enqueue(self, count: int) -> None:
        self.stored += count
        self._engines[0].enqueue([
            Job(os.urandom(8).hex(), os.urandom(16), "jobs", b"{}", {}, enqueued_at=self.now) for _ in range(count)
        ])  # fmt: skip
