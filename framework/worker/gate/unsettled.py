"""Leases of this process that are not settled yet: each is tried again after growing delays, and no other job waits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from framework.model.job import Lease
from framework.model.outcome import Settlement
from framework.model.retry import Retried

FIRST_RETRY, LAST_RETRY = 0.05, 2.0  # seconds between tries; a recovery of the engine is noticed within 5 s
MOST_NAMED = 5  # jobs named in one line


@dataclass(slots=True, eq=False)
class Unsettled(Retried):
    """A lease and the outcome that is to be settled.

    Attributes:
        settlement: the lease and its outcome.
        row: the row on which the job ran; None: it has not started.
    """

    settlement: Settlement
    row: int | None = None

    @property
    def key(self) -> tuple[bytes, int]:
        """Return what identifies its lease."""
        return key_of(self.settlement.lease)


def key_of(lease: Lease) -> tuple[bytes, int]:
    """Return what identifies a lease: an engine may name it by an equal one."""
    return lease.job.uid, lease.delivery


def parted(items: Sequence[Unsettled], leases: Sequence[Lease]) -> tuple[list[Unsettled], list[Unsettled]]:
    """Return the items of these leases, and the others."""
    wanted = {key_of(lease) for lease in leases if isinstance(lease, Lease)}
    return [item for item in items if item.key in wanted], [item for item in items if item.key not in wanted]


def names(items: Sequence[Unsettled]) -> str:
    """Return the ids of the jobs for a line: the first ones, and how many more there are."""
    ids = ", ".join(repr(item.settlement.lease.job.id) for item in items[:MOST_NAMED])
    return f"{ids} and {len(items) - MOST_NAMED} more" if len(items) > MOST_NAMED else ids
