"""The attempt that is running, and the interfaces that an executor needs from telemetry and from the engine."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, NoReturn, Protocol

from framework.model.errors import EngineError
from framework.model.frozen import frozen
from framework.model.job import NO_IDS, Lease, Logger, ids_of, running
from framework.model.options import QueueOptions
from framework.model.outcome import Outcome
from framework.model.text.exceptions import release


@frozen
class SpanIdentity:
    """The ids of an attempt's span, in hex; empty = not traced. They are known before the span starts, because the run
    record holds them."""

    trace_id: str = ""
    span_id: str = ""
    sampled: bool = False

    @property
    def ids(self) -> bytes:
        """Return both ids as bytes; zeros if the attempt is not traced."""
        return ids_of(self.trace_id, self.span_id) if self.span_id else NO_IDS


UNTRACED = SpanIdentity()


@dataclass(slots=True)
class Attempt:
    """A run of a job while it lasts. Middleware may read it; `outcome` is set before the middleware is left.

    Attributes:
        row: the concurrency slot of the process in which it runs, from 0.
        began: monotonic seconds, the clock of its deadlines.
        duration: seconds that the run took; None until its outcome is stored where a rescuer finds it.
        error: what the handler raised, with its frames; None after `forget`.
        cost: processor seconds of its thread, and bytes by which the peak of the process's memory grew; None: unknown.
        own_context: the run has a context of its own, which ends with it; variables that are set there need no reset.
    """

    lease: Lease
    options: QueueOptions
    started_at: float
    identity: SpanIdentity = UNTRACED
    wait: float = 0.0
    row: int = 0
    began: float = 0.0
    outcome: Outcome | None = None
    duration: float | None = None
    error: BaseException | None = None
    cost: tuple[float, int] | None = None
    own_context: bool = False

    @property
    def ids(self) -> bytes:
        """Return the trace id and the span id as bytes."""
        return self.identity.ids

    @property
    def sampled(self) -> bool:
        """Return whether the span is to be exported."""
        return self.identity.sampled

    @property
    def ended(self) -> Outcome:
        """Return the outcome of a run that has ended."""
        assert self.outcome is not None
        return self.outcome

    def forget(self) -> None:
        """Free the exception and its frames, once the attempt has ended and every subscriber has its event.

        The text of the error stays.
        """
        error, self.error = self.error, None
        if error is None:
            return
        release(error)
        if self.outcome is not None and self.outcome.failure is not None:
            self.outcome = replace(self.outcome, failure=replace(self.outcome.failure, exception=None))


class Tracing(Protocol):
    """The interface that the executor needs from telemetry."""

    def identify(self, lease: Lease, started_at: float) -> SpanIdentity:
        """Return the ids and the sampling decision of the span that this attempt will have."""

    def enter(self, attempt: Attempt) -> Any:
        """Begin the span around the handler; the returned value is passed to `leave`."""

    def leave(self, attempt: Attempt, entered: Any) -> None:
        """End the span by `attempt.outcome`, and restore the ambient context unless the run has its own."""

    def batch(self, attempts: Sequence[Attempt]) -> AbstractContextManager[object]:
        """Return a block with a span around the handler of a batch, which links to the spans of these attempts."""

    def logger(self, attempt: Attempt) -> Logger:
        """Return a logger bound to the job; inside the span its lines carry the trace's ids."""

    def settled(self, queue: str, verb: str, seconds: float) -> bool:
        """Count a settlement. Return False if it was not counted: then the caller emits an event instead."""


class SilentLogger:
    """A logger that writes nothing, for tests and for use without telemetry."""

    def bind(self, **_: object) -> SilentLogger:
        return self

    def debug(self, event: str, **_: object) -> None: ...
    def info(self, event: str, **_: object) -> None: ...
    def warning(self, event: str, **_: object) -> None: ...
    def error(self, event: str, **_: object) -> None: ...
    def exception(self, event: str, **_: object) -> None: ...


class NoTracing:
    """Tracing that makes no spans; it only sets the running job, so that log lines carry its ids."""

    def identify(self, lease: Lease, started_at: float) -> SpanIdentity:
        return UNTRACED

    def enter(self, attempt: Attempt) -> Any:
        return running.set(attempt.lease)

    def leave(self, attempt: Attempt, entered: Any) -> None:
        if not attempt.own_context:
            running.reset(entered)

    def batch(self, attempts: Sequence[Attempt]) -> AbstractContextManager[object]:
        return nullcontext()

    def logger(self, attempt: Attempt) -> Logger:
        return SilentLogger()

    def settled(self, queue: str, verb: str, seconds: float) -> bool:
        return False


class Transaction(Protocol):
    """A block, `with` in a sync handler and `async with` in an async one, that gets a connection in a transaction.

    At its end the job is completed and the transaction commits. An exception rolls back both.
    """

    def __enter__(self) -> Any: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...

    async def __aenter__(self) -> Any: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...


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
