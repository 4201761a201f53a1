"""A connection that is opened when it is needed and reopened after a break, and the meaning of its errors."""

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
SLOW = 20.0  # seconds in which a statement over many rows must be done; liveness gives a process 30
SKEWED = 1.0  # seconds by which clocks must differ to be told apart: an answer may be slow
REPEATS = 8  # tries of a statement that collides with others: serialization failures, deadlocks
# SQLSTATEs with which the work may be done although its answer was lost: the server or the connection went away.
_UNSURE = ("08", "57P", "XX", "58")
TAKEN_FOR_DEAD = "WK001"


@dataclass(frozen=True)
class Place:
    """The database and the directory in which the engine keeps its data.

    Attributes:
        conninfo: connection string of libpq.
        schema: schema that holds the tables.
        local_dir: directory for files of this machine's processes.
        timeout: seconds in which the server must answer.
        shown: name of the place in messages, without the password.
    """

    conninfo: str = field(repr=False)
    schema: str
    local_dir: Path
    timeout: float
    shown: str

    def __str__(self) -> str:
        return self.shown


class Failed(EngineUnavailable):
    """The failure of a statement.

    Attributes:
        unsure: the statement may have been done.
        code: the server's SQLSTATE.
    """

    unsure = False
    code = ""


def unavailable(place: Place, error: psycopg.Error, *, sent: bool = False) -> EngineError:
    """Return the error of the contract for a driver's error. Its text is the server's, and holds no stored data."""
    code = error.sqlstate or ""
    said = (error.diag.message_primary or str(error)).strip().splitlines()
    text = f"{place}: {said[0] if said else type(error).__name__}"
    if isinstance(error, (errors.UndefinedFunction, errors.UndefinedTable, errors.InvalidSchemaName)):
        return EngineError(f"{text}: run `worker migrate`")
    if code.startswith(("28", "3D", "42")):  # no access, no database, or an error in this code: waiting does not help
        return EngineError(text)
    failed = Failed(text)
    failed.code = code
    failed.unsure = sent and (not code or code.startswith(_UNSURE))
    return failed


class _Connection(psycopg.Connection[tuple[Any, ...]]):
    """A connection with a time limit for answers: keepalives and tcp_user_timeout do not notice a server that hangs."""

    limit: float | None = None

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        return super().wait(gen, interval, self.limit if timeout is None else timeout)


class Link:
    """A connection for one call at a time, from any thread.

    Args:
        opened: called with each new connection before any other use.

    Attributes:
        lock: held during a call; a caller may hold it over several calls.
        pooled: the server is reached through a pooler, which does not keep sessions.
        since: when the connection was opened, monotonic seconds.
    """

    def __init__(self, place: Place, opened: Callable[[Link, psycopg.Connection], None] | None = None) -> None:
        self.place = place
        self.lock = threading.RLock()
        self._clock: tuple[float, float] | None = None  # the database's time when this machine had run so long
        self.pooled = False
        self.since = 0.0
        self._opened = opened
        self._connection: _Connection | None = None
        self._cursor: psycopg.Cursor | None = None
        self._unread = False  # the answer to what was posted is still to come
        self._pause, self._next_try, self._why = 0.0, 0.0, ""

    def rows(self, query: str, parameters: Sequence[Any] = (), *, seconds: float = 0.0) -> list[tuple[Any, ...]]:
        """Execute a statement in a transaction of its own and return its rows. Raises EngineError."""

        def execute(cursor: psycopg.Cursor) -> list[tuple[Any, ...]]:
            cursor.execute(query, parameters)
            return cursor.fetchall() if cursor.description else []

        return self.call(execute, seconds=seconds)

    def call(self, function: Callable[[psycopg.Cursor], T], *, seconds: float = 0.0) -> T:
        """Call a function with the cursor, within `seconds`, and return its result.

        The call is repeated where it collides with other transactions.

        Raises:
            Failed: its `unsure` tells whether the work may be done.
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
                except BaseException:  # such as Ctrl-C in a call: the next answer may belong to this call
                    self.close()
                    raise
        raise AssertionError

    def connected(self) -> psycopg.Cursor:
        """Return the cursor of an open connection, opening one where needed. Raises EngineError."""
        if self._cursor is not None and self.hear() and self._heard_all():
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
            row = connection.execute(
                "select pg_backend_pid(), extract(epoch from clock_timestamp())::float8, "
                "current_setting('default_transaction_isolation')",
                prepare=False,
            ).fetchone()
            assert row is not None
            self._clock = row[1], _elapsed()  # never ahead of the database's: what is due at once must not seem delayed
            self.pooled = row[0] != connection.info.backend_pid  # a pooler reports process numbers of its own
            if self.pooled:
                connection.prepare_threshold = None
            if row[2] != "read committed":
                connection.execute("set default_transaction_isolation = 'read committed'", prepare=False)
        except BaseException:
            connection.close()
            raise
        return connection

    def post(self, query: str, parameters: Sequence[str]) -> None:
        """Send a statement with parameters $1, $2, ... in a transaction of its own, and do not wait for its end.

        Its answer is read before the next call, and errors are ignored. Without a connection nothing is sent.
        """
        with self.lock:
            if self._connection is None or self._cursor is None:
                return
            try:
                self._connection.pgconn.send_query_params(query.encode(), [one.encode() for one in parameters])
                self._connection.pgconn.flush()
                self._unread = True
            except psycopg.Error:
                self.close()

    def _heard_all(self) -> bool:
        """Wait for the answer to what was posted. Return whether it came."""
        end = time.monotonic() + self.place.timeout
        while self._unread:
            left = end - time.monotonic()
            if left <= 0 or not select.select([self.fileno()], [], [], left)[0] or not self.hear():
                return False
        return True

    def hear(self) -> bool:
        """Read pending messages of the server and pass on notifications. Return whether the connection is open."""
        connection = self._connection
        if connection is None or connection.closed:
            return False
        try:
            while select.select([connection.pgconn.socket], [], [], 0)[0]:
                connection.pgconn.consume_input()
                while (notify := connection.pgconn.notifies()) is not None:
                    if connection.pgconn.notify_handler is not None:
                        connection.pgconn.notify_handler(notify)
                while self._unread and not connection.pgconn.is_busy():
                    self._unread = connection.pgconn.get_result() is not None
        except (psycopg.Error, OSError, ValueError):
            return False
        return True

    def fileno(self) -> int:
        """Return the descriptor of the socket, or -1 if there is none."""
        connection = self._connection
        return -1 if connection is None or connection.closed else connection.pgconn.socket

    def now(self) -> float:
        """Return the approximate time of the database's clock; this machine's may be set meanwhile."""
        if (known := self._clock) is None:
            return time.time()
        return known[0] + _elapsed() - known[1]

    def here(self, moment: float) -> float:
        """Return a moment of the database's clock by this machine's clock."""
        return moment - self.ahead()

    def ahead(self) -> float:
        """Return the seconds by which the database's clock is ahead of this machine's; 0.0 where they hardly differ."""
        ahead = self.now() - time.time()
        return ahead if abs(ahead) >= SKEWED else 0.0

    def close(self) -> None:
        """Close the connection. The next call opens another."""
        with self.lock:
            connection, self._connection, self._cursor = self._connection, None, None
            self._unread = False
            if connection is not None:
                with suppress(psycopg.Error, OSError):
                    connection.close()


def _elapsed() -> float:
    """Return seconds of a clock that no one can set and that goes on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
