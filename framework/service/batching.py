"""Batch handlers: their declaration, and a job as they get it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, TypeVar

from framework.model.handling import Context
from framework.model.outcome import Reject, RetryLater
from framework.model.retry import Seconds

P = TypeVar("P")
MOST_WAIT = 60.0  # seconds


@dataclass(frozen=True, slots=True)
class Batching:
    """How the jobs of a queue are batched. Raises ValueError: a value is out of its range.

    Attributes:
        size: jobs of a batch at most.
        wait: seconds for which its first job waits for others.
    """

    size: int
    wait: float

    def __post_init__(self) -> None:
        if type(self.size) is not int or self.size < 1:
            raise ValueError(f"size={self.size!r}: must be a whole number of 1 or more")
        if not 0 <= self.wait <= MOST_WAIT:
            raise ValueError(f"wait={self.wait:g}: must be 0 to {MOST_WAIT:g} seconds")


@dataclass(slots=True, eq=False)
class Item(Generic[P]):
    """A job of a batch. It has succeeded when the handler returns, unless it was marked; the last mark counts.

    Attributes:
        payload: the job's payload.
        ctx: the job's context, as the handler of a single job gets it.
    """

    payload: P
    ctx: Context
    _error: BaseException | None = field(default=None, repr=False)

    def reject(self, reason: str) -> None:
        """Make the job a dead letter."""
        self._error = Reject(reason)

    def retry(self, reason: str = "", *, delay: Seconds | None = None) -> None:
        """Retry the job, after the policy's delay or a delay of your own (seconds)."""
        self._error = RetryLater(reason, delay=delay)

    def fail(self, error: BaseException) -> None:
        """End the job as if its own handler had raised this: an error, or a `Snooze` or `Discard`."""
        if not isinstance(error, BaseException):
            raise TypeError(f"item.fail({error!r:.60}): give it an exception")
        self._error = error

    @property
    def error(self) -> BaseException | None:
        """Return what the job was marked with; None: it was not marked."""
        return self._error
