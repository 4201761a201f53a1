"""One job in a store in memory."""

from __future__ import annotations

from dataclasses import dataclass, replace

from framework.engine.port import JobView, State
from framework.model.job import Failure, Job, kept


@dataclass(slots=True, eq=False)
class Row:
    """A job with its queue and state.

    Attributes:
        queue: the queue that holds it; for a dead letter it differs from `job.queue`.
        serial: key of the row.
        position: where it is in the order; a replay takes a new one.
        ttl_from: when its ttl began, seconds since the epoch.
        owner: the owner that claimed it; "" when it is not claimed.
        holder: the owner that may settle it now, which may be a rescuer; "" when it is not claimed.
        unaccounted: number of deliveries of which no record tells how they ended, and the last that was counted.
        cancelled: it was cancelled while it was claimed.
        again: it was claimed and waits again, as for a retry.
    """

    job: Job
    queue: str
    serial: int
    position: int
    eligible_at: float
    ttl_from: float
    state: State = "ready"
    since: float = 0.0
    attempt: int = 0
    delivery: int = 0
    owner: str = ""
    holder: str = ""
    unaccounted: tuple[int, int] = (0, 0)
    cancelled: bool = False
    again: bool = False

    @property
    def is_dead_letter(self) -> bool:
        return self.queue != self.job.queue

    def expired(self, now: float) -> bool:
        """Return whether the job's ttl is over; a dead letter does not expire by its job's ttl."""
        return not self.is_dead_letter and self.job.ttl is not None and now >= self.ttl_from + self.job.ttl

    def add_failure(self, failure: Failure) -> None:
        """Add a failure to the history, without its exception, whose traceback would keep every frame alive."""
        self.job = replace(self.job, history=kept((*self.job.history, replace(failure, exception=None))))

    def view(self, state: State) -> JobView:
        due = self.eligible_at if state == "delayed" else None
        cursor = str(self.position)
        return JobView(self.job, self.queue, state, self.attempt, self.delivery, self.since, cursor=cursor, due=due)
