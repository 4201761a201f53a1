"""The event and the failure of a run that has ended."""

from __future__ import annotations

from typing import cast

from framework.model.attempt import Attempt
from framework.model.events import JobFinished
from framework.model.job import Failure
from framework.model.outcome import JobInterrupted, Outcome, reason_of
from framework.model.text.exceptions import describe, error_type
from framework.service.codec import UndecodablePayload


def finished(attempt: Attempt, outcome: Outcome, duration: float) -> JobFinished:
    """Return the event of a run that ended."""
    lease, identity, failure = attempt.lease, attempt.identity, outcome.failure
    # Positional arguments where possible: a name costs as much as a value, and this runs for every job.
    return JobFinished(
        lease.queue,
        lease.job.id,
        lease.attempt,
        attempt.options.retry.max_attempts,
        lease.delivery,
        outcome.kind.value,
        attempt.wait,
        duration,
        outcome.delay,
        failure.reason if failure is not None else None,
        failure.error_type if failure is not None else "",
        failure.message if failure is not None else outcome.message,
        failure.traceback if failure is not None else "",
        identity.trace_id,
        identity.span_id,
    )


def failed(attempt: Attempt, error: BaseException, now: float) -> Failure:
    """Return the failure of a run that ended by an exception at `now`, seconds since the epoch."""
    lease = attempt.lease
    message, trace = describe(error)
    kind, interrupted = type(error), cast("JobInterrupted", error)
    if issubclass(kind, JobInterrupted) and attempt.options.timeout is not None:
        location = f": its handler stood in {interrupted.where}" if interrupted.where else ""
        message = f"stopped at its timeout of {attempt.options.timeout:g} s{location}"
    undecodable = issubclass(type(error), UndecodablePayload)
    return Failure(
        attempt=lease.attempt,
        reason="invalid_payload" if undecodable else reason_of(error),
        message=message,
        traceback="" if undecodable else trace,
        trace_id=attempt.identity.trace_id,
        exception=error,
        error_type=telemetry_type(error),
        span_id=attempt.identity.span_id,
        queue=lease.queue,
        delivery=lease.delivery,
        started_at=attempt.started_at,
        ended_at=now,
    )


def telemetry_type(error: BaseException) -> str:
    """Return `error.type`: the exception's class, or the framework's reason if the framework ended the run."""
    if issubclass(type(error), UndecodablePayload):
        return "invalid_payload"
    return "timeout" if issubclass(type(error), JobInterrupted) else error_type(error)
