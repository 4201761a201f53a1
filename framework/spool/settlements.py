"""One call that ends many claims: each by its kind, dead letters together, and then what is left."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from framework.errors import EngineUnavailable, LeaseLost
from framework.job import Lease
from framework.outcome import Kind, Outcome, Settlement
from framework.spool.life import Held, Owner
from framework.spool.settle import Burial, Settle

SUCCEEDED, DISCARDED, RELEASED, RESTED, RETRIED = (
    Kind.SUCCEEDED, Kind.DISCARDED, Kind.RELEASED, Kind.RESTED, Kind.RETRIED,
)  # fmt: skip


@dataclass(slots=True, eq=False)
class _Call:
    """What has become of the leases of one call.

    Attributes:
        settled: by this call, or by an earlier one of which this is the repetition.
        dying: leases that become dead letters.
        error: the first that kept a lease from being settled.
    """

    settled: list[Held] = field(default_factory=list)
    lost: list[Lease] = field(default_factory=list)
    failed: list[Lease] = field(default_factory=list)
    dying: list[tuple[Lease, Burial]] = field(default_factory=list)
    error: OSError | None = None

    def ended(self, lease: Lease, *, found: bool) -> None:
        """A verb has come to its end; the claim was lost unless it was found."""
        if found:
            self.settled.append(lease.token)
        else:
            self.lost.append(lease)

    def fail(self, lease: Lease, error: OSError) -> None:
        """The lease stays as it was."""
        self.error = self.error or error
        self.failed.append(lease)


class Settlements:
    """Settles leases of one spool. Thread-safe as far as no two calls have the same lease.

    Args:
        settle: the verbs.
        look_again: is told the queue of a lease that stays.
        finish: lets go of a dead owner none of whose claims is left. May raise OSError.
        unavailable: puts an error of the system in the framework's words.
    """

    def __init__(
        self,
        settle: Settle,
        *,
        look_again: Callable[[str], None],
        finish: Callable[[Owner], None],
        unavailable: Callable[[str, OSError], EngineUnavailable],
    ) -> None:
        self._settle = settle
        self._look_again = look_again
        self._finish = finish
        self._unavailable = unavailable

    def __call__(self, done: Sequence[Settlement]) -> None:
        """Settle all that can be settled. Raises LeaseLost, EngineUnavailable."""
        call = _Call()
        for one in done:
            lease, outcome = one.lease, one.outcome
            held: Held = lease.token
            if held.settled:
                call.ended(lease, found=held.forgiven)
                continue
            if outcome.kind is Kind.DEAD_LETTERED:
                assert outcome.failure is not None
                call.dying.append((lease, Burial(held, outcome.failure, lease.is_letter)))
                continue
            try:
                call.ended(lease, found=self._one(lease, held, outcome))
            except OSError as error:
                call.fail(lease, error)
        if call.dying:
            self._bury(call)
        self._end(call, done)

    def release(self, leases: Sequence[Lease], delay: float) -> None:
        """Give leases back. Raises as a call does."""
        outcome = Outcome(RELEASED, delay=delay)
        self([Settlement(lease, outcome) for lease in leases])

    def _one(self, lease: Lease, held: Held, outcome: Outcome) -> bool:
        kind = outcome.kind
        if kind is SUCCEEDED or kind is DISCARDED:
            return self._settle.ack(held, lease.job.queue, lease.job.id)
        if kind is RELEASED:
            return self._settle.release(held, outcome.delay)
        if kind is RESTED:
            return self._settle.rest(held)
        assert kind is RETRIED
        assert outcome.failure is not None
        return self._settle.retry(held, outcome.delay, outcome.failure)

    def _bury(self, call: _Call) -> None:
        moved, failed = self._settle.bury([burial for _, burial in call.dying])
        errors = dict(failed)
        for lease, burial in call.dying:
            if burial.held in errors:
                call.fail(lease, errors[burial.held])
            else:
                call.ended(lease, found=burial.held in moved)

    def _end(self, call: _Call, done: Sequence[Settlement]) -> None:
        """Let go of owners without claims, and say what could not be settled."""
        for held in call.settled:
            held.forgiven = call.error is not None
        for owner in {owner.base: owner for one in done if (owner := one.lease.token.owner).ward}.values():
            with contextlib.suppress(OSError):  # the next rescue() does it
                self._finish(owner)
        if call.error is not None:
            for lease in call.failed:
                self._look_again(lease.queue)
            unavailable = self._unavailable("settling", call.error)
            unavailable.unsettled = (*call.failed, *call.lost)
            raise unavailable from call.error
        if call.lost:
            raise LeaseLost(call.lost)
