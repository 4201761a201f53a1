"""What becomes of the jobs of the dead: charged, handed back, or only finished."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from framework.job import Failure, Lease, Reason, RunRecord
from framework.maintenance.accounts import Account
from framework.outcome import Kind, Outcome, fail
from framework.queues import QueueOptions
from framework.scoreboard import Verdict


def judge(
    account: Account, options: Mapping[str, QueueOptions], verdict: Callable[[str], Verdict | None], now: float
) -> tuple[Outcome, Reason | None]:
    """(what is done with the job, why its attempt failed).

    The reason is None where nothing is charged now: the job had not started, its attempt had ended, or the kill was
    planned or meant for another job of the process. What a rescuer before us has decided stands.
    """
    lease, run, known = account.lease, account.run, account.outcome
    if known is not None and account.resolved:
        return known, None if known.failure is None else known.failure.reason
    if known is not None:
        return _completed(known, lease, now), None
    if run is None:
        return Outcome(Kind.RELEASED), None
    found = verdict(account.owner)
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


def _came_after(verdict: Verdict, run: RunRecord, options: QueueOptions, now: float) -> bool:
    """A timeout names a row: the job that it meant may have ended before the kill, and another begun in its place."""
    if verdict.kind != "timeout" or options.timeout is None:
        return False
    return now - run.started_at < 0.9 * (options.timeout + options.kill_after)


def _message(reason: str, options: QueueOptions, verdict: Verdict | None) -> str:
    if reason == "timeout":
        limit = (options.timeout or 0.0) + options.kill_after
        return f"still running after its hard timeout of {limit:g} s: the process was killed"
    how = f": {verdict.detail}" if verdict is not None and verdict.detail else ""
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
