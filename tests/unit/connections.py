"""Connections and sessions of every driver that a service may have a transaction on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

Execute = Callable[[str], Awaitable[Any]]
# The connection, what executes a statement on it, and what commits (True) or rolls back.
Tx = tuple[Any, Execute, Callable[[bool], Awaitable[None]]]


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


@asynccontextmanager
async def sqlalchemy_connection(url: str) -> AsyncIterator[Tx]:
    from sqlalchemy import create_engine, text

    engine = create_engine(url.replace("postgresql:", "postgresql+psycopg:"), isolation_level="SERIALIZABLE")
    with engine.connect() as connection:
        end = {True: connection.commit, False: connection.rollback}
        yield connection, lambda sql: later(connection.execute(text(sql))), lambda commit: later(end[commit]())
    engine.dispose()


@asynccontextmanager
async def sqlalchemy_async_connection(url: str) -> AsyncIterator[Tx]:
    from sqlalchemy import text
    from sqlalchemy.ext.asyncio import create_async_engine

    engine = create_async_engine(url.replace("postgresql:", "postgresql+asyncpg:"))
    async with engine.connect() as connection:
        end = {True: connection.commit, False: connection.rollback}
        yield connection, lambda sql: connection.execute(text(sql)), lambda commit: end[commit]()
    await engine.dispose()


@asynccontextmanager
async def asyncpg_pool(url: str) -> AsyncIterator[Tx]:
    import asyncpg

    async with asyncpg.create_pool(url, min_size=1, max_size=1) as pool, pool.acquire() as connection:
        transaction = connection.transaction(isolation="repeatable_read")
        await transaction.start()
        yield connection, connection.execute, lambda commit: transaction.commit() if commit else transaction.rollback()


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
    "asyncpg of a pool, repeatable read": (asyncpg_pool, True),
    "Session": (sqlalchemy_session, False),
    "Connection, serializable": (sqlalchemy_connection, False),
    "AsyncConnection": (sqlalchemy_async_connection, True),
    "AsyncSession asyncpg": (sqlalchemy_async("asyncpg"), True),
    "AsyncSession psycopg": (sqlalchemy_async("psycopg"), True),
    "django": (django_atomic, False),
}
