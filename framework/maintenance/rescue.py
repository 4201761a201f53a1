"""The resolution of abandoned leases: a job is charged, released, or only finished."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from framework.maintenance.accounts import Account
from framework.model.job import Failure, Lease, Reason, RunRecord
from framework.model.options import QueueOptions
from framework.model.outcome import Kind, Outcome, fail
from framework.process.scoreboard import KillReason


def resolve(
    account: Account, options: Mapping[str, QueueOptions], kill_reason: Callable[[str], KillReason | None], now: float
) -> tuple[Outcome, Reason | None]:
    """Return (outcome of the job, why its attempt failed).

    The reason is None if nothing is charged now: the job had not started, its attempt had ended, or the kill was
    planned or meant for another job of the process. A decision of an earlier rescuer stands.
    """
    lease, run, known = account.lease, account.run, account.outcome
    if known is not None and account.resolved:
        return known, None if known.failure is None else known.failure.reason
    if known is not None:
        return _completed(known, lease, now), None
    if run is None:
        return Outcome(Kind.RELEASED), None
    found = kill_reason(account.owner)
    if found is not None and (not found.charges(run.row) or _came_after(found, run, options[lease.queue], now)):
        return Outcome(Kind.RELEASED), None
    reason: Reason = "timeout" if found is not None and found.kind == "timeout" else "worker_lost"
    failure = Failure(
        attempt=lease.attempt,
        reason=reason,
        message=_message(reason, options[lease.queue], found),
        trace_id=run.trace_id,
        error_type=reason,
        span_id=run.span_id,
        queue=lease.queue,
        delivery=lease.delivery,
        started_at=run.started_at,
        ended_at=now,
    )
    return fail(failure, options[lease.queue].retry), reason


def _came_after(kill_reason: KillReason, run: RunRecord, options: QueueOptions, now: float) -> bool:
    """Return whether a run began after the job that a timeout meant. A timeout names a row, and another job may have
    started there before the kill."""
    if kill_reason.kind != "timeout" or options.timeout is None:
        return False
    return now - run.started_at < 0.9 * (options.timeout + options.kill_after)


def _message(reason: str, options: QueueOptions, kill_reason: KillReason | None) -> str:
    if reason == "timeout":
        limit = (options.timeout or 0.0) + options.kill_after
        return f"still running after its hard timeout of {limit:g} s: the process was killed"
    how = f": {kill_reason.detail}" if kill_reason is not None and kill_reason.detail else ""
    return f"the worker process died while it ran this job{how}"


def _completed(reported: Outcome, lease: Lease, now: float) -> Outcome:
    """Return a recorded outcome with its failure, which the version before this kept in the job's history."""
    if reported.kind not in (Kind.RETRIED, Kind.DEAD_LETTERED) or reported.failure is not None:
        return reported
    known = [failure for failure in lease.job.history if failure.delivery == lease.delivery]
    lost = Failure(
        attempt=lease.attempt,
        reason="error",
        message="the attempt failed; its process died before it could store the error (see the trace)",
        error_type="error",
        queue=lease.queue,
        delivery=lease.delivery,
        ended_at=now,
    )
    return replace(reported, failure=known[-1] if known else lost)
