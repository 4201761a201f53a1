"""The producer's side of a fan-in: `enqueue_many(payloads, then=Reports.done.with_payload(...))`.

The fan-in is stored before its first member, and sealed behind the last. So a producer that is killed on the way leaves
members that run like any other jobs, and no follow-up; its caller has no answer, as after any enqueue that is killed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from framework.engine.fan_in import FanIns, Gathering
from framework.engine.port import Engine
from framework.model.errors import EngineError, EnqueueError, EnqueueFailed, EnqueueUncertain, InvalidArgument
from framework.model.fan_in import as_member
from framework.model.frozen import frozen
from framework.model.job import Job, JobId
from framework.service.request import JobOptions, Request

if TYPE_CHECKING:
    from framework.service.queues import Queue

P = TypeVar("P")


@frozen
class FollowUp(Generic[P]):
    """A job that is enqueued once all members of a fan-in have ended; made by `Queue.with_payload`.

    Attributes:
        queue, payload: where, and what its handler gets. own: options of this job alone, see JobOptions.
    """

    queue: Queue[P]
    payload: P
    own: JobOptions

    @property
    def request(self) -> Request:
        """Return the job as its producer is asked for it."""
        return Request(self.queue, self.payload, 0.0, None, None, "keep", None, self.own)


class Members(list[JobId]):
    """The ids of the members of a fan-in, as `enqueue_many` returns them.

    Attributes:
        follow_up: the id of the job that is enqueued once all of them have ended. No job has it before that.
    """

    def __init__(self, ids: Iterable[JobId], follow_up: str) -> None:
        super().__init__(ids)
        self.follow_up = JobId(follow_up)


def checked_then(then: object, queue: Queue[Any], *, paired: bool, connection: object | None) -> FollowUp[Any] | None:
    """Return the `then` of an `enqueue_many`. Raises InvalidArgument: it is none, or its members could be duplicates.

    A member that is not stored would belong to another fan-in or to none, and one in a transaction may never exist.
    """
    if then is None:
        return None
    if not isinstance(then, FollowUp):
        raise InvalidArgument(f"then={then!r:.60}: write then=Reports.done.with_payload(...)")
    if paired or queue.unique is not None:
        what = "jobs= with ids of your own" if paired else f"queue {queue.name!r} has unique="
        raise InvalidArgument(f"then: {what}, so a job may exist already, and end for another fan-in")
    if then.queue.unique is not None:
        raise InvalidArgument(f"then: queue {then.queue.name!r} has unique=, and a follow-up must surely be stored")
    if connection is not None:
        raise InvalidArgument("then: a fan-in cannot be part of your transaction: enqueue without connection=")
    return then


class Numbering:
    """The members of one fan-in, in the order in which they are enqueued."""

    def __init__(self, fan_ins: FanIns, queue: str, name: str) -> None:
        self._fan_ins = fan_ins
        self._queue = queue
        self.name = name
        self.count = 0

    def __call__(self, jobs: Sequence[Job]) -> list[Job]:
        """Return these jobs as members, which the fan-in waits for from now on. Raises EnqueueFailed."""
        made = [as_member(job, self.name, self.count + at) for at, job in enumerate(jobs)]
        try:
            there = self._fan_ins.grow(self._queue, self.name, self.count + len(jobs))
        except EngineError as error:
            raise EnqueueFailed(f"queue {self._queue!r}: not queued: {error}") from error
        if not there:
            raise EnqueueFailed(f"queue {self._queue!r}: fan-in {self.name} is gone: nothing was added to it for a day")
        self.count += len(jobs)
        return made

    def seal(self) -> None:
        """Let the follow-up run once all members have ended. Raises EnqueueError: it will not run, or that is open."""
        try:
            there = self._fan_ins.seal(self._queue, self.name, self.count)
        except EngineError as error:
            raise EnqueueUncertain(
                f"queue {self._queue!r}: all jobs are queued, their follow-up may not run: {error}", job_id=self.name
            ) from error
        if not there:
            raise EnqueueFailed(
                f"queue {self._queue!r}: all jobs are queued, but not their follow-up: nothing was added for a day"
            )


@contextmanager
def gathering(engine: Engine, queue: str, follow_up: Job) -> Iterator[Numbering]:
    """Begin a fan-in, yield what numbers its members, and seal it; delete it after an error. Raises EnqueueError."""
    if not isinstance(engine, Gathering):
        raise EnqueueFailed(f"then: the engine {engine.features.system!r} has no fan-ins")
    numbering = Numbering(engine.fan_ins, queue, follow_up.id)
    try:
        engine.fan_ins.begin(queue, follow_up)
    except EnqueueError:
        raise
    except EngineError as error:
        raise EnqueueFailed(f"queue {follow_up.queue!r}: not queued: {error}") from error
    try:
        yield numbering
    except BaseException:
        with suppress(EngineError):  # then maintenance deletes it
            engine.fan_ins.drop(queue, follow_up.id)
        raise
    numbering.seal()
