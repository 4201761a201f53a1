"""The plain model that test_model compares an engine with: every job, and what may be true of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from framework.engine.port import JobView
from framework.model.job import Failure, Job, Lease

SLACK = 0.005  # seconds by which an engine may round a moment


@dataclass(eq=False)
class Known:
    """A job as it must be.

    Attributes:
        queue, state: where it is; `waiting` is ready or delayed.
        due: when it is due, at the earliest and at the latest: the call that set it took time.
        untouched: never claimed, never delayed: these come out in the order of their enqueue.
        holder: name of the owner that may settle it; empty: dead.
        claimer: incarnation that claimed it; rescued: the holder has it from a rescue.
        cancelled: while it was claimed.
    """

    job: Job
    number: int
    queue: str
    due: tuple[float, float]
    untouched: bool
    state: str = "waiting"
    attempt: int = 0
    delivery: int = 0
    history: list[Failure] = field(default_factory=list)
    holder: str = ""
    claimer: str = ""
    rescued: bool = False
    cancelled: bool = False
    lease: Lease | None = None

    @property
    def is_dead_letter(self) -> bool:
        return self.queue != self.job.queue

    def surely_due(self, now: float) -> bool:
        return self.due[1] + SLACK <= now or self.due == (0, 0)

    def maybe_due(self, now: float) -> bool:
        return self.due[0] - SLACK <= now

    def claimed(self, *, holder: str, claimer: str, lease: Lease | None) -> None:
        self.state, self.untouched, self.rescued = "in_flight", False, False
        self.delivery += 1
        self.holder, self.claimer, self.lease = holder, claimer, lease

    def wait(self, due: tuple[float, float] = (0, 0), queue: str | None = None) -> None:
        self.state, self.due, self.holder, self.lease = "waiting", due, "", None
        self.queue = queue or self.queue

    def die(self) -> None:
        self.state, self.attempt, self.holder, self.lease = "dead", 0, "", None

    def add(self, failure: Failure) -> None:
        self.history.append(failure)
        if len(self.history) > 11:
            del self.history[1]

    def check_lease(self, lease: Lease) -> None:
        assert lease.queue == self.queue
        assert (lease.attempt, lease.delivery) == (self.attempt + 1, self.delivery)
        self._check_job(lease.job)

    def check_view(self, view: JobView) -> None:
        assert (view.attempt, view.delivery) == (self.attempt, self.delivery)
        self._check_job(view.job)

    def _check_job(self, job: Job) -> None:
        assert (job.id, job.uid, job.queue, job.payload) == (
            self.job.id, self.job.uid, self.job.queue, self.job.payload,
        )  # fmt: skip
        assert list(job.history) == self.history


class Model:
    """All jobs that must exist, and apart from them the cancelled ones."""

    def __init__(self) -> None:
        self.jobs: dict[bytes, Known] = {}
        self.cancelled: dict[bytes, Known] = {}
        self._number = 0

    def add(self, job: Job, due: tuple[float, float]) -> None:
        self._number += 1
        self.jobs[job.uid] = Known(job, self._number, job.queue, due, untouched=due == (0, 0))

    def remove(self, known: Known) -> None:
        del self.jobs[known.job.uid]

    def cancel(self, known: Known) -> None:
        """It will not run: neither id nor place is taken any more."""
        self.remove(known)
        self.cancelled[known.job.uid] = known

    def where(self, **wanted: object) -> list[Known]:
        """The jobs whose attributes have these values."""
        return [one for one in self.jobs.values() if all(getattr(one, name) == wish for name, wish in wanted.items())]

    def is_duplicate(self, job: Job, batch: Iterable[Job]) -> bool:
        others = [*(known.job for known in self.jobs.values()), *batch]
        return job.chosen_id and any((job.queue, job.id) == (other.queue, other.id) for other in others)

    def check_order(self, queue: str, claimed: Sequence[bytes]) -> None:
        """Of the untouched of each priority, exactly the oldest came out, in order; an engine may see that a job is
        urgent a moment late. To be called before they are marked as claimed."""
        every = sorted(self.where(queue=queue, state="waiting", untouched=True), key=lambda known: known.number)
        for priority in {known.job.extras.priority for known in every}:
            untouched = [known.job.uid for known in every if known.job.extras.priority == priority]
            got = [uid for uid in claimed if uid in untouched]
            assert got == untouched[: len(got)]
