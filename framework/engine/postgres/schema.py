"""The versions of the schema: numbered SQL files, which are applied in order, each once."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from importlib.resources import files

import psycopg
from psycopg import errors

from framework.engine.postgres.link import Place, unavailable
from framework.model.errors import EngineError

VERSION = 5  # version that this code needs; it also works with the next one
log = logging.getLogger("framework")


def script(version: int, schema: str) -> str:
    """Return the SQL that brings the schema to a version from the previous one."""
    text = files(__package__).joinpath(f"schema_{version}.sql").read_text()
    done = f"insert into {{schema}}.version (version) values ({version});\n"
    return (text + done).format(schema=f'"{schema}"', plain=schema)


def migrate(place: Place) -> Iterator[str]:
    """Bring the schema to this version and yield a line for each step. Raises EngineError.

    It is safe to repeat, and to run twice at once: the second run waits and finds nothing to do.
    """
    try:
        with psycopg.connect(place.conninfo) as connection:
            # Whatever the default of the database is: the second of two runs must see what the first has done.
            connection.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
            connection.execute("set local lock_timeout = '60s'")
            connection.execute("select pg_advisory_xact_lock(hashtextextended(%s, 1))", (place.schema,))
            found = version_of(connection, place.schema)
            if found > VERSION:
                raise EngineError(f"schema {place.schema!r} has version {found}, this code knows {VERSION}: update it")
            for version in range(found + 1, VERSION + 1):
                connection.execute(script(version, place.schema), prepare=False)
    except psycopg.Error as error:
        raise unavailable(place, error) from error
    for version in range(found + 1, VERSION + 1):
        yield f"schema {place.schema!r}: version {version} applied"
    if found == VERSION:
        yield f"schema {place.schema!r}: version {VERSION}, nothing to do"


def version_of(connection: psycopg.Connection, schema: str) -> int:
    """Return the version of a schema, or 0 if there is none. Raises psycopg.Error."""
    row = connection.execute("select to_regclass(%s)::text", (f'"{schema}".version',), prepare=False).fetchone()
    return 0 if row is None or row[0] is None else _version(connection, schema)


def _version(connection: psycopg.Connection, schema: str) -> int:
    found = connection.execute(f'select max(version) from "{schema}".version', prepare=False).fetchone()
    return int(found[0] or 0) if found else 0


def check(connection: psycopg.Connection, place: Place) -> None:
    """Check that this code can work with the schema. Raises EngineError if it cannot."""
    try:
        found = _version(connection, place.schema)
    except (errors.UndefinedTable, errors.InvalidSchemaName):
        found = 0
    if found < VERSION:
        what = f"has version {found}" if found else "is not there"
        raise EngineError(f"{place}: schema {place.schema!r} {what}: run `worker migrate`")
    if found > VERSION + 1:
        raise EngineError(f"{place}: schema {place.schema!r} has version {found}, this code knows {VERSION}: update it")
