"""Leases of this process that are not settled yet: each is tried again after growing delays, and no other job waits."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from framework.model.backoff import Later, Retried
from framework.model.outcome import Settlement

FIRST_RETRY, LAST_RETRY = 0.05, 2.0  # seconds between tries; a recovery of the engine is noticed within 5 s


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
    def job_id(self) -> str:
        """Return the id of its job."""
        return self.settlement.lease.job.id


class UnsettledLeases(Later[Unsettled]):
    """The leases that a worker keeps until they are settled. The helper thread of its claims adds to them, too."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(FIRST_RETRY, LAST_RETRY, clock=clock)
