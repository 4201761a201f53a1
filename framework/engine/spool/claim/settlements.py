"""The settlement of many leases in one call: each by the kind of its outcome, and dead letters together."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from framework.engine.spool.claim.life import Held, Owner
from framework.engine.spool.claim.settle import Burial, Settle
from framework.model.errors import EngineUnavailable, LeaseLost
from framework.model.job import Lease
from framework.model.outcome import Kind, Outcome, Settlement

SUCCEEDED, DISCARDED, RELEASED, RESTED, RETRIED, DEAD_LETTERED = (
    Kind.SUCCEEDED, Kind.DISCARDED, Kind.RELEASED, Kind.RESTED, Kind.RETRIED, Kind.DEAD_LETTERED,
)  # fmt: skip


@dataclass(slots=True, eq=False)
class _Trouble:
    """The leases of one call that were not simply settled.

    Attributes:
        before: leases that an earlier call has settled, which this call repeats.
        lost: leases whose claims were lost.
        failed: leases that could not be settled and stay claimed.
        dying: leases that become dead letters.
        error: the first error that kept a lease from being settled.
    """

    before: list[Held] = field(default_factory=list)
    lost: list[Lease] = field(default_factory=list)
    failed: list[Lease] = field(default_factory=list)
    dying: list[tuple[Lease, Burial]] = field(default_factory=list)
    error: OSError | None = None

    def fail(self, lease: Lease, error: OSError) -> None:
        """Note that a lease could not be settled and stays as it was."""
        self.error = self.error or error
        self.failed.append(lease)


class Settlements:
    """The settlement of leases of one spool. Thread-safe as long as no two calls have the same lease.

    Args:
        settle: the operations on single leases.
        look_again: called with the queue of each lease that could not be settled.
        finish: lets go of a dead owner that has no claims left. May raise OSError.
        unavailable: makes an EngineUnavailable of an error of the operating system.
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
        together = self._together(done) if len(done) > 1 else set()
        settled: list[Held] = list(together)
        trouble: _Trouble | None = None
        dead_owners: dict[str, Owner] = {}
        for one in done:
            lease, outcome = one.lease, one.outcome
            held: Held = lease.token
            if held.owner.dead_owner:
                dead_owners[held.owner.base] = held.owner
            if held in together:
                continue
            if held.settled or outcome.kind is DEAD_LETTERED:
                trouble = trouble or _Trouble()
                self._set_aside(one, held, trouble)
                continue
            try:
                if self._one(lease, held, outcome):
                    settled.append(held)
                    continue
                trouble = trouble or _Trouble()
                trouble.lost.append(lease)
            except OSError as error:
                trouble = trouble or _Trouble()
                trouble.fail(lease, error)
        if trouble is not None and trouble.dying:
            settled += self._bury(trouble)
        for owner in dead_owners.values():
            with contextlib.suppress(OSError):  # then the next rescue() does it
                self._finish(owner)
        if trouble is not None:
            self._tell(settled, trouble)

    def release(self, leases: Sequence[Lease], delay: float) -> None:
        """Give leases back. Raises the same errors as `__call__`."""
        outcome = Outcome(RELEASED, delay=delay)
        self([Settlement(lease, outcome) for lease in leases])

    @staticmethod
    def _together(done: Sequence[Settlement]) -> set[Held]:
        """Settle successes that share a segment together. Return those settled; the others are settled one by one."""
        groups: dict[Any, list[Held]] = {}
        for one in done:
            held: Held = one.lease.token
            if one.outcome.kind is SUCCEEDED and held.segment is not None and not (held.copied or held.settled):
                groups.setdefault(held.segment, []).append(held)
        for segment, inside in groups.items():
            segment.store.finish_all(segment.entry, inside)
        return {held for inside in groups.values() for held in inside if held.settled}

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

    @staticmethod
    def _set_aside(one: Settlement, held: Held, trouble: _Trouble) -> None:
        if held.forgiven:
            trouble.before.append(held)
        elif held.settled:
            trouble.lost.append(one.lease)
        else:
            assert one.outcome.failure is not None
            trouble.dying.append((one.lease, Burial(held, one.outcome.failure, one.lease.is_letter)))

    def _bury(self, trouble: _Trouble) -> set[Held]:
        moved, failed = self._settle.bury([burial for _, burial in trouble.dying])
        errors = dict(failed)
        for lease, burial in trouble.dying:
            if burial.held in errors:
                trouble.fail(lease, errors[burial.held])
            elif burial.held not in moved:
                trouble.lost.append(lease)
        return moved

    def _tell(self, settled: Sequence[Held], trouble: _Trouble) -> None:
        """Raise an error that names the leases that could not be settled, if there are any."""
        for held in (*settled, *trouble.before):
            held.forgiven = trouble.error is not None
        if trouble.error is not None:
            for lease in trouble.failed:
                self._look_again(lease.queue)
            unavailable = self._unavailable("settling", trouble.error)
            unavailable.unsettled = (*trouble.failed, *trouble.lost)
            raise unavailable from trouble.error
        if trouble.lost:
            raise LeaseLost(trouble.lost)
