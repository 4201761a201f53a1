"""What is known of an abandoned lease's attempt: the engine's lease joined with the ledger of its dead owner."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass

from framework.engine.ledger import DeadLedger, DeadLedgers, Entry
from framework.engine.port import MOST_UNCHARGED, Broker, Rescued
from framework.model.errors import answer
from framework.model.job import Lease, RunRecord
from framework.model.outcome import Outcome


@dataclass(frozen=True, slots=True)
class Account:
    """A lease whose owner is dead, and how far its attempt had come.

    Attributes:
        lease: settle it like any other.
        owner: incarnation of the dead process.
        run: None = the job had not started.
        outcome: how the attempt ended; None = it was running.
        ended_at: when it ended, seconds since the epoch; 0 = not known.
        resolved: a rescuer that died in turn had decided the outcome.
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
    """Return the run."""
    return run


class Accounts:
    """Looks into the ledgers of dead owners, and writes there what becomes of their jobs.

    Args:
        broker: the open engine.
        ledgers: of this machine; None: there are none, and only the engine tells what had started.
        identify: the ids of a run of which the store knows only that it had started.
    """

    def __init__(
        self, broker: Broker, ledgers: DeadLedgers | None, identify: Callable[[Lease, RunRecord], RunRecord] = as_it_is
    ) -> None:
        self._broker = broker
        self._identify = identify
        self._ledgers = ledgers
        self._open: Counter[str] = Counter()  # leases that are not settled, by owner

    def of(self, rescued: Rescued) -> Account:
        """Return what is known of a lease. Raises OSError, EngineUnavailable: it cannot be read now; ask again."""
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
            unaccounted = self._broker.unaccounted(lease)
        except Exception as error:
            raise answer(error) from None
        if unaccounted > MOST_UNCHARGED:
            run = RunRecord(row=0, delivery=lease.delivery, attempt=lease.attempt, started_at=time.time())
        return Account(lease, rescued.owner, run)

    def _entry(self, rescued: Rescued) -> Entry | None:
        ledger = None if self._ledgers is None else self._ledgers.of(rescued.owner)
        return None if ledger is None else ledger.entry(rescued.lease)

    def resolve(self, account: Account, outcome: Outcome) -> None:
        """Write down what becomes of a job whose attempt had no end, before telemetry or the engine hear of it.

        Where that fails, a rescuer that comes after us decides anew.
        """
        ledger = self._of_owner(account)
        if ledger is not None:
            with contextlib.suppress(OSError):
                ledger.resolve(account.lease, outcome)

    def told(self, account: Account) -> None:
        """Telemetry has the attempt."""
        ledger = self._of_owner(account)
        if ledger is not None:
            ledger.told(account.lease)

    def settled(self, account: Account) -> None:
        """The engine has the settlement: with the last lease of an owner its ledger goes."""
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
    """Of another machine, or of a worker of the version before, which told telemetry before the engine."""
    outcome = rescued.reported
    return Account(rescued.lease, rescued.owner, run, outcome, told=outcome is not None)
