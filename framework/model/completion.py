"""The completion of a job within a transaction: what its handler has done and the end of the job commit together."""

from __future__ import annotations

from types import TracebackType
from typing import Any, NoReturn, Protocol

from framework.model.errors import EngineError
from framework.model.job import Lease


class Transaction(Protocol):
    """A block, `with` in a sync handler and `async with` in an async one, that gets a connection in a transaction.

    At its end the job is completed and the transaction commits. An exception rolls back both.
    """

    def __enter__(self) -> Any: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> bool | None: ...

    async def __aenter__(self) -> Any: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> bool | None: ...


class Completing(Protocol):
    """The verbs with which a running handler completes its job in a transaction. Safe in any thread."""

    def transaction(self, lease: Lease) -> Transaction:
        """Return a block with a connection of the engine's own to its database."""

    def complete(self, lease: Lease, connection: object) -> None:
        """Complete the job within the caller's transaction: once that commits, the job is settled as a success.

        Raises JobInterrupted: the job is another worker's by now, and the transaction must not commit.
        """

    async def acomplete(self, lease: Lease, connection: object) -> None:
        """Complete the job as `complete` does, on an asynchronous connection or session."""

    def completing(self, lease: Lease) -> bool:
        """Return whether the job was completed in a transaction whose end the engine has not told yet. Only looks at
        memory."""

    def completed(self, lease: Lease) -> bool:
        """Return whether such a transaction has committed; after this the answer does not change.

        Raises EngineUnavailable: it cannot be known now.
        """


class NoTransactions:
    """The verbs on an engine that has no transactions: they raise EngineError, which names the engine."""

    def __init__(self, system: str) -> None:
        self._system = system

    def transaction(self, lease: Lease) -> Transaction:
        self._refuse("ctx.transaction()")

    def complete(self, lease: Lease, connection: object) -> None:
        self._refuse("ctx.complete()")

    async def acomplete(self, lease: Lease, connection: object) -> None:
        self._refuse("ctx.acomplete()")

    def completing(self, lease: Lease) -> bool:
        return False

    def completed(self, lease: Lease) -> bool:
        return False

    def _refuse(self, call: str) -> NoReturn:
        raise EngineError(f"{call}: the engine {self._system!r} has no transactions; PostgreSQL has")
