"""A run on a machine that is gone: the worker that claims its job next charges it, as a rescuer does where it can."""

from __future__ import annotations

from dataclasses import replace

from framework.maintenance.rescue import lost_failure
from framework.model.attempt import Attempt, SpanIdentity, Tracing
from framework.model.events import AttemptLost
from framework.model.job import Failure, Lease, RunRecord
from framework.model.options import QueueOptions
from framework.model.outcome import Outcome, fail

_MESSAGE = "the machine on which it ran this job does not answer any more"


def attempt_elsewhere(lease: Lease, run: RunRecord, options: QueueOptions, tracing: Tracing) -> Attempt:
    """Return the run before this delivery, with its ids."""
    run = identified(tracing, lease, run)
    identity = SpanIdentity(run.trace_id, run.span_id, run.sampled)
    return Attempt(lease, options, run.started_at, identity, max(0.0, run.started_at - lease.eligible_at))


def identified(tracing: Tracing, lease: Lease, run: RunRecord) -> RunRecord:
    """Return a run with its ids, even if the store knows only that it had started."""
    if run.span_id:
        return run
    return _with_ids(run, tracing.identify(_earlier(lease, run), run.started_at))


def charged(attempt: Attempt, run: RunRecord, now: float) -> tuple[Outcome, Failure, AttemptLost]:
    """Return what becomes of the job, why, and the event that makes telemetry send the span of that run."""
    lease, run = _earlier(attempt.lease, run), _with_ids(run, attempt.identity)
    failure = lost_failure(lease, run, "worker_lost", _MESSAGE, now)
    outcome = fail(failure, attempt.options.retry)
    event = AttemptLost(
        lease=lease,
        run=run,
        max_attempts=attempt.options.retry.max_attempts,
        outcome=outcome.kind.value,
        reason=failure.reason,
        owner="",
        ended_at=now,
        delay=outcome.delay,
        message=_MESSAGE,
    )
    return outcome, failure, event


def _with_ids(run: RunRecord, who: SpanIdentity) -> RunRecord:
    return replace(run, trace_id=who.trace_id, span_id=who.span_id, sampled=who.sampled)


def _earlier(lease: Lease, run: RunRecord) -> Lease:
    return replace(lease, delivery=run.delivery, previous=None)
