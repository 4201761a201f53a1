"""Calls within the caller's transaction, on connections of several drivers. Only psycopg is imported here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg

from framework.model.errors import InvalidPayload

KNOWN = "psycopg (Connection, AsyncConnection), SQLAlchemy (Session, Connection and their async ones), asyncpg, Django"
Call = Callable[[Any, str, str], Any]


def rows(connection: Any, query: str, document: str, other: str = "aenqueue") -> list[str]:
    """Execute a query with one parameter, written as {}, and return the first column of its rows.

    Args:
        other: the caller's verb for asynchronous connections.

    Raises:
        InvalidPayload: the connection is asynchronous, or of an unknown kind.
        Exception: an error of the driver.
    """
    call, awaits = _call(connection)
    if awaits:
        raise InvalidPayload(f"connection={_kind(connection)} is asynchronous: use {other}")
    return list(call(connection, query, document))


async def arows(connection: Any, query: str, document: str, other: str = "enqueue") -> list[str]:
    """Execute a query as `rows` does, on an asynchronous connection."""
    call, awaits = _call(connection)
    if not awaits:
        raise InvalidPayload(f"connection={_kind(connection)} is not asynchronous: use {other}")
    return list(await call(connection, query, document))


def _call(connection: Any) -> tuple[Call, bool]:
    """Return the function that executes a query on this connection, and whether its result must be awaited."""
    modules = [kind.__module__ for kind in type(connection).__mro__]
    roots = {module.partition(".")[0] for module in modules}
    if "sqlalchemy" in roots:
        asynchronous = any(module.startswith("sqlalchemy.ext.asyncio") for module in modules)
        return (_asqlalchemy, True) if asynchronous else (_sqlalchemy, False)
    if "asyncpg" in roots:
        return _asyncpg, True
    if "psycopg" in roots:
        return (_apsycopg, True) if isinstance(connection, psycopg.AsyncConnection) else (_psycopg, False)
    if "django" in roots:
        return _django, False
    raise InvalidPayload(f"connection={_kind(connection)}: there are {KNOWN}")


def _kind(connection: Any) -> str:
    return f"{type(connection).__module__}.{type(connection).__qualname__}"[:120]


def _psycopg(connection: Any, query: str, document: str) -> list[str]:
    from psycopg.rows import tuple_row

    with connection.cursor(row_factory=tuple_row) as cursor:
        return [row[0] for row in cursor.execute(query.format("%s"), [document])]


async def _apsycopg(connection: Any, query: str, document: str) -> list[str]:
    from psycopg.rows import tuple_row

    async with connection.cursor(row_factory=tuple_row) as cursor:
        await cursor.execute(query.format("%s"), [document])
        return [row[0] for row in await cursor.fetchall()]


def _sqlalchemy(connection: Any, query: str, document: str) -> list[str]:
    return list(connection.execute(_text(query), {"document": document}).scalars())


async def _asqlalchemy(connection: Any, query: str, document: str) -> list[str]:
    return list((await connection.execute(_text(query), {"document": document})).scalars())


def _text(query: str) -> Any:
    from sqlalchemy import text  # type: ignore[import-not-found, unused-ignore]

    return text(query.format(":document"))


async def _asyncpg(connection: Any, query: str, document: str) -> list[str]:
    return [row[0] for row in await connection.fetch(query.format("$1"), document)]


def _django(connection: Any, query: str, document: str) -> list[str]:
    with connection.cursor() as cursor:
        cursor.execute(query.format("%s"), [document])
        return [row[0] for row in cursor.fetchall()]
