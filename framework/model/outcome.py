"""The outcome of a run, and the exceptions by which a handler chooses it."""

from __future__ import annotations

import contextlib
from enum import StrEnum
from typing import Literal

from framework.model.frozen import frozen
from framework.model.job import Failure, Lease, Reason
from framework.model.retry import LONGEST, RetryPolicy, Seconds, seconds
from framework.model.text.exceptions import CONCEALED


def _delay(value: Seconds) -> float:
    """Return a delay in seconds that fits into a clock and a file name; NaN counts as 0."""
    return min(LONGEST, max(0.0, seconds(value)))


class RetryLater(Exception):
    """Raise this to retry the job, after the policy's delay or a delay of your own (seconds).

    With `spend=False` no attempt is spent, as where another service asks to wait (HTTP 429). Each such wait counts as
    outcome `released`, its reason is in the log and on the span. After MOST_UNSPENT claims of a job beyond its attempts
    it spends attempts all the same, so that a job which waits for ever becomes a dead letter.
    """

    delay: float | None = None  # for subclasses that do not call __init__
    spend: bool = True

    def __init__(self, reason: str = "", *, delay: Seconds | None = None, spend: bool = True) -> None:
        super().__init__(reason)
        self.delay = None if delay is None else _delay(delay)
        self.spend = spend


class Snooze(Exception):
    """Raise this to put the job back, optionally with a delay (seconds); no attempt is spent."""

    delay: float = 0.0

    def __init__(self, *, delay: Seconds = 0) -> None:
        self.delay = _delay(delay)
        super().__init__(f"snoozed for {self.delay:g} s")


class Reject(Exception):
    """Raise this to make the job a dead letter at once."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)


class Discard(Exception):
    """Raise this to delete the job, or the dead letter that is being handled, for ever."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)


Why = Literal["timeout", "draining", "lease_lost", "cancelled"]


class JobInterrupted(BaseException):
    """The exception raised in a handler at its soft timeout, at the end of a drain, when another worker has its job, or
    when the job is cancelled.

    It is a BaseException, so that `except Exception` in a handler does not catch it.

    Attributes:
        why: timeout, draining, lease_lost or cancelled.
        where: the line at which the handler stood, for example `fetch (relay.py:41)`; empty: unknown.
    """

    why: Why = "timeout"
    where: str = ""

    def __init__(self, why: Why, where: str = "") -> None:
        super().__init__(why)
        self.why: Why = why
        self.where = where


class Disturbed(BaseException):
    """Foreign code has cancelled the job: it goes back, and no attempt is spent. Handlers never get this exception."""


class Kind(StrEnum):
    """The ways in which a run ends. The values are telemetry's `worker.job.outcome`."""

    SUCCEEDED = "succeeded"
    RETRIED = "retried"
    DEAD_LETTERED = "dead_lettered"
    RELEASED = "released"
    DISCARDED = "discarded"
    ARCHIVED = "archived"
    CANCELLED = "cancelled"  # the job was cancelled: it never runs again, and is listed for a while
    LEASE_LOST = "lease_lost"  # another worker has the job: this one neither settles nor charges it


@frozen
class Outcome:
    """The decision about a job after a run.

    Attributes:
        kind: how the run ended.
        delay: seconds until the job may run again; for RETRIED and RELEASED.
        failure: the failed attempt; for RETRIED and DEAD_LETTERED.
        message: why the handler discarded or released the job; for DISCARDED and RELEASED.
    """

    kind: Kind
    delay: float = 0.0
    failure: Failure | None = None
    message: str = ""

    @property
    def is_unreadable(self) -> bool:
        """Return whether the job is put back because this version cannot read its payload."""
        return self.kind is Kind.RELEASED and self.message.startswith(UNREADABLE)


@frozen
class Settlement:
    """A lease with the outcome that settles it."""

    lease: Lease
    outcome: Outcome


UNREADABLE = "put back for a newer version"  # how the message of a RELEASED job with such a payload begins
MOST_UNSPENT = 1000  # claims of a job beyond its attempts, after which what does not spend an attempt spends one
_WORDS = (RetryLater, Snooze, Reject, Discard)

SUCCEEDED, ARCHIVED, CANCELLED = Outcome(Kind.SUCCEEDED), Outcome(Kind.ARCHIVED), Outcome(Kind.CANCELLED)


def fail(failure: Failure, policy: RetryPolicy, *, delay: float | None = None, final: bool = False) -> Outcome:
    """Return the outcome of a failed attempt: a retry, or a dead letter if the policy allows no more (or `final`)."""
    if final or failure.attempt >= policy.max_attempts:
        return Outcome(Kind.DEAD_LETTERED, failure=failure)
    return Outcome(Kind.RETRIED, delay=policy.delay(failure.attempt) if delay is None else delay, failure=failure)


def later(lease: Lease, failure: Failure, policy: RetryPolicy, *, delay: float | None, spend: bool) -> Outcome:
    """Return the outcome of a run that ended with RetryLater; `delay`: the handler's own."""
    if spend or not may_wait(lease):
        return fail(failure, policy, delay=delay)
    return Outcome(
        Kind.RELEASED, delay=policy.delay(lease.delivery) if delay is None else delay, message=failure.message
    )


def may_wait(lease: Lease) -> bool:
    """Return whether a job may be released once more without spending an attempt, although its run has failed."""
    return lease.delivery - lease.attempt < MOST_UNSPENT


def conceal(error: BaseException) -> None:
    """Mark an exception so that `describe` leaves out its text, which may quote a payload."""
    if not issubclass(type(error), _WORDS):
        with contextlib.suppress(Exception):  # an exception class may refuse attributes
            setattr(error, CONCEALED, True)


def reason_of(error: BaseException) -> Reason:
    """Return the reason of a failed attempt that ended with this exception."""
    kind = type(error)  # isinstance() would ask the exception's own __class__
    if issubclass(kind, JobInterrupted):
        return "timeout"
    return "rejected" if issubclass(kind, Reject) else "error"
