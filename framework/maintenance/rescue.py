"""What becomes of the jobs of the dead: charged, handed back, or only finished."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from framework.broker import Rescued
from framework.job import Failure, Lease, Reason, RunRecord
from framework.outcome import Kind, Outcome, fail
from framework.queues import QueueOptions
from framework.scoreboard import Verdict


def judge(
    rescued: Rescued, options: Mapping[str, QueueOptions], verdict: Callable[[str], Verdict | None], now: float
) -> tuple[Outcome, Reason | None]:
    """(what is done with the job, why its attempt failed).

    The reason is None where nothing is charged: the job had not started, its outcome was reported already, or the kill
    was planned or meant for another job of the process.
    """
    lease, run = rescued.lease, rescued.run
    if rescued.reported is not None:
        return _completed(rescued.reported, lease, now), None
    if run is None:
        return Outcome(Kind.RELEASED), None
    found = verdict(rescued.owner)
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
    """A reported outcome, with the failure that a run record has no room for."""
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


def has_started(rescued: Rescued) -> RunRecord | None:
    """The run record of an attempt whose span nobody has sent."""
    return None if rescued.reported is not None else rescued.run
