"""One connection: opened when it is needed, again after a break, and what its errors mean."""

from __future__ import annotations

import random
import select
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import psycopg
from psycopg import errors

from framework.model.errors import EngineError, EngineUnavailable

T = TypeVar("T")

FIRST_PAUSE, LAST_PAUSE = 0.05, 2.0  # seconds between tries to connect
REPEATS = 8  # of a statement that met another one: serialization failures, deadlocks
# The answer may come after the work is done: the server goes, or the connection.
_UNSURE = ("08", "57P", "XX", "58")
TAKEN_FOR_DEAD = "WK001"


@dataclass(frozen=True)
class Place:
    """Where the jobs are.

    Attributes:
        conninfo: as libpq takes it.
        schema: that has the tables.
        local_dir: this machine's part.
        timeout: seconds in which the server must answer.
        shown: for people.
    """

    conninfo: str = field(repr=False)
    schema: str
    local_dir: Path
    timeout: float
    shown: str

    def __str__(self) -> str:
        return self.shown


class Failed(EngineUnavailable):
    """A statement failed.

    Attributes:
        unsure: it may have been done.
        code: the server's SQLSTATE.
    """

    unsure = False
    code = ""


def unavailable(place: Place, error: psycopg.Error, *, sent: bool = False) -> EngineError:
    """Return the error as the port has it. Its text is the server's: it never holds what was stored."""
    code = error.sqlstate or ""
    said = (error.diag.message_primary or str(error)).strip().splitlines()
    text = f"{place}: {said[0] if said else type(error).__name__}"
    if isinstance(error, (errors.UndefinedFunction, errors.UndefinedTable, errors.InvalidSchemaName)):
        return EngineError(f"{text}: run `worker migrate`")
    if code.startswith(("28", "3D", "42")):  # no access, no database, or a mistake of ours: waiting mends none of it
        return EngineError(text)
    failed = Failed(text)
    failed.code = code
    failed.unsure = sent and (not code or code.startswith(_UNSURE))
    return failed


class _Connection(psycopg.Connection[tuple[Any, ...]]):
    """Gives up a server that does not answer: neither keepalives nor tcp_user_timeout notice one that stands still."""

    limit: float | None = None

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        return super().wait(gen, interval, self.limit if timeout is None else timeout)


class Link:
    """A connection for one call at a time, from any thread.

    Args:
        opened: is called with each new connection, before anything else uses it.

    Attributes:
        lock: held during a call; who holds it may make several.
        offset: seconds by which the database's clock is ahead of this machine's.
        pooled: the server is reached through a pooler, on which a session means nothing.
        since: when the connection was opened, monotonic seconds.
    """

    def __init__(self, place: Place, opened: Callable[[Link, psycopg.Connection], None] | None = None) -> None:
        self.place = place
        self.lock = threading.RLock()
        self.offset = 0.0
        self.pooled = False
        self.since = 0.0
        self._opened = opened
        self._connection: _Connection | None = None
        self._cursor: psycopg.Cursor | None = None
        self._pause, self._next_try, self._why = 0.0, 0.0, ""

    def rows(self, query: str, parameters: Sequence[Any] = (), *, seconds: float = 0.0) -> list[tuple[Any, ...]]:
        """Execute a statement in a transaction of its own; return its rows. Raises EngineError."""

        def execute(cursor: psycopg.Cursor) -> list[tuple[Any, ...]]:
            cursor.execute(query, parameters)
            return cursor.fetchall() if cursor.description else []

        return self.call(execute, seconds=seconds)

    def call(self, function: Callable[[psycopg.Cursor], T], *, seconds: float = 0.0) -> T:
        """Have a function use the cursor, within `seconds` at most. It is repeated where others were in its way.

        Raises:
            Failed: its `unsure` says whether the work may be done.
            EngineError: the schema is missing or old.
        """
        with self.lock:
            for number in range(REPEATS):
                cursor = self.connected()
                assert self._connection is not None
                self._connection.limit = max(seconds, self.place.timeout)
                try:
                    return function(cursor)
                except (errors.SerializationFailure, errors.DeadlockDetected) as error:
                    if number == REPEATS - 1:
                        raise unavailable(self.place, error) from error
                    time.sleep(random.uniform(0, 0.01 * 2**number))
                except psycopg.Error as error:
                    failed = unavailable(self.place, error, sent=True)
                    if (
                        self._connection.closed
                        or not error.sqlstate
                        or isinstance(error, errors.ReadOnlySqlTransaction)
                    ):
                        self.close()
                    raise failed from error
                except BaseException:  # Ctrl-C in the middle: what the connection would answer next is anybody's guess
                    self.close()
                    raise
        raise AssertionError

    def connected(self) -> psycopg.Cursor:
        """Return the cursor of a connection that lives, as far as can be seen. Raises EngineError."""
        if self._cursor is not None and self.hear():
            return self._cursor
        self.close()
        if (wait := self._next_try - time.monotonic()) > 0:
            raise EngineUnavailable(f"{self._why} (tried again in {wait:.1f} s)")
        try:
            connection = self._connect()
        except psycopg.Error as error:
            self._pause = min(LAST_PAUSE, max(FIRST_PAUSE, self._pause * 2))
            self._next_try = time.monotonic() + random.uniform(0.5, 1.0) * self._pause
            failed = unavailable(self.place, error)
            self._why = str(failed)
            raise failed from error
        self._pause, self.since = 0.0, time.monotonic()
        self._connection, self._cursor = connection, connection.cursor(binary=True)
        try:
            if self._opened is not None:
                self._opened(self, connection)
        except psycopg.Error as error:
            self.close()
            raise unavailable(self.place, error) from error
        except BaseException:
            self.close()
            raise
        return self._cursor

    def _connect(self) -> _Connection:
        connection = _Connection.connect(self.place.conninfo, autocommit=True, prepare_threshold=2)
        try:
            connection.limit = self.place.timeout
            before = time.time()
            row = connection.execute(
                "select pg_backend_pid(), extract(epoch from clock_timestamp())::float8, "
                "current_setting('default_transaction_isolation')",
                prepare=False,
            ).fetchone()
            assert row is not None
            self.offset = row[1] - (before + time.time()) / 2
            self.pooled = row[0] != connection.info.backend_pid  # a pooler has numbers of its own
            if self.pooled:
                connection.prepare_threshold = None
            if row[2] != "read committed":
                connection.execute("set default_transaction_isolation = 'read committed'", prepare=False)
        except BaseException:
            connection.close()
            raise
        return connection

    def hear(self) -> bool:
        """Read what the server has said unasked. Return whether the connection lives."""
        connection = self._connection
        if connection is None or connection.closed:
            return False
        try:
            while select.select([connection.pgconn.socket], [], [], 0)[0]:
                connection.pgconn.consume_input()
                while (notify := connection.pgconn.notifies()) is not None:
                    if connection.pgconn.notify_handler is not None:
                        connection.pgconn.notify_handler(notify)
        except (psycopg.Error, OSError, ValueError):
            return False
        return True

    def fileno(self) -> int:
        """Return the socket; -1: there is none."""
        connection = self._connection
        return -1 if connection is None or connection.closed else connection.pgconn.socket

    def now(self) -> float:
        """Return the time of the database's clock, about."""
        return time.time() + self.offset

    def close(self) -> None:
        """Let the connection go. The next call opens another."""
        with self.lock:
            connection, self._connection, self._cursor = self._connection, None, None
            if connection is not None:
                with suppress(psycopg.Error, OSError):
                    connection.close()
