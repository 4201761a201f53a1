"""The account of an abandoned lease's attempt, and its resolution: a job is charged, released, or only finished."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace

from framework.engine.answers import checked
from framework.engine.ledger import DeadLedger, DeadLedgers
from framework.engine.port import MOST_UNCHARGED, MOST_UNCHARGED_ELSEWHERE, Engine, Rescued
from framework.model.black_box import BlackBox
from framework.model.errors import answer
from framework.model.job import Failure, Lease, Reason, RunRecord
from framework.model.options import QueueOptions, of_job
from framework.model.outcome import Kind, Outcome, fail
from framework.process.scoreboard import KillReason


@dataclass(frozen=True, slots=True)
class Account:
    """A lease whose owner is dead, and how far its attempt had come: the engine's lease joined with its owner's ledger.

    Attributes:
        lease: the lease, settled like any other.
        owner: the incarnation of the dead process.
        run: the run; None: the job had not started.
        outcome: how the attempt ended; None: it was running.
        ended_at: when it ended, seconds since the epoch; 0: unknown.
        resolved: an earlier rescuer, dead by now, had decided the outcome.
        sent: telemetry has the attempt.
        about: what the dead process said of itself, for telemetry; empty: unknown.
    """

    lease: Lease
    owner: str
    run: RunRecord | None = None
    outcome: Outcome | None = None
    ended_at: float = 0.0
    resolved: bool = False
    sent: bool = False
    about: bytes = b""


@dataclass(eq=False)
class Accounts:
    """The reader of the ledgers of dead owners, which also records there what becomes of their jobs.

    Args:
        engine: the open engine.
        ledgers: those of this machine; None: there are none, and only the engine knows what had started.
        identify: adds the ids to a run of which the store knows only that it had started.
    """

    engine: Engine
    ledgers: DeadLedgers | None
    identify: Callable[[Lease, RunRecord], RunRecord] = lambda lease, run: run
    _open: Counter[str] = field(default_factory=Counter)  # number of unsettled leases by owner

    def of(self, rescued: Rescued) -> Account:
        """Return what is known of a lease. Raises OSError, EngineUnavailable: it cannot be read now; ask again
        later."""
        found = self._known(rescued)
        self._open[rescued.owner] += 1
        return found

    def _known(self, rescued: Rescued) -> Account:
        lease, owner, run = rescued.lease, rescued.owner, rescued.run
        ledger = None if self.ledgers is None else self.ledgers.of(owner)
        entry = None if ledger is None else ledger.entry(lease)
        about = b"" if ledger is None else ledger.about
        if entry is not None:
            known = (entry.run, entry.outcome, entry.ended_at, entry.resolved, entry.sent)
            return Account(lease, owner, *known, about=about)
        if run is not None:  # on another machine, or in a worker of the version before, which told telemetry first
            outcome = rescued.reported
            return Account(lease, owner, self.identify(lease, run), outcome, sent=outcome is not None, about=about)
        try:
            unaccounted = checked(self.engine, "unaccounted", self.engine.unaccounted(lease), int)
        except Exception as error:
            raise answer(error) from None
        if unaccounted > (MOST_UNCHARGED_ELSEWHERE if rescued.elsewhere else MOST_UNCHARGED):
            run = RunRecord(row=0, delivery=lease.delivery, attempt=lease.attempt, started_at=time.time())
        return Account(lease, owner, run, about=about)

    def resolve(self, account: Account, outcome: Outcome) -> None:
        """Record the outcome of a job whose attempt had not ended, before telemetry or the engine get it."""
        self._record(account, lambda ledger: ledger.resolve(account.lease, outcome))

    def sent(self, account: Account) -> None:
        """Record that telemetry has the attempt."""
        self._record(account, lambda ledger: ledger.sent(account.lease))

    def settled(self, account: Account) -> None:
        """Record that the engine has the settlement; remove the owner's ledger after its last lease."""
        self._record(account, lambda ledger: ledger.free(account.lease))
        self._open[account.owner] -= 1
        if self._open[account.owner] <= 0:
            del self._open[account.owner]
            if self.ledgers is not None:
                self.ledgers.finished(account.owner)

    def sweep(self, queues: Collection[str], *, complete: bool) -> None:
        """Remove ledgers that no lease needs any more; see `DeadLedgers.sweep`."""
        if self.ledgers is not None:
            with contextlib.suppress(OSError):  # the next turn does it
                self.ledgers.sweep(queues, complete=complete and not self._open)

    def _record(self, account: Account, record: Callable[[DeadLedger], None]) -> None:
        """Write into the owner's ledger where there is one. If that fails, a later rescuer decides again."""
        with contextlib.suppress(OSError):
            ledger = None if self.ledgers is None else self.ledgers.of(account.owner)
            if ledger is not None:
                record(ledger)


def resolve(
    account: Account,
    options: Mapping[str, QueueOptions],
    kill_reason: Callable[[str], KillReason | None],
    now: float,
    box: BlackBox | None = None,
) -> tuple[Outcome, Reason | None]:
    """Return (outcome of the job, why its attempt failed).

    The reason is None if nothing is charged now: the job had not started, its attempt had ended, or the kill was
    planned or meant for another job of the process. A decision of an earlier rescuer stands.
    `box`: what is known of where the attempt was killed.
    """
    lease, run, known = account.lease, account.run, account.outcome
    if known is not None and account.resolved:
        return known, None if known.failure is None else known.failure.reason
    if known is not None:
        return _completed(known, lease, now), None
    if run is None:
        return Outcome(Kind.RELEASED), None
    own, found = of_job(options[lease.queue], lease), kill_reason(account.owner)
    if found is not None and (not found.charges(run.row) or _came_after(found, run, own, now)):
        return Outcome(Kind.RELEASED), None
    reason: Reason = "timeout" if found is not None and found.kind == "timeout" else "worker_lost"
    failure = lost_failure(lease, run, reason, _message(reason, own, found, box), now, box)
    return fail(failure, own.retry), reason


def lost_failure(
    lease: Lease, run: RunRecord, reason: Reason, message: str, now: float, box: BlackBox | None = None
) -> Failure:
    """Return the failure of a run that died with its process. Its black box takes the place of the traceback."""
    return Failure(
        attempt=lease.attempt,
        reason=reason,
        message=message,
        traceback=box.text() if box is not None else "",
        trace_id=run.trace_id,
        error_type=reason,
        span_id=run.span_id,
        queue=lease.queue,
        delivery=lease.delivery,
        started_at=run.started_at,
        ended_at=now,
    )


def _came_after(kill_reason: KillReason, run: RunRecord, options: QueueOptions, now: float) -> bool:
    """Return whether a run began after the job that a timeout meant. A timeout names a row, and another job may have
    started there before the kill."""
    if kill_reason.kind != "timeout" or options.timeout is None:
        return False
    return now - run.started_at < 0.9 * (options.timeout + options.kill_after)


def _message(reason: str, options: QueueOptions, kill_reason: KillReason | None, box: BlackBox | None) -> str:
    if reason == "timeout":
        limit = (options.timeout or 0.0) + options.kill_after
        where = f" in {box.where}" if box is not None and box.where else ""
        return f"still running{where} after its hard timeout of {limit:g} s: the process was killed"
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
