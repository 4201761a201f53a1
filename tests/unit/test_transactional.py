"""Enqueues in a transaction of the caller's: on its commit, or not at all."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from framework import Queue, WorkerApp
from framework.engine.port import open_engine
from framework.model.errors import Duplicate, InvalidPayload, QueueFull
from framework.service.producer import Producer
from tests.support import postgres

Execute = Callable[[str], Awaitable[Any]]
Tx = tuple[Any, Execute, Callable[[bool], Awaitable[None]]]


class Shop(WorkerApp):
    jobs = Queue[int]("jobs", max_length=3)


async def later(value: Any) -> Any:
    return value


@asynccontextmanager
async def psycopg_sync(url: str) -> AsyncIterator[Tx]:
    import psycopg
    from psycopg.rows import dict_row

    with psycopg.connect(url, row_factory=dict_row) as connection:  # type: ignore[arg-type]
        end = {True: connection.commit, False: connection.rollback}
        yield connection, lambda sql: later(connection.execute(sql)), lambda commit: later(end[commit]())  # type: ignore[call-overload]


@asynccontextmanager
async def psycopg_async(url: str) -> AsyncIterator[Tx]:
    import psycopg

    async with await psycopg.AsyncConnection.connect(url) as connection:
        end = {True: connection.commit, False: connection.rollback}
        yield connection, lambda sql: connection.execute(sql), lambda commit: end[commit]()  # type: ignore[call-overload]


@asynccontextmanager
async def asyncpg(url: str) -> AsyncIterator[Tx]:
    import asyncpg

    connection = await asyncpg.connect(url)
    transaction = connection.transaction()
    await transaction.start()
    yield connection, connection.execute, lambda commit: transaction.commit() if commit else transaction.rollback()
    await connection.close()


@asynccontextmanager
async def sqlalchemy_session(url: str) -> AsyncIterator[Tx]:
    from sqlalchemy import create_engine, text
    from sqlalchemy.orm import Session

    class Own(Session):
        """As services have it."""

    engine = create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    with Own(engine) as session:
        end = {True: session.commit, False: session.rollback}
        yield session, lambda sql: later(session.execute(text(sql))), lambda commit: later(end[commit]())
    engine.dispose()


def sqlalchemy_async(driver: str) -> Callable[[str], Any]:
    @asynccontextmanager
    async def opened(url: str) -> AsyncIterator[Tx]:
        from sqlalchemy import text
        from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

        engine = create_async_engine(url.replace("postgresql:", f"postgresql+{driver}:"))
        async with AsyncSession(engine) as session:
            end = {True: session.commit, False: session.rollback}
            yield session, lambda sql: session.execute(text(sql)), lambda commit: end[commit]()
        await engine.dispose()

    return opened


class Rollback(Exception):
    pass


@asynccontextmanager
async def django_atomic(url: str) -> AsyncIterator[Tx]:
    import os

    import django
    from django.conf import settings
    from django.db import connections, transaction

    os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "true"
    host, _, port = url.rpartition("@")[2].partition("/")[0].partition(":")
    if not settings.configured:
        place = {"ENGINE": "django.db.backends.postgresql", "NAME": "postgres", "USER": "postgres"}
        settings.configure(DATABASES={"default": {**place, "HOST": host, "PORT": port}})
        django.setup()
    atomic = transaction.atomic()
    atomic.__enter__()

    async def end(commit: bool) -> None:
        atomic.__exit__(*(None, None, None) if commit else (Rollback, Rollback(), None))

    connection = connections["default"]
    yield connection, lambda sql: later(connection.cursor().execute(sql)), end
    connections.close_all()


KINDS: dict[str, tuple[Callable[[str], Any], bool]] = {
    "psycopg": (psycopg_sync, False),
    "psycopg async": (psycopg_async, True),
    "asyncpg": (asyncpg, True),
    "Session": (sqlalchemy_session, False),
    "AsyncSession asyncpg": (sqlalchemy_async("asyncpg"), True),
    "AsyncSession psycopg": (sqlalchemy_async("psycopg"), True),
    "django": (django_atomic, False),
}


class World:
    """A producer, and what it enqueues on a caller's connection."""

    def __init__(self, url: str, place: Path) -> None:
        self.broker = open_engine(f"{url}?local_dir={place}", incarnation="p")
        self.broker.open([])
        self.producer = Producer(self.broker, options=lambda queue: queue.options)
        self.awaits = False

    async def enqueue(self, number: int, connection: Any, **options: Any) -> Any:
        with Shop.jobs.connected(self.producer):
            if self.awaits:
                return await Shop.jobs.aenqueue(number, connection=connection, **options)
            return Shop.jobs.enqueue(number, connection=connection, **options)

    def ready(self) -> int | None:
        return self.broker.stats("jobs").ready


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    postgres.empty(postgres.shared())
    made = World(postgres.shared().url, tmp_path)
    yield made
    made.producer.close()


