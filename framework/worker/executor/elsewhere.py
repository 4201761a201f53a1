"""A run on a machine that is gone: the worker that claims its job next charges it, as a rescuer does where it can."""

from __future__ import annotations

from dataclasses import replace

from framework.model.attempt import Attempt, SpanIdentity, Tracing
from framework.model.events import AttemptLost
from framework.model.job import Failure, Lease, RunRecord
from framework.model.options import QueueOptions
from framework.model.outcome import Outcome

_MESSAGE = "the machine on which it ran this job does not answer any more"


def attempt_elsewhere(lease: Lease, options: QueueOptions, tracing: Tracing) -> Attempt:
    """Return the run before this delivery, with its ids."""
    run = identified(tracing, lease, _run(lease))
    identity = SpanIdentity(run.trace_id, run.span_id, run.sampled)
    return Attempt(lease, options, run.started_at, identity, max(0.0, run.started_at - lease.eligible_at))


def identified(tracing: Tracing, lease: Lease, run: RunRecord) -> RunRecord:
    """Return a run with its ids, even if the store knows only that it had started."""
    if run.span_id:
        return run
    who = tracing.identify(_earlier(lease, run), run.started_at)
    return replace(run, trace_id=who.trace_id, span_id=who.span_id, sampled=who.sampled)


def loss_elsewhere(attempt: Attempt, now: float) -> Failure:
    """Return the failure of that run."""
    lease, run = attempt.lease, _run(attempt.lease)
    return Failure(
        attempt=lease.attempt,
        reason="worker_lost",
        message=_MESSAGE,
        trace_id=attempt.identity.trace_id,
        error_type="worker_lost",
        span_id=attempt.identity.span_id,
        queue=lease.queue,
        delivery=run.delivery,
        started_at=run.started_at,
        ended_at=now,
    )


def lost_elsewhere(attempt: Attempt, outcome: Outcome, failure: Failure) -> AttemptLost:
    """Return the event that makes telemetry send the span of that run."""
    run, who = _run(attempt.lease), attempt.identity
    return AttemptLost(
        lease=_earlier(attempt.lease, run),
        run=replace(run, trace_id=who.trace_id, span_id=who.span_id, sampled=who.sampled),
        max_attempts=attempt.options.retry.max_attempts,
        outcome=outcome.kind.value,
        reason=failure.reason,
        owner="",
        ended_at=failure.ended_at,
        delay=outcome.delay,
        message=failure.message,
    )


def _run(lease: Lease) -> RunRecord:
    assert lease.previous is not None
    return lease.previous


def _earlier(lease: Lease, run: RunRecord) -> Lease:
    return replace(lease, delivery=run.delivery, previous=None)
