"""What a run decided, and the exceptions with which a handler says it."""

from __future__ import annotations

import contextlib
import traceback
from enum import StrEnum
from typing import Literal

from framework.frozen import frozen
from framework.job import Failure, Reason
from framework.retry import RetryPolicy, Seconds, seconds


class RetryLater(Exception):
    """Retry, by the policy or after a delay of your own (seconds)."""

    def __init__(self, reason: str = "", *, delay: Seconds | None = None) -> None:
        super().__init__(reason)
        self.delay = None if delay is None else max(0.0, seconds(delay))


class Snooze(Exception):
    """Back to the queue, no attempt spent, optionally after a delay (seconds)."""

    def __init__(self, *, delay: Seconds = 0) -> None:
        super().__init__(f"snoozed for {seconds(delay):g} s")
        self.delay = max(0.0, seconds(delay))


class Reject(Exception):
    """Dead letter now."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)


class Discard(Exception):
    """Delete for ever: the job, or the dead letter whose handler raises it."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)


class JobInterrupted(BaseException):
    """Raised inside a handler at its soft timeout or at the end of a drain.

    A BaseException: `except Exception` in a handler must not swallow it.
    """

    def __init__(self, why: Literal["timeout", "draining"]) -> None:
        super().__init__(why)
        self.why: Literal["timeout", "draining"] = why


class Kind(StrEnum):
    """How a run ended. The values are telemetry's `worker.job.outcome`."""

    SUCCEEDED = "succeeded"
    RETRIED = "retried"
    DEAD_LETTERED = "dead_lettered"
    RELEASED = "released"
    DISCARDED = "discarded"
    RESTED = "rested"


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


_WORDS = (RetryLater, Snooze, Reject, Discard)
_CONCEALED = "__worker_concealed__"

SUCCEEDED, RESTED = Outcome(Kind.SUCCEEDED), Outcome(Kind.RESTED)


def error_type(error: BaseException) -> str:
    """Qualified name of the class, as telemetry's `error.type` wants it; builtins without their module."""
    cls = type(error)
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


def fail(failure: Failure, policy: RetryPolicy, *, delay: float | None = None, final: bool = False) -> Outcome:
    """A failed attempt becomes a retry, or a dead letter once the policy is used up (or `final`)."""
    if final or failure.attempt >= policy.max_attempts:
        return Outcome(Kind.DEAD_LETTERED, failure=failure)
    return Outcome(Kind.RETRIED, delay=policy.delay(failure.attempt) if delay is None else delay, failure=failure)


def conceal(error: BaseException) -> None:
    """Makes `describe` leave out the exception's text, which may quote a payload."""
    if not isinstance(error, _WORDS):
        with contextlib.suppress(Exception):  # an exception class may refuse attributes
            setattr(error, _CONCEALED, True)


def describe(error: BaseException, *, limit: int = 2000) -> tuple[str, str]:
    """(message, tail of the traceback). Never raises: a broken `__str__` gets its class name."""
    if getattr(error, _CONCEALED, False):
        trace = "".join(traceback.format_tb(error.__traceback__))
        return f"{error_type(error)} in a validator of the payload", _text(trace[-limit:])
    try:
        message = str(error) or type(error).__name__
    except Exception:  # a handler's exception is not ours to trust
        message = f"{type(error).__name__} (its __str__ failed)"
    try:
        trace = "".join(traceback.format_exception(error))
    except Exception:
        trace = ""
    return _text(message[:1000]), _text(trace[-limit:])


def _text(value: str) -> str:
    """Without lone surrogates (file names have some), which neither JSON nor a span can carry."""
    return value.encode("utf-8", "replace").decode()


def reason_of(error: BaseException) -> Reason:
    """Why an attempt failed that ended with this exception."""
    if isinstance(error, JobInterrupted):
        return "timeout"
    return "rejected" if isinstance(error, Reject) else "error"
