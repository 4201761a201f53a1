"""The account of an abandoned lease's attempt: the engine's lease joined with the ledger of its dead owner."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass

from framework.engine.answers import checked
from framework.engine.ledger import DeadLedger, DeadLedgers, Entry
from framework.engine.port import MOST_UNCHARGED, Engine, Rescued
from framework.model.errors import answer
from framework.model.job import Lease, RunRecord
from framework.model.outcome import Outcome


@dataclass(frozen=True, slots=True)
class Account:
    """A lease whose owner is dead, and how far its attempt had come.

    Attributes:
        lease: the lease, settled like any other.
        owner: the incarnation of the dead process.
        run: the run; None: the job had not started.
        outcome: how the attempt ended; None: it was running.
        ended_at: when it ended, seconds since the epoch; 0: unknown.
        resolved: an earlier rescuer, dead by now, had decided the outcome.
        told: telemetry has the attempt.
    """

    lease: Lease
    owner: str
    run: RunRecord | None = None
    outcome: Outcome | None = None
    ended_at: float = 0.0
    resolved: bool = False
    told: bool = False


def as_it_is(lease: Lease, run: RunRecord) -> RunRecord:
    """Return the run unchanged."""
    return run


class Accounts:
    """The reader of the ledgers of dead owners, which also records there what becomes of their jobs.

    Args:
        engine: the open engine.
        ledgers: those of this machine; None: there are none, and only the engine knows what had started.
        identify: adds the ids to a run of which the store knows only that it had started.
    """

    def __init__(
        self, engine: Engine, ledgers: DeadLedgers | None, identify: Callable[[Lease, RunRecord], RunRecord] = as_it_is
    ) -> None:
        self._engine = engine
        self._identify = identify
        self._ledgers = ledgers
        self._open: Counter[str] = Counter()  # number of unsettled leases by owner

    def of(self, rescued: Rescued) -> Account:
        """Return what is known of a lease. Raises OSError, EngineUnavailable: it cannot be read now; ask again
        later."""
        found = self._known(rescued)
        self._open[rescued.owner] += 1
        return found

    def _known(self, rescued: Rescued) -> Account:
        entry = self._entry(rescued)
        if entry is not None:
            return _account(rescued, entry)
        if rescued.run is not None:
            return _of_store(rescued, self._identify(rescued.lease, rescued.run))
        lease = rescued.lease
        run = None
        try:
            unaccounted = checked(self._engine, "unaccounted", self._engine.unaccounted(lease), int)
        except Exception as error:
            raise answer(error) from None
        if unaccounted > MOST_UNCHARGED:
            run = RunRecord(row=0, delivery=lease.delivery, attempt=lease.attempt, started_at=time.time())
        return Account(lease, rescued.owner, run)

    def _entry(self, rescued: Rescued) -> Entry | None:
        ledger = None if self._ledgers is None else self._ledgers.of(rescued.owner)
        return None if ledger is None else ledger.entry(rescued.lease)

    def resolve(self, account: Account, outcome: Outcome) -> None:
        """Record the outcome of a job whose attempt had not ended, before telemetry or the engine get it.

        If that fails, a later rescuer decides again.
        """
        ledger = self._of_owner(account)
        if ledger is not None:
            with contextlib.suppress(OSError):
                ledger.resolve(account.lease, outcome)

    def told(self, account: Account) -> None:
        """Record that telemetry has the attempt."""
        ledger = self._of_owner(account)
        if ledger is not None:
            ledger.told(account.lease)

    def settled(self, account: Account) -> None:
        """Record that the engine has the settlement; remove the owner's ledger after its last lease."""
        ledger = self._of_owner(account)
        if ledger is not None:
            ledger.free(account.lease)
        self._open[account.owner] -= 1
        if self._open[account.owner] <= 0:
            del self._open[account.owner]
            if self._ledgers is not None:
                self._ledgers.finished(account.owner)

    def sweep(self, queues: Collection[str], *, complete: bool) -> None:
        """Remove ledgers that no lease needs any more; see `DeadLedgers.sweep`."""
        if self._ledgers is not None:
            with contextlib.suppress(OSError):  # the next turn does it
                self._ledgers.sweep(queues, complete=complete and not self._open)

    def _of_owner(self, account: Account) -> DeadLedger | None:
        if self._ledgers is None:
            return None
        with contextlib.suppress(OSError):
            return self._ledgers.of(account.owner)
        return None


def _account(rescued: Rescued, entry: Entry) -> Account:
    return Account(
        rescued.lease, rescued.owner, entry.run, entry.outcome, entry.ended_at, entry.resolved, told=entry.told
    )


def _of_store(rescued: Rescued, run: RunRecord) -> Account:
    """Return the account of a run that only the store knows.

    It ran on another machine, or in a worker of the version before, which told telemetry before the engine.
    """
    outcome = rescued.reported
    return Account(rescued.lease, rescued.owner, run, outcome, told=outcome is not None)
