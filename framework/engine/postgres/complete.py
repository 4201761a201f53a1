"""The completion of jobs within transactions: what a handler has done and the end of its job commit together."""

from __future__ import annotations

import asyncio
import json
import select
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager, contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.pq import TransactionStatus

from framework.engine.postgres import within
from framework.engine.postgres.link import unavailable
from framework.engine.postgres.rows import Key
from framework.model.errors import EngineError, EngineUnavailable, InvalidPayload
from framework.model.job import Lease
from framework.model.outcome import JobInterrupted

if TYPE_CHECKING:
    from framework.engine.postgres.engine import PostgresEngine


class _Connection(psycopg.Connection[tuple[Any, ...]]):
    """A connection for a handler. `limit` is the time in which the server must answer, set while the job completes."""

    limit: float | None = None

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        return super().wait(gen, interval, self.limit if timeout is None else timeout)


class _AsyncConnection(psycopg.AsyncConnection[tuple[Any, ...]]):
    limit: float | None = None

    async def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        return await super().wait(gen, interval, self.limit if timeout is None else timeout)


class Completions:
    """The completions of one owner's jobs, and the connections for `ctx.transaction()`, which are kept for the next.

    A completion deletes the job's row. So the row tells whether its transaction has committed, also where the answer
    to the commit was lost, and a rescuer that wants the row waits for the transaction.
    """

    def __init__(self, engine: PostgresEngine) -> None:
        self._engine = engine
        self._query = f"select {engine.schema}.complete_1({{}})"
        self._query_of_member = f"select {engine.schema}.complete_2({{}})"
        self._begun: dict[Key, bool] = {}  # whether the transaction is known to have committed
        self._idle: list[_Connection] = []
        self._async_idle: list[_AsyncConnection] = []

    # --- on the caller's connection ---------------------------------------------------------------------------------

    def complete(self, lease: Lease, connection: object) -> None:
        """Delete the job's row, or archive the dead letter, within the caller's transaction."""
        try:
            [answer] = within.rows(connection, self._query_for(lease), self._begin(lease), "acomplete")
        except InvalidPayload as error:
            raise EngineError(f"not completed: {error}") from None
        self._check(lease, answer)

    async def acomplete(self, lease: Lease, connection: object) -> None:
        """Complete as `complete` does, on an asynchronous connection."""
        try:
            [answer] = await within.arows(connection, self._query_for(lease), self._begin(lease), "complete")
        except InvalidPayload as error:
            raise EngineError(f"not completed: {error}") from None
        if answer != "done":
            await asyncio.to_thread(self._check, lease, answer)

    def _query_for(self, lease: Lease) -> str:
        return self._query if lease.job.extras.fan_in is None else self._query_of_member

    def _begin(self, lease: Lease) -> str:
        self._begun[lease.token] = False
        queue, place, delivery = lease.token
        return json.dumps({
            "owner": self._engine.incarnation, "queue": queue, "place": place, "delivery": delivery,
            "archive": lease.is_dead_letter, "attempt": lease.attempt - 1, "member": lease.job.extras.fan_in,
        })  # fmt: skip

    def _check(self, lease: Lease, answer: str) -> None:
        if answer != "done":
            del self._begun[lease.token]
            if self._engine.lost([lease]):
                raise JobInterrupted("lease_lost")
            raise EngineUnavailable(f"{self._engine.place}: a crash had undone the claim of {lease.job.id!r}")

    # --- what has become of it --------------------------------------------------------------------------------------

    def begun(self, lease: Lease) -> bool:
        """Return whether a transaction that completes the job was begun."""
        return lease.token in self._begun

    def completed(self, lease: Lease) -> bool:
        """Return whether the transaction has committed; wait a moment for one that is under way."""
        engine, token = self._engine, lease.token
        if token not in self._begun or self._begun[token]:
            return token in self._begun
        query = f"select {engine.schema}.completed_1(%s, %s, %s, %s)"
        [(found,)] = engine.as_owner(lambda _: engine.link.rows(query, [engine.incarnation, *token]))
        self._note(token, found)
        return bool(found)

    def _note(self, token: Key, committed: bool) -> None:
        if committed:
            self._begun[token] = True
        else:
            self._begun.pop(token, None)

    def end(self, lease: Lease) -> bool:
        """Return whether nothing is left to settle, and forget the job."""
        return self._begun.pop(lease.token, False)

    # --- connections of the engine's own ----------------------------------------------------------------------------

    @contextmanager
    def block(self, lease: Lease) -> Iterator[_Connection]:
        """Yield a connection in a transaction that completes the job at its end."""
        connection = self._take(self._idle) or self._connect()
        try:
            with connection.transaction():
                yield connection
                connection.limit = self._engine.place.timeout
                self.complete(lease, connection)
            self._note(lease.token, True)
        except BaseException as error:
            if self.begun(lease):
                connection.close()  # so that the server ends the transaction
                if isinstance(error, psycopg.Error) and self.completed(lease):
                    return  # only the answer to the commit was lost
            raise
        finally:
            self._put(self._idle, connection)

    @asynccontextmanager
    async def ablock(self, lease: Lease) -> AsyncIterator[_AsyncConnection]:
        """Yield an asynchronous connection, as `block` does."""
        connection = self._take(self._async_idle) or await self._aconnect()
        try:
            async with connection.transaction():
                yield connection
                connection.limit = self._engine.place.timeout
                await self.acomplete(lease, connection)
            self._note(lease.token, True)
        except BaseException as error:
            if self.begun(lease):
                connection.pgconn.finish()
                if isinstance(error, psycopg.Error) and await asyncio.to_thread(self.completed, lease):
                    return
            raise
        finally:
            self._put(self._async_idle, connection)

    def _connect(self) -> _Connection:
        engine = self._engine
        try:
            return _Connection.connect(engine.place.conninfo, autocommit=True, prepare_threshold=self._prepared)
        except psycopg.Error as error:
            raise unavailable(engine.place, error) from error

    async def _aconnect(self) -> _AsyncConnection:
        place = self._engine.place
        try:
            return await _AsyncConnection.connect(place.conninfo, autocommit=True, prepare_threshold=self._prepared)
        except psycopg.Error as error:
            raise unavailable(place, error) from error

    @property
    def _prepared(self) -> int | None:
        return None if self._engine.link.pooled else 5

    def _take(self, idle: list[Any]) -> Any:
        """Return a connection that is still good, or None. A server that ends a connection sends something first."""
        while idle:
            connection = idle.pop()
            if not select.select([connection.pgconn.socket], [], [], 0)[0]:
                return connection
            connection.pgconn.finish()
        return None

    def _put(self, idle: list[Any], connection: Any) -> None:
        if connection.closed or connection.pgconn.transaction_status != TransactionStatus.IDLE:
            connection.pgconn.finish()
        else:
            connection.limit = None
            idle.append(connection)

    def close(self) -> None:
        """Close the connections. No handler may run any more."""
        for connection in (*self._idle, *self._async_idle):
            connection.pgconn.finish()
        self._idle.clear()
        self._async_idle.clear()


class CompletingTransaction:
    """The block of `ctx.transaction()`: `with` for a sync handler, `async with` for an async one."""

    def __init__(self, completions: Completions, lease: Lease) -> None:
        self._completions = completions
        self._lease = lease
        self._block: AbstractContextManager[Any]
        self._ablock: AbstractAsyncContextManager[Any]

    def __enter__(self) -> Any:
        self._block = self._completions.block(self._lease)
        return self._block.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._block.__exit__(kind, error, trace)

    async def __aenter__(self) -> Any:
        self._ablock = self._completions.ablock(self._lease)
        return await self._ablock.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._ablock.__aexit__(kind, error, trace)
