"""The second part of the contract with an engine: how people look at jobs, and act on them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar, runtime_checkable

from framework.model.job import Job

State = Literal["ready", "delayed", "in_flight", "dead", "bad", "cancelled"]
# What has become of a job that is to be cancelled: it waited, and will not run; a worker has it, and stops it; it has
# ended or is dead.
Cancelled = Literal["cancelled", "stopping", "gone"]
CANCELLED_KEPT = 86_400.0  # seconds for which a cancelled job is listed, where its queue has no ttl


@dataclass(frozen=True, slots=True)
class JobView:
    """A job as an inspector sees it.

    Attributes:
        queue: the queue where it is now; `job.queue` is its home.
        attempt: attempts charged so far, 0 for a dead letter.
        delivery: claims so far.
        since: when it came into this state, as far as the engine knows, in seconds since the epoch.
        place: where a bad job is. The `job` of a bad one has the file's name as id and the file's first bytes as
            payload.
        flaw: what is wrong with a bad job; empty: it can be read now.
        newer: only a newer version of the framework can read it. It stays where it was. Its id, place and flaw are like
            those of a bad job, and it has no payload.
        cursor: its position in `browse`, for `after`.
        due: of a delayed job: when it may run, in seconds since the epoch.
    """

    job: Job
    queue: str
    state: State
    attempt: int
    delivery: int
    since: float
    place: str = ""
    flaw: str = ""
    newer: bool = False
    cursor: str = ""
    due: float | None = None

    @property
    def is_dead_letter(self) -> bool:
        """Return whether it is a dead letter: in state `dead`, or on a queue that is not its home.

        An archived dead letter is both.
        """
        return self.state == "dead" or self.queue != self.job.queue


V = TypeVar("V", bound=JobView)


def without_replaced(views: Sequence[V]) -> Sequence[V]:
    """Return the views of one id without the cancelled jobs whose id another job has by now."""
    return [view for view in views if view.state != "cancelled"] or views


@dataclass(frozen=True, slots=True)
class Pause:
    """The latest pause or resumption of a queue.

    Attributes:
        paused: no worker claims from the queue.
        by: who did it; empty: unknown.
        since: when, in seconds since the epoch.
    """

    paused: bool
    by: str
    since: float


@runtime_checkable
class Inspector(Protocol):
    """The verbs with which people look at jobs and act on them from the command line. Optional for an engine."""

    def stored_queues(self) -> Sequence[str]:
        """Return the names of all queues in the store, declared or not. `open` makes them readable by plain options."""

    def last_seen(self, queue: str) -> float | None:
        """Return when a running service that declares this queue last did its housekeeping, in seconds since the epoch.

        None: none ever did, or the engine does not know. An idle queue has its turn about once a minute. The queue need
        not be open.
        """

    def browse(self, queue: str, state: State, *, after: str = "") -> Iterator[JobView]:
        """Yield the jobs of a queue in one state, oldest first whatever their priorities.

        With `after`, the `cursor` of a view of the same queue and state, this yields those behind it, also where that
        job is gone. The list may be a moment old. The first jobs cost little however many there are, and memory does
        not grow with their number, except on the engine in memory. Raises UsageError: `after` is no cursor.
        """

    def newer(self, queue: str) -> Iterator[JobView]:
        """Yield jobs that only a newer version can read, as found by a quick look at the oldest jobs of each state."""

    def get(self, queues: Sequence[str], job_id: str) -> Iterator[JobView]:
        """Yield the jobs of an id on these queues in any state but bad, oldest first.

        Cancelled ones are left out where another job has their id by now.
        It costs little however many jobs there are where the id was generated or chosen, and a job has it.
        """

    def find(self, queue: str, job_id: str, state: State) -> JobView | None:
        """Return one job, or a bad one by its file's name, or None."""

    def replay(self, view: JobView) -> bool:
        """Move a dead letter, handled or not, to the end of its home queue. False: it was no longer there.

        The job keeps its id and uid, has attempt 0 and its full ttl again, and is never refused for length.
        """

    def discard(self, view: JobView) -> bool:
        """Delete an unclaimed job for ever. False: it was no longer there."""

    def cancel(self, view: JobView) -> Cancelled:
        """Cancel a job, wherever it is by now: it is not delivered any more. Idempotent.

        A waiting job, ready or delayed, leaves the queue at once: a claim has it, or this verb, never both. It is
        listed as `cancelled` for the queue's ttl, or for CANCELLED_KEPT seconds, then it is deleted. A chosen id is
        free at once. A job that is claimed gets a mark (see `Engine.cancelled`). Dead letters are left alone: "gone".
        """

    def restore(self, view: JobView) -> str:
        """Put a bad job back among the jobs of its queue, if it can be read; return "", or why not."""

    def pause(self, queue: str, by: str) -> bool:
        """Stop all claims from a queue until it is resumed. False: it was paused already, and nothing has changed.

        Running workers take no more jobs of it after about a second, on all machines and after restarts. Jobs that run
        go on; enqueues, delays, expiry and the acts on jobs are as ever. `by` says who does it.
        """

    def resume(self, queue: str, by: str) -> bool:
        """End a pause. False: the queue was not paused, and nothing has changed."""

    def paused(self, queue: str) -> Pause | None:
        """Return the latest pause or resumption of a queue; None: there was none."""
