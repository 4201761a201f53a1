"""A run while it lasts, and what an executor needs of telemetry."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol

from framework.model.exceptions import release
from framework.model.frozen import frozen
from framework.model.job import NO_IDS, Lease, Logger, ids_of
from framework.model.jobscope import running
from framework.model.options import QueueOptions
from framework.model.outcome import Outcome


@frozen
class SpanIdentity:
    """Ids of an attempt's span, known before it starts: they go into the run record. Hex; empty = not traced."""

    trace_id: str = ""
    span_id: str = ""
    sampled: bool = False

    @property
    def ids(self) -> bytes:
        """Return both as bytes, zeros where it is not traced."""
        return ids_of(self.trace_id, self.span_id) if self.span_id else NO_IDS


UNTRACED = SpanIdentity()


@dataclass(slots=True)
class Attempt:
    """A run while it lasts; middleware may look at it, `outcome` is set before the middleware is left.

    Attributes:
        row: where it runs, from 0.
        began: monotonic seconds, as its deadlines count.
        duration: seconds that the run took; None until its outcome is where a rescuer finds it.
        error: what the handler raised, with its frames; until `forget`.
        own_context: the run's context ends with it, so whoever sets a variable there need not put it back.
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
    own_context: bool = False

    @property
    def ids(self) -> bytes:
        """Return trace id and span id."""
        return self.identity.ids

    @property
    def sampled(self) -> bool:
        """Return whether the span is to be exported."""
        return self.identity.sampled

    @property
    def ended(self) -> Outcome:
        """Return how the run has ended."""
        assert self.outcome is not None
        return self.outcome

    def forget(self) -> None:
        """The attempt has ended and everybody was told: frees what it held. The text of its error stays."""
        error, self.error = self.error, None
        if error is None:
            return
        release(error)
        if self.outcome is not None and self.outcome.failure is not None:
            self.outcome = replace(self.outcome, failure=replace(self.outcome.failure, exception=None))


class Tracing(Protocol):
    """What the executor needs of telemetry."""

    def identify(self, lease: Lease, started_at: float) -> SpanIdentity:
        """Ids and the sampling decision of the span that this attempt will have."""

    def enter(self, attempt: Attempt) -> Any:
        """The span around the handler begins; what this returns is given to `leave`."""

    def leave(self, attempt: Attempt, entered: Any) -> None:
        """It ends, by `attempt.outcome`; restores the ambient context, where the run has not one of its own."""

    def logger(self, attempt: Attempt) -> Logger:
        """A logger bound to the job; inside the span its lines carry the trace's ids."""

    def settled(self, queue: str, verb: str, seconds: float) -> bool:
        """Counts a settlement at once. False: it does not, and an event has to tell."""


class SilentLogger:
    """A logger that says nothing: for tests and for use without telemetry."""

    def bind(self, **_: object) -> SilentLogger:
        return self

    def debug(self, event: str, **_: object) -> None: ...
    def info(self, event: str, **_: object) -> None: ...
    def warning(self, event: str, **_: object) -> None: ...
    def error(self, event: str, **_: object) -> None: ...
    def exception(self, event: str, **_: object) -> None: ...


class NoTracing:
    """Tracing that names the running job and does nothing else."""

    def identify(self, lease: Lease, started_at: float) -> SpanIdentity:
        return UNTRACED

    def enter(self, attempt: Attempt) -> Any:
        return running.set(attempt.lease)

    def leave(self, attempt: Attempt, entered: Any) -> None:
        if not attempt.own_context:
            running.reset(entered)

    def logger(self, attempt: Attempt) -> Logger:
        return SilentLogger()

    def settled(self, queue: str, verb: str, seconds: float) -> bool:
        return False
