"""Jobs that end in a transaction: with the effects of their handler, or not at all."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import psycopg
import pytest

from framework import Context, DeadLetter, Queue, RetryPolicy, WorkerApp
from framework.engine.port import open_engine
from framework.engine.postgres import upkeep
from framework.model.attempt import NoTransactions
from framework.model.options import QueueOptions
from framework.model.outcome import SUCCEEDED, Kind, Outcome, Settlement
from framework.service.producer import Producer
from tests.contract.helpers import a_failure
from tests.proxy import Proxy
from tests.support import postgres
from tests.unit.connections import KINDS
from tests.unit.helpers import a_job, a_lease, an_executor

URL = "postgresql://postgres@127.0.0.1:{}/postgres"
LETTERS = QueueOptions("letters", is_dead_letter=True, service="tests")


class Shop(WorkerApp):
    letters = Queue[DeadLetter]("letters")
    jobs = Queue[int]("jobs", retry=RetryPolicy(max_retries=3), dead_letter=letters)
    ajobs = Queue[int]("ajobs")
    act: ClassVar[Callable[[Context], Any]]

    @jobs.handler
    def do(self, number: int, ctx: Context) -> None:
        type(self).act(ctx)

    @ajobs.handler
    async def ado(self, number: int, ctx: Context) -> None:
        await type(self).act(ctx)

    @letters.handler
    def bury(self, letter: DeadLetter, ctx: Context) -> None:
        type(self).act(ctx)


class World:
    """Owners of jobs, each on a machine of its own, and what the handlers have left in the table `effect`."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._opened: list[Any] = []

    def open(self, machine: str = "here", port: int = 0, options: str = "") -> Any:
        url = URL.format(port or postgres.shared().port)
        engine = open_engine(f"{url}?local_dir={self._place}/{machine}{options}", incarnation=machine)
        self._opened.append(engine)
        engine.open([QueueOptions("jobs", dead_letter="letters"), QueueOptions("ajobs"), LETTERS])
        return engine

    def take(self, engine: Any, queue: str = "jobs", *, chosen: bool = False) -> Any:
        engine.enqueue([a_job(b"1", queue, chosen_id=chosen)])
        return self.claimed(engine, queue)

    def claimed(self, engine: Any, queue: str = "jobs") -> Any:
        (lease,) = engine.claim([queue], limit=1, wait=1)
        return lease

    def run(self, engine: Any, lease: Any, act: Callable[[Context], Any]) -> Outcome:
        """A worker's part: the executor, then the settlement."""
        Shop.act = staticmethod(act)  # type: ignore[assignment]
        executor = an_executor(Shop(), [], lease.queue)
        executor.engine = engine
        attempt = executor.attempt(lease)
        if executor.handler.is_async:
            outcome = asyncio.run(executor.run_async(attempt, call=lambda made: made))
        else:
            outcome = executor.run(attempt)
        engine.settle([Settlement(lease, outcome)])
        return outcome

    def effects(self) -> int:
        with psycopg.connect(postgres.shared().url) as connection:
            return int(connection.execute("select count(*) from effect").fetchone()[0])  # type: ignore[index]

    def close(self) -> None:
        for engine in self._opened:
            engine.close()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    postgres.empty(postgres.shared())
    postgres.shared().execute("create table if not exists effect (n int); delete from effect")
    made = World(tmp_path)
    yield made
    made.close()


def jobs(engine: Any, queue: str = "jobs") -> int:
    """Jobs of a queue in all states."""
    with psycopg.connect(postgres.shared().url) as connection:
        tables = [
            f"(select count(*) from worker.{table} where queue = %(queue)s)" for table in ("job", "later", "dead")
        ]
        found = connection.execute(f"select {' + '.join(tables)}", {"queue": engine.numbers[queue]}).fetchone()
        assert found is not None
        return int(found[0])


@pytest.mark.parametrize("kind", KINDS)
async def test_the_commit_ends_the_job_and_the_rollback_does_not(world: World, kind: str) -> None:
    opened, awaits = KINDS[kind]
    engine = world.open()
    lease = world.take(engine, chosen=True)
    for commit in (False, True):
        async with opened(postgres.shared().url) as (connection, execute, end):
            await execute("insert into effect values (1)")
            if awaits:
                await engine.acomplete(lease, connection)
            else:
                engine.complete(lease, connection)
            assert engine.lost([lease]) == [], "it is about to end, so its handler is not interrupted"
            await end(commit)
        assert engine.completed(lease) == commit
        assert (jobs(engine), world.effects()) == ((0, 1) if commit else (1, 0))
    engine.settle([Settlement(lease, SUCCEEDED)])
    assert not engine.enqueue([a_job(chosen_id=True)])[0].duplicate, "its id is free again"


def test_effects_further_jobs_and_the_end_commit_together(world: World) -> None:
    engine = world.open()
    producer = Producer(engine, options=lambda queue: queue.options)

    def act(ctx: Context) -> None:
        with ctx.transaction() as connection:
            connection.execute("insert into effect values (1)")
            Shop.ajobs.enqueue(2, connection=connection)
            if ctx.attempt == 1:
                raise ValueError("rolls back")

    with Shop.ajobs.connected(producer):
        assert world.run(engine, world.take(engine), act).kind is Kind.RETRIED
        assert (jobs(engine), jobs(engine, "ajobs"), world.effects()) == (1, 0, 0)
        postgres.shared().execute("insert into worker.shift values (1000)")
        engine.maintain()
        assert world.run(engine, world.claimed(engine), act) is SUCCEEDED
    assert (jobs(engine), jobs(engine, "ajobs"), world.effects()) == (0, 1, 1)


