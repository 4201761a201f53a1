"""Abandoned leases (leases of dead owners): their rescue, resolution and settlement."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass

from framework.engine.answers import cancelled_of, rescued_by
from framework.engine.ledger import DeadLedgers
from framework.engine.port import Engine, Rescued
from framework.maintenance.rescue import Account, Accounts, resolve
from framework.model.black_box import BlackBox
from framework.model.errors import EngineUnavailable, LeaseLost, answer
from framework.model.events import AttemptLost, EngineFailed, EngineRecovered, Event, JobsRescued, LeasesLost
from framework.model.job import Lease, Reason, RunRecord
from framework.model.options import QueueOptions, of_job
from framework.model.outcome import CANCELLED, Outcome, Settlement
from framework.model.retry import Later, Retried
from framework.process.scoreboard import KillReason

FIRST_RETRY, LAST_RETRY = 0.5, 30.0  # seconds until a lease that could not be settled is tried again
MOST_FAILURES = 3  # failures in a row after which the engine counts as failing, not these leases
PAUSE = 1.0  # seconds without a try after those


@dataclass(slots=True, eq=False)
class _Abandoned(Retried):
    """One abandoned lease. It is resolved only once, because that sends the span of its attempt; it is settled when
    possible.

    Attributes:
        account: what is known of its attempt; None: its owner's ledger could not be read yet.
        sent: telemetry has the attempt.
        resolved: the outcome of the job, and why its attempt failed.
    """

    rescued: Rescued
    account: Account | None = None
    sent: bool = False
    resolved: tuple[Outcome, Reason | None] | None = None


@dataclass(eq=False)
class AbandonedLeases:
    """The collector of abandoned leases: it takes them from the engine, resolves each, and settles it.

    A lease that cannot be settled (a bad sector, a quota) is tried again after growing delays; no other lease waits for
    it.

    Args:
        engine: the open engine.
        options: options of all queues that the app knows, by name.
        emit: takes the events.
        kill_reason: returns why an incarnation ended.
        after_loss: called for each charged attempt after its settlement.
        knows: returns the span ids of those runs that telemetry already has.
        ledgers: the ledgers of dead owners on this machine.
        identify: see Accounts.
        black_box: returns what is known of a lease's attempt that was killed with its owner.
        clock: returns monotonic seconds.
    """

    engine: Engine
    options: Mapping[str, QueueOptions]
    emit: Callable[[Event], None]
    _: KW_ONLY
    kill_reason: Callable[[str], KillReason | None]
    after_loss: Callable[[Rescued, Outcome], None]
    knows: Callable[[Sequence[RunRecord]], Collection[str]] = lambda _: ()
    ledgers: DeadLedgers | None = None
    identify: Callable[[Lease, RunRecord], RunRecord] = lambda lease, run: run
    black_box: Callable[[str, Lease], BlackBox | None] = lambda owner, lease: None
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self._accounts = Accounts(self.engine, self.ledgers, self.identify)
        self._due: deque[_Abandoned] = deque()
        self._failed = Later[_Abandoned](FIRST_RETRY, LAST_RETRY, clock=self.clock)
        self._paused_until = 0.0

    def step(self, until: float) -> bool:
        """Collect new leases, then settle until `until` (monotonic seconds), at least one. Return whether no lease is
        left that could be tried now. Raises EngineUnavailable: the engine fails, and all is tried again."""
        unavailable: EngineUnavailable | LeaseLost | None = None
        found: Sequence[Rescued] = ()
        try:
            found, unavailable = rescued_by(self.engine)
        except Exception as error:  # leases that were collected before can still be settled
            unavailable = answer(error)
        self._collect(found)
        self._due.extend(self._looked_up(self._failed.due()))
        if self.clock() >= self._paused_until:
            self._settle_until(until)
        if unavailable is not None:
            raise unavailable
        return not self._due

    def _collect(self, rescued: Sequence[Rescued]) -> None:
        """Queue new leases in front: unstarted ones first, then the oldest first.

        So a rescuer that is killed again and again gets to each lease. New leases come before those that may fail
        again.
        """
        self._due.extendleft(reversed(self._looked_up([_Abandoned(one) for one in rescued])))

    def _looked_up(self, items: Sequence[_Abandoned]) -> list[_Abandoned]:
        """Return, in order, the leases that can be settled, each with what is known of its attempt.

        Telemetry is asked once for all of them, because it searches all rings. The owners are dead, so their records
        are complete.
        """
        new = [item for item in items if item.account is None]
        for item in new:
            try:
                item.account = self._accounts.of(item.rescued)
            except OSError as error:
                self._postpone(item, error)
            except Exception as error:
                self._postpone(item, answer(error))
        runs = [run for item in new if item.account and not item.account.sent and (run := item.account.run)]
        known = self.knows(runs) if runs else ()
        for item in new:
            item.sent = item.account is not None and (item.account.sent or _span_id(item.account) in known)
        return sorted((item for item in items if item.account is not None), key=_started_at)

    def sweep(self) -> None:
        """Remove the ledgers of dead workers that no lease needs. Costs little if no worker is dead."""
        complete = not (self._due or self._failed or self.engine.stuck())
        self._accounts.sweep(self.options.keys(), complete=complete)

    def _settle_until(self, until: float) -> None:
        released: dict[tuple[str, str], list[str]] = {}
        failures = 0
        try:
            while self._due:
                # Each lease is settled before the next is resolved: a rescuer that is killed soon still gets some done.
                item = self._due.popleft()
                try:
                    self._settle(item, released)
                except Exception as error:
                    failed = answer(error)
                    self._postpone(item, failed)
                    failures += 1
                    if failures == MOST_FAILURES:
                        self._paused_until = self.clock() + PAUSE
                        raise failed from None
                else:
                    failures = 0
                if self.clock() >= until:
                    break
        finally:
            for (queue, owner), ids in released.items():
                self.emit(JobsRescued(queue, ids, owner))

    def _settle(self, item: _Abandoned, released: dict[tuple[str, str], list[str]]) -> None:
        rescued, lease, account = item.rescued, item.rescued.lease, item.account
        assert account is not None
        item.resolved = item.resolved or self._resolve(account, sent=item.sent)
        outcome, reason = item.resolved
        try:
            self.engine.settle([Settlement(lease, outcome)])
        except LeaseLost as lost:
            self.emit(LeasesLost(lease.queue, lost.job_ids))
        self._accounts.settled(account)
        if item.failures:
            self.emit(EngineRecovered("settle", self.clock() - item.since))
        if reason is not None:
            self.after_loss(rescued, outcome)
        elif account.run is None:
            released.setdefault((lease.queue, rescued.owner), []).append(lease.job.id)

    def _postpone(self, item: _Abandoned, error: Exception) -> None:
        delay = self._failed.add(item)
        if item.failures == 1:
            self.emit(EngineFailed("settle", f"job {item.rescued.lease.job.id!r}: {error}", delay))

    def _resolve(self, account: Account, *, sent: bool) -> tuple[Outcome, Reason | None]:
        """Return the outcome of a job, and why its attempt failed.

        The decision is first written to the ledger, so that a rescuer that takes over decides the same. Then the
        missing span is sent, before the job is settled: after the settlement nothing would show that the span is
        missing.
        """
        started = account.run is not None and account.outcome is None
        found = self.kill_reason(account.owner) if started else None  # first: it waits for the supervisor
        box = self.black_box(account.owner, account.lease) if started else None
        if started and cancelled_of(self.engine, [account.lease]):
            outcome, reason = CANCELLED, None
        else:
            outcome, reason = resolve(account, self.options, lambda _: found, time.time(), box)
        if account.run is None:
            return outcome, reason
        if account.outcome is None:
            self._accounts.resolve(account, outcome)
        if not sent:
            self.emit(self._lost(account, account.run, outcome, reason, box))
        if not account.sent:
            self._accounts.sent(account)
        return outcome, reason

    def _lost(
        self, account: Account, run: RunRecord, outcome: Outcome, reason: Reason | None, box: BlackBox | None
    ) -> AttemptLost:
        failure, ended = outcome.failure, account.outcome is not None and not account.resolved
        return AttemptLost(
            lease=account.lease,
            run=run,
            max_attempts=of_job(self.options[account.lease.queue], account.lease).retry.max_attempts,
            outcome=outcome.kind.value,
            reason=failure.reason if ended and failure else reason,
            owner=account.owner,
            ended_at=account.ended_at or time.time(),
            delay=outcome.delay,
            message=failure.message if failure else outcome.message,
            ended=ended,
            error_type=failure.error_type if ended and failure else "",
            traceback=failure.traceback if ended and failure else "",
            about=account.about,
            box=box,
        )


def _span_id(account: Account) -> str:
    return account.run.span_id if account.run is not None else ""


def _started_at(item: _Abandoned) -> float:
    return item.account.run.started_at if item.account is not None and item.account.run is not None else 0.0
