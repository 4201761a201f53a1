"""The event of a run that has ended."""

from __future__ import annotations

from framework.model.attempt import Attempt
from framework.model.events import JobFinished
from framework.model.outcome import Outcome


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