def test_the_same_on_an_event_loop(world: World) -> None:
    engine = world.open()

    async def act(ctx: Context) -> None:
        async with ctx.transaction() as connection:
            await connection.execute("insert into effect values (1)")

    for _ in range(2):
        assert world.run(engine, world.take(engine, "ajobs"), act) is SUCCEEDED
    assert (jobs(engine, "ajobs"), world.effects()) == (0, 2)


def test_a_dead_letter_that_is_completed_is_archived(world: World) -> None:
    engine = world.open()
    lease = world.take(engine)
    engine.settle([Settlement(lease, Outcome(Kind.DEAD_LETTERED, failure=a_failure(lease)))])

    def act(ctx: Context) -> None:
        with ctx.transaction():
            pass

    assert world.run(engine, world.claimed(engine, "letters"), act).kind is Kind.ARCHIVED
    assert jobs(engine, "letters") == 1


def test_who_has_lost_the_job_commits_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "PATIENCE", -1.0)
    engine, other = world.open("here"), world.open("there")
    lease = world.take(engine)

    def act(ctx: Context) -> None:
        with ctx.transaction() as connection:
            connection.execute("insert into effect values (1)")
            assert len(other.rescue()) == 1

    Shop.act = staticmethod(act)  # type: ignore[assignment]
    executor = an_executor(Shop(), [], "jobs")
    executor.engine = engine
    assert executor.run(executor.attempt(lease)).kind is Kind.LEASE_LOST
    assert (jobs(engine), world.effects()) == (1, 0)


def test_a_commit_whose_answer_is_lost_is_known_all_the_same(world: World) -> None:
    proxy = Proxy(postgres.shared().port)
    engine = world.open(port=proxy.port)

    def act(ctx: Context) -> None:
        with ctx.transaction() as connection:
            connection.execute("insert into effect values (1)")
            proxy.swallow_answer(b"COMMIT")

    async def aact(ctx: Context) -> None:
        async with ctx.transaction() as connection:
            await connection.execute("insert into effect values (1)")
            proxy.swallow_answer(b"COMMIT")

    assert world.run(engine, world.take(engine), act) is SUCCEEDED
    assert world.run(engine, world.take(engine, "ajobs"), aact) is SUCCEEDED
    assert (jobs(engine), jobs(engine, "ajobs"), world.effects()) == (0, 0, 2)
    proxy.close()


def test_a_connection_that_the_server_has_ended_is_not_used_again(world: World) -> None:
    engine = world.open()

    def act(ctx: Context) -> None:
        with ctx.transaction() as connection:
            pids.append(connection.info.backend_pid)

    pids: list[int] = []
    for _ in range(2):
        assert world.run(engine, world.take(engine), act) is SUCCEEDED
    assert pids[0] == pids[1]
    with psycopg.connect(postgres.shared().url, autocommit=True) as connection:
        connection.execute("select pg_terminate_backend(%s, 10000)", [pids[0]])
    assert world.run(engine, world.take(engine), act) is SUCCEEDED


def test_a_failure_after_the_commit_changes_nothing(world: World, caplog: pytest.LogCaptureFixture) -> None:
    engine = world.open()

    def act(ctx: Context) -> None:
        with psycopg.connect(postgres.shared().url) as connection:
            connection.execute("insert into effect values (1)")
            ctx.complete(connection)
        raise ValueError("too late")

    with caplog.at_level(logging.WARNING):
        assert world.run(engine, world.take(engine), act) is SUCCEEDED
    assert "failed after its job was completed: ValueError" in caplog.text
    assert (jobs(engine), world.effects()) == (0, 1)


def test_a_forgotten_commit_fails_the_attempt(world: World) -> None:
    engine = world.open()

    def act(ctx: Context) -> None:
        with psycopg.connect(postgres.shared().url) as connection:
            ctx.complete(connection)
            connection.rollback()

    outcome = world.run(engine, world.take(engine), act)
    assert outcome.failure is not None
    assert "in a transaction that is not committed" in outcome.failure.message
    assert jobs(engine) == 1


def test_a_transaction_that_is_left_open_is_ended_by_the_server(world: World) -> None:
    engine = world.open()
    lease = world.take(engine)
    with psycopg.connect(postgres.shared().url) as connection:
        engine.complete(lease, connection)
        shown = connection.execute("show idle_in_transaction_session_timeout").fetchone()
        assert shown == ("10s",)


def test_other_engines_say_that_they_cannot() -> None:
    def act(ctx: Context) -> None:
        ctx.complete(object())

    Shop.act = staticmethod(act)  # type: ignore[assignment]
    executor = an_executor(Shop(), [], "jobs")
    executor.engine = NoTransactions("spool")
    failure = executor.run(executor.attempt(a_lease(b"1"))).failure
    assert failure is not None
    assert failure.message == "ctx.complete(): the engine 'spool' has no transactions; PostgreSQL has"
