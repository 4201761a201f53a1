"""What a run decided, and the exceptions with which a handler says it."""

from __future__ import annotations

import contextlib
from enum import StrEnum
from typing import Literal

from framework.model.exceptions import CONCEALED
from framework.model.frozen import frozen
from framework.model.job import Failure, Lease, Reason
from framework.model.retry import LONGEST, RetryPolicy, Seconds, seconds


def _delay(value: Seconds) -> float:
    """Return a delay in seconds that a clock and a file name have room for; "not a number" counts as none."""
    return min(LONGEST, max(0.0, seconds(value)))


class RetryLater(Exception):
    """Retry, by the policy or after a delay of your own (seconds)."""

    delay: float | None = None  # of subclasses that do not call __init__

    def __init__(self, reason: str = "", *, delay: Seconds | None = None) -> None:
        super().__init__(reason)
        self.delay = None if delay is None else _delay(delay)


class Snooze(Exception):
    """Back to the queue, no attempt spent, optionally after a delay (seconds)."""

    delay: float = 0.0

    def __init__(self, *, delay: Seconds = 0) -> None:
        self.delay = _delay(delay)
        super().__init__(f"snoozed for {self.delay:g} s")


class Reject(Exception):
    """Dead letter now."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)


class Discard(Exception):
    """Delete for ever: the job, or the dead letter whose handler raises it."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)


Why = Literal["timeout", "draining", "lease_lost"]


class JobInterrupted(BaseException):
    """Raised inside a handler at its soft timeout, at the end of a drain, or when its job has become another worker's.

    A BaseException: `except Exception` in a handler must not swallow it.
    """

    why: Why = "timeout"

    def __init__(self, why: Why) -> None:
        super().__init__(why)
        self.why: Why = why


class Disturbed(BaseException):
    """Other code than the job's own has cancelled it: it goes back, and no attempt is spent. Handlers never see it."""


class Kind(StrEnum):
    """How a run ended. The values are telemetry's `worker.job.outcome`."""

    SUCCEEDED = "succeeded"
    RETRIED = "retried"
    DEAD_LETTERED = "dead_lettered"
    RELEASED = "released"
    DISCARDED = "discarded"
    RESTED = "rested"
    LEASE_LOST = "lease_lost"  # the job is another worker's: this one neither settles nor charges it


@frozen
class Outcome:
    """What is to be done with a job after a run.

    Attributes:
        kind: how the run ended.
        delay: seconds until it may run again; for RETRIED and RELEASED.
        failure: what failed; for RETRIED and DEAD_LETTERED.
        message: why the handler discarded it; for DISCARDED.
    """

    kind: Kind
    delay: float = 0.0
    failure: Failure | None = None
    message: str = ""


@frozen
class Settlement:
    """A lease with the outcome that settles it."""

    lease: Lease
    outcome: Outcome


_WORDS = (RetryLater, Snooze, Reject, Discard)

SUCCEEDED, RESTED = Outcome(Kind.SUCCEEDED), Outcome(Kind.RESTED)


def fail(failure: Failure, policy: RetryPolicy, *, delay: float | None = None, final: bool = False) -> Outcome:
    """A failed attempt becomes a retry, or a dead letter once the policy is used up (or `final`)."""
    if final or failure.attempt >= policy.max_attempts:
        return Outcome(Kind.DEAD_LETTERED, failure=failure)
    return Outcome(Kind.RETRIED, delay=policy.delay(failure.attempt) if delay is None else delay, failure=failure)


def conceal(error: BaseException) -> None:
    """Makes `describe` leave out the exception's text, which may quote a payload."""
    if not issubclass(type(error), _WORDS):
        with contextlib.suppress(Exception):  # an exception class may refuse attributes
            setattr(error, CONCEALED, True)


def reason_of(error: BaseException) -> Reason:
    """Why an attempt failed that ended with this exception."""
    kind = type(error)  # isinstance() would ask the exception's own __class__
    if issubclass(kind, JobInterrupted):
        return "timeout"
    return "rejected" if issubclass(kind, Reject) else "error"