@pytest.mark.parametrize("kind", KINDS)
async def test_the_commit_stores_and_the_rollback_does_not(world: World, kind: str) -> None:
    opened, world.awaits = KINDS[kind]
    async with opened(postgres.shared().url) as (connection, execute, end):
        await execute("create table if not exists effect (n int)")
        await world.enqueue(1, connection)
        await world.enqueue(2, connection, delay=3600)
        assert world.ready() == 0
        await end(True)
    assert (world.ready(), world.broker.stats("jobs").delayed) == (1, 1)
    async with opened(postgres.shared().url) as (connection, execute, end):
        await execute("insert into effect values (3)")
        await world.enqueue(3, connection)
        await end(False)
    assert world.ready() == 1


@pytest.mark.parametrize("kind", KINDS)
async def test_a_refusal_leaves_the_transaction_as_it_was(world: World, kind: str) -> None:
    opened, world.awaits = KINDS[kind]
    async with opened(postgres.shared().url) as (connection, execute, end):
        first = await world.enqueue(1, connection, job_id="mine")
        again = await world.enqueue(2, connection, job_id="mine")
        assert (first.duplicate, again.duplicate) == (False, True)
        with pytest.raises(Duplicate):
            await world.enqueue(2, connection, job_id="mine", on_conflict="raise")
        await world.enqueue(3, connection)
        await world.enqueue(4, connection)
        with pytest.raises(QueueFull):
            await world.enqueue(5, connection)
        await execute("select 1")
        await end(True)
    assert world.ready() == 3


async def test_an_id_that_an_open_transaction_has_is_refused_after_a_while(world: World) -> None:
    from framework.model.errors import EnqueueFailed

    async with psycopg_sync(postgres.shared().url) as (one, _, end):
        async with psycopg_sync(postgres.shared().url) as (other, _, end_other):
            await world.enqueue(1, one, job_id="mine")
            with pytest.raises(EnqueueFailed, match="still open"):
                await world.enqueue(2, other, job_id="mine")
            await world.enqueue(3, other)
            await end_other(True)
        await end(True)
    assert world.ready() == 2


async def test_a_claim_that_waits_hears_of_the_commit(world: World) -> None:
    await world.enqueue(0, None)
    assert len(world.broker.claim(["jobs"], limit=1, wait=0)) == 1
    async with psycopg_sync(postgres.shared().url) as (connection, _, end):
        await world.enqueue(1, connection)
        waiting = asyncio.create_task(asyncio.to_thread(world.broker.claim, ["jobs"], limit=1, wait=1))
        await end(True)
    (lease,) = await waiting or world.broker.claim(["jobs"], limit=1, wait=1)
    assert lease.job.payload == b"1"


async def test_what_cannot_be_used_is_named(world: World, tmp_path: Path) -> None:
    async with psycopg_async(postgres.shared().url) as (connection, _, _end):
        with pytest.raises(InvalidPayload, match="use aenqueue"):
            await world.enqueue(1, connection)
    world.awaits = True
    with pytest.raises(InvalidPayload, match=r"sqlite3.Connection: there are psycopg"):
        await world.enqueue(1, sqlite3.connect(":memory:"))
    spool = open_engine(f"spool:{tmp_path}/spool", incarnation="s")
    spool.open([])
    producer = Producer(spool, options=lambda queue: queue.options)
    with Shop.jobs.connected(producer), pytest.raises(InvalidPayload, match="'spool' has no transactions"):
        Shop.jobs.enqueue(1, connection=object())
    producer.close()
