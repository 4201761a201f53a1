"""Enqueues in a transaction of the caller's: on its commit, or not at all."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from framework import Queue, Unique, WorkerApp
from framework.engine.port import open_engine
from framework.model.errors import Duplicate, EnqueueFailed, InvalidPayload, QueueFull
from framework.model.outcome import SUCCEEDED, Settlement
from framework.service.producer import Producer
from tests.contract.helpers import take
from tests.support import postgres
from tests.unit.connections import KINDS, psycopg_async, psycopg_sync


class Shop(WorkerApp):
    jobs = Queue[int]("jobs", max_length=3)
    keyed = Queue[int]("keyed", max_length=3, unique=Unique(key=lambda number: f"k{number % 2}"))


def count(table: str) -> int:
    """Jobs that others see now: statistics may be older where counting takes long."""
    with psycopg.connect(postgres.shared().url) as connection:
        found = connection.execute(f"select count(*) from worker.{table}").fetchone()
        assert found is not None
        return int(found[0])


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

    async def enqueue_many(self, numbers: Any, connection: Any, **options: Any) -> Any:
        with Shop.jobs.connected(self.producer):
            if self.awaits:
                return await Shop.jobs.aenqueue_many(numbers, connection=connection, **options)
            return Shop.jobs.enqueue_many(numbers, connection=connection, **options)

    def ready(self) -> int:
        return count("job where owner is null")

    def delayed(self) -> int:
        return count("later")


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
    assert (world.ready(), world.delayed()) == (1, 1)
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


@pytest.mark.parametrize("kind", KINDS)
async def test_many_are_stored_by_the_commit_too(world: World, kind: str) -> None:
    opened, world.awaits = KINDS[kind]
    async with opened(postgres.shared().url) as (connection, execute, end):
        assert len(await world.enqueue_many(iter([1, 2]), connection)) == 2
        with pytest.raises(QueueFull) as full:
            await world.enqueue_many([3, 4], connection, delay=3600)
        assert len(full.value.enqueued) == 1
        with pytest.raises(InvalidPayload, match="payload 1, counted from 0"):
            await world.enqueue_many([5, "x"], connection)
        await execute("select 1")
        assert world.ready() == 0
        await end(True)
    assert (world.ready(), world.delayed()) == (2, 1)
    async with opened(postgres.shared().url) as (connection, _, end):
        world.broker.settle([Settlement(one, SUCCEEDED) for one in take(world.broker, 2)])
        await world.enqueue_many([6, 7], connection)
        await end(False)
    assert world.ready() == 0


async def test_an_id_that_an_open_transaction_has_is_refused_after_a_while(world: World) -> None:
    async with psycopg_sync(postgres.shared().url) as (one, _, end):
        async with psycopg_sync(postgres.shared().url) as (other, _, end_other):
            await world.enqueue(1, one, job_id="mine")
            with pytest.raises(EnqueueFailed, match="still open"):
                await world.enqueue(2, other, job_id="mine")
            await world.enqueue(3, other)
            await end_other(True)
        await end(True)
    assert world.ready() == 2


def test_a_unique_key_is_held_by_the_commit_and_not_by_a_rollback(world: World) -> None:
    """An open transaction has the key: who asks for it waits a while, and is told so."""
    with Shop.keyed.connected(world.producer), psycopg.connect(postgres.shared().url) as connection:
        assert not Shop.keyed.enqueue(1, connection=connection).duplicate
        with pytest.raises(EnqueueFailed, match="a transaction that is still open enqueues the same id or unique key"):
            Shop.keyed.enqueue(3)
        connection.rollback()
        first = Shop.keyed.enqueue(3, connection=connection)
        again = Shop.keyed.enqueue_many([5, 2], connection=connection, on_conflict="replace")
        connection.commit()
        assert again[0] == first
        assert Shop.keyed.enqueue(7) == first
    assert sorted(lease.job.payload for lease in take(world.broker, 2, "keyed")) == [b"2", b"5"]


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
