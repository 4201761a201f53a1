"""The declarations of queues and pools, which a service writes as class attributes.

Nothing here stores a job. `Queue.enqueue` gets the process's producer from `opener`, which `framework/__init__`
installs, because imports must not go up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Unpack, overload

from framework.model.errors import DeclarationError, InvalidArgument, caller_location
from framework.model.extras import USUAL
from framework.model.job import Failure, JobId, Reason
from framework.model.limits import Breaker, Rate
from framework.model.options import PoolOptions, QueueOptions, Slo, in_pool, parse_size
from framework.model.retry import RetryPolicy, Seconds, seconds
from framework.model.schedules import Cron, Every, named
from framework.service.codec.upgrades import Upgradable
from framework.service.fan_in import FollowUp, Members, checked_then
from framework.service.keys import Unique, checked, checked_group
from framework.service.marking import Marking
from framework.service.request import JobOptions, Request, Requests
from framework.service.room import checked_block
from framework.service.sender import CancelAnswer, Sender

if TYPE_CHECKING:
    from collections.abc import Iterator

P = TypeVar("P")
OnConflict = Literal["keep", "raise", "replace", "postpone"]


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """The payload of a dead-letter queue: a job that will not run again by itself.

    Attributes:
        job_id: id of the job, as `enqueue` returned it.
        queue: its home queue, to which a replay returns it.
        payload: decoded JSON, not validated: it may be what failed.
        reason: why the job became a dead letter.
        attempts: the failed attempts, oldest first: the first and the last ten.
    """

    job_id: str
    queue: str
    payload: Any
    reason: Reason
    attempts: Sequence[Failure]


def _no_opener(queue: Queue[Any]) -> Sender:
    raise RuntimeError("framework/__init__ has not installed an opener")


opener: Callable[[Queue[Any]], Sender] = _no_opener


class _Declared:
    """The base of queues and pools: a name, the source location, and the class attribute that declares it."""

    def __init__(self, name: str) -> None:
        self.name, self.location = name, caller_location()
        self.attribute = self.owner = ""

    def __set_name__(self, owner: type, attribute: str) -> None:
        if not self.attribute:
            self.attribute, self.owner = attribute, owner.__name__

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}>"


class Pool(_Declared):
    """Worker processes that serve all queues that name the pool. Its handlers are all async, or all sync.

    Write `light = Pool("light", concurrency=20)` beside `mails = Queue[Mail]("mails", pool=light)`.

    Args:
        name: 1 to 100 characters of `a-z 0-9 . _ -`; its processes are `light/0`, `light/1`.
        workers: processes; 0 is legal: then no worker of this service runs its queues.
        concurrency: jobs at once in one process, of all its queues together: on an event loop for async handlers, in
            threads for sync ones.
        max_jobs_per_process: a process is replaced after so many jobs.
        max_memory: a process is replaced above so much resident memory, for instance `512MiB`.

    Raises:
        DeclarationError: an option is out of its range; the message names file and line.
    """

    def __init__(
        self,
        name: str,
        *,
        workers: int = 1,
        concurrency: int = 1,
        max_jobs_per_process: int | None = None,
        max_memory: str | None = None,
    ) -> None:
        super().__init__(name)
        try:
            memory = parse_size(max_memory)
            self.options = PoolOptions(name, "", workers, concurrency, max_jobs_per_process, memory)
        except (ValueError, TypeError) as error:
            raise DeclarationError(f"{self.location}: {error}") from None


class Queue(_Declared, Upgradable, Marking[P]):
    """The declaration of a queue, as in `Queue[Delivery]("deliveries")`; pydantic must be able to validate the type.

    Args:
        name: 1 to 100 characters of `a-z 0-9 . _ -`.
        workers: processes, 1 by default; 0 is legal: then no worker of this service runs its jobs.
        concurrency: jobs at once in one process, 1 by default: on an event loop for an async handler, in threads for a
            sync one.
        pool: processes that it shares with other queues instead of its own; then `workers`, `concurrency`,
            `max_jobs_per_process` and `max_memory` are options of the pool.
        weight: only in a pool: the runs that it gets for each run of a queue of weight 1, if both have jobs.
        priority: of jobs that are enqueued without one: 0 to 9, 0 first, 5 by default.
        starve_after: seconds of waiting after which a job also gets runs while more urgent ones wait, one in four;
            None: never.
        max_running: jobs that run at once, over all processes and machines that share the store.
        rate: jobs that start in a second, minute or hour, over all of them: `100/s`, `30/m`, `5/h`.
        breaker: holds the queue while its attempts fail alike.
        group: returns the key of the group to which the job of a payload belongs, such as its customer: text of 1 to
            255 characters. The groups of the queue take turns.
        group_limit: jobs of a group that run at once, over all processes and machines that share the store.
        group_order: "strict": the jobs of a group run one after the other, in the order of their enqueue. A job that
            waits for a retry keeps the others of its group waiting, and no others.
        timeout: seconds until `JobInterrupted` is raised in the handler.
        kill_after: seconds from the soft timeout to SIGKILL.
        retry: when a failed job runs again.
        dead_letter: the queue that takes its dead letters; without one they are kept on this queue.
        ttl: seconds from when a job may first run until it becomes a dead letter; on a dead-letter queue: until a dead
            letter is deleted, counted from when it was handled, or from its arrival if no service has a handler.
        max_length: ready and delayed jobs together; retry, release and replay are never refused.
        max_payload_bytes: largest size of the payload as JSON.
        grace: seconds for which a job is put back, uncharged, that perhaps a newer version of the service wrote and
            that this one cannot read, counted from when it could first run; then it becomes a dead letter.
        schedules: jobs that the framework enqueues at planned moments: `Cron` and `Every`; they have no unique keys.
        unique: the key by which its jobs are unique, and how long each holds its key.
        max_jobs_per_process: a process is replaced after so many jobs.
        max_memory: a process is replaced above so much resident memory, for instance `512MiB`.
        slo: how long jobs may wait; `worker alerts` makes alerts from it.

    Raises:
        DeclarationError: an option is out of its range; the message names file and line.
    """

    def __init__(
        self,
        name: str, *, workers: int | None = None, concurrency: int | None = None, pool: Pool | None = None,
        weight: int | None = None, priority: int = USUAL,
        starve_after: Seconds | None = 60,
        max_running: int | None = None, rate: str | None = None, breaker: Breaker | None = None,
        group: Callable[[P], str] | None = None,
        group_limit: int | None = None, group_order: Literal["strict"] | None = None,
        timeout: Seconds | None = 30,
        kill_after: Seconds = 5,
        retry: RetryPolicy | None = None,
        dead_letter: Queue[DeadLetter] | None = None,
        ttl: Seconds | None = None,
        max_length: int | None = 100_000, max_payload_bytes: int = 1_048_576,
        grace: Seconds = 600,
        schedules: Sequence[Cron[P] | Every[P]] = (),
        unique: Unique[P] | None = None,
        max_jobs_per_process: int | None = None,
        max_memory: str | None = None,
        slo: Slo | None = None,
    ) -> None:  # fmt: skip
        super().__init__(name)
        self.dead_letter, self.schedules, self.pool, self.unique = dead_letter, tuple(schedules), pool, checked(unique)
        self.group = checked_group(group)
        self._connected = list[Sender]()
        try:
            own = {"workers": workers, "concurrency": concurrency, "max_jobs_per_process": max_jobs_per_process}
            _check_pool(pool, weight, own | {"max_memory": max_memory})
            options = QueueOptions(
                name, priority=priority, starve_after=_seconds(starve_after), max_payload_bytes=max_payload_bytes,
                max_running=max_running, rate=Rate.parse(rate), breaker=breaker, slo=slo, retry=retry or RetryPolicy(),
                grouped=group is not None, group_limit=group_limit, group_order=group_order,
                timeout=_seconds(timeout), kill_after=seconds(kill_after), ttl=_seconds(ttl), max_length=max_length,
                grace=seconds(grace), dead_letter=_name_of(dead_letter),
                max_memory=parse_size(max_memory), **_set(own | {"weight": weight}),
            )  # fmt: skip
            self.options = options if pool is None else in_pool(options, pool.options)
            named(self.schedules)
        except (ValueError, TypeError) as error:
            raise DeclarationError(f"{self.location}: {error}") from None

    @property
    def payload_type(self) -> Any:
        """Return the type in the brackets of `Queue[...]`. Raises DeclarationError if there is none."""
        alias = getattr(self, "__orig_class__", None)
        if alias is None:
            where = f"{self.owner}.{self.attribute}" if self.owner else f"queue {self.name!r}"
            raise DeclarationError(
                f'{self.location}: {where} has no payload type: write Queue[YourModel]("{self.name}")'
            )
        return alias.__args__[0]

    def enqueue(
        self,
        payload: P,
        /,
        *,
        delay: Seconds = 0,
        run_at: datetime | None = None,
        job_id: str | None = None,
        on_conflict: OnConflict = "keep",
        connection: object | None = None,
        block: Seconds = 0,
        **own: Unpack[JobOptions],
    ) -> JobId:
        """Store one job durably and return its id.

        Args:
            payload: validated against the queue's payload type, stored as JSON.
            delay: seconds before the job may start. run_at: that moment, with a time zone. Give one of the two.
            job_id: your own id; while a job of that id exists in any state, nothing is queued. on_conflict: then, or if
                another job holds the unique key, "keep" returns its id with `duplicate` set, "raise" raises Duplicate.
                "replace" also gives payload and headers to that job if it waits and no worker has taken it so far, and
                "postpone" lets it wait again, for as long as this job would.
            connection: a connection or session (psycopg, SQLAlchemy, asyncpg, Django) of the database that is the
                engine: the job is queued when its transaction commits.
            block: seconds to wait for room in a full queue. own: options of this job alone, see JobOptions.

        Raises:
            InvalidPayload, InvalidArgument, PayloadTooLarge, QueueFull, EnqueueFailed, Duplicate: not queued.
            EnqueueUncertain: the job may or may not be queued.
        """
        wait = checked_block(block, connection)
        asked = Request(self, payload, seconds(delay), run_at, job_id, on_conflict, connection, own, wait)
        return self.sender().enqueue(asked)

    async def aenqueue(
        self,
        payload: P,
        /,
        *,
        delay: Seconds = 0,
        run_at: datetime | None = None,
        job_id: str | None = None,
        on_conflict: OnConflict = "keep",
        connection: object | None = None,
        block: Seconds = 0,
        **own: Unpack[JobOptions],
    ) -> JobId:
        """Enqueue as `enqueue` does, without blocking the event loop; coroutines that enqueue together share calls.

        If it is cancelled, the job may still be stored.
        """
        wait = checked_block(block, connection)
        asked = Request(self, payload, seconds(delay), run_at, job_id, on_conflict, connection, own, wait)
        return await self.sender().aenqueue(asked)

    @overload
    def enqueue_many(
        self, payloads: Iterable[P], /, *, delay: Seconds = 0, on_conflict: OnConflict = "keep",
        connection: object | None = None, block: Seconds = 0, **own: Unpack[JobOptions],
    ) -> list[str]: ...  # fmt: skip
    @overload
    def enqueue_many(
        self, payloads: Iterable[P], /, *, then: FollowUp[Any], delay: Seconds = 0, block: Seconds = 0,
        **own: Unpack[JobOptions],
    ) -> Members: ...  # fmt: skip
    @overload
    def enqueue_many(
        self, *, jobs: Iterable[tuple[P, str]], delay: Seconds = 0, on_conflict: OnConflict = "keep",
        connection: object | None = None, block: Seconds = 0, **own: Unpack[JobOptions],
    ) -> list[JobId]: ...  # fmt: skip
    def enqueue_many(self, *payloads: Iterable[P], **options: Any) -> list[Any]:
        """Store many jobs, much faster than one by one, and return the JobId of each.

        This is not atomic: an error's `enqueued` lists the jobs that were queued. InvalidPayload has it, too, and says
        which payload is invalid. With a `connection` (see `enqueue`), it is as atomic as that connection's transaction.
        All jobs get the options in `own`. `block` is the time for which it waits for room in all.

        Args:
            payloads: one for each job. jobs: instead of them, pairs of payload and job id, as in `enqueue`.
            on_conflict: as in `enqueue`. Duplicate is raised once the others of the same part, up to 1,024, are queued.
            then: a job of another queue, made by its `with_payload`: it is enqueued once, when all of these jobs have
                ended in whatever way. The answer has its id as `follow_up`. After an error it is never enqueued, except
                after EnqueueUncertain.
        """
        return self.sender().enqueue_batch(self._many(*payloads, **options))

    @overload
    async def aenqueue_many(
        self, payloads: Iterable[P], /, *, delay: Seconds = 0, on_conflict: OnConflict = "keep",
        connection: object | None = None, block: Seconds = 0, **own: Unpack[JobOptions],
    ) -> list[str]: ...  # fmt: skip
    @overload
    async def aenqueue_many(
        self, payloads: Iterable[P], /, *, then: FollowUp[Any], delay: Seconds = 0, block: Seconds = 0,
        **own: Unpack[JobOptions],
    ) -> Members: ...  # fmt: skip
    @overload
    async def aenqueue_many(
        self, *, jobs: Iterable[tuple[P, str]], delay: Seconds = 0, on_conflict: OnConflict = "keep",
        connection: object | None = None, block: Seconds = 0, **own: Unpack[JobOptions],
    ) -> list[JobId]: ...  # fmt: skip
    async def aenqueue_many(self, *payloads: Iterable[P], **options: Any) -> list[Any]:
        """Run `enqueue_many` in a thread, so that the event loop goes on. A cancellation does not stop the thread."""
        return await self.sender().aenqueue_batch(self._many(*payloads, **options))

    def _many(
        self, payloads: Iterable[Any] | None = None, /, *, jobs: Iterable[Any] | None = None, delay: Seconds = 0,
        on_conflict: str = "keep", connection: object | None = None, block: Seconds = 0, then: object | None = None,
        **own: Unpack[JobOptions],
    ) -> Requests:  # fmt: skip
        """Return the arguments of an `enqueue_many`. Raises InvalidArgument, TypeError."""
        given = payloads if jobs is None else jobs
        if given is None or (payloads is not None and jobs is not None):
            raise InvalidArgument("enqueue_many takes either payloads or jobs=[(payload, job_id), ...]")
        wait = checked_block(block, connection)
        follow_up = checked_then(then, self, paired=jobs is not None, connection=connection)
        return Requests(self, given, jobs is not None, seconds(delay), on_conflict, connection, own, wait, follow_up)

    def with_payload(self, payload: P, /, **own: Unpack[JobOptions]) -> FollowUp[P]:
        """Return a job of this queue for `then=` of another queue's `enqueue_many`; `own` are options of this job."""
        return FollowUp(self, payload, own)

    def cancel(self, job_id: str, /) -> CancelAnswer:
        """Cancel a job of this queue, and return what becomes of it. Repeating it is harmless.

        cancelled: it waited, and will not run. stopping: its handler runs; `ctx.should_stop` is true within about a
        second, then JobInterrupted is raised, then its process is killed. dead: it is a dead letter, which stays.
        unknown: it has ended, or was never here. Raises EngineError, EnqueueFailed: the engine cannot be reached.
        """
        return self.sender().cancel(self, job_id)

    async def acancel(self, job_id: str, /) -> CancelAnswer:
        """Run `cancel` in a thread, so that the event loop goes on."""
        return await asyncio.to_thread(self.cancel, job_id)

    def sender(self) -> Sender:
        """Return the producer in use: the one of the innermost `connect()`, else the process's own."""
        return self._connected[-1] if self._connected else opener(self)

    @contextmanager
    def connected(self, sender: Sender) -> Iterator[None]:
        """Send this queue's jobs to `sender` inside the block, in every thread."""
        self._connected.append(sender)
        try:
            yield
        finally:
            self._connected.remove(sender)


def _seconds(value: Seconds | None) -> float | None:
    return None if value is None else seconds(value)


def _name_of(dead_letter: object) -> str | None:
    if isinstance(dead_letter, Queue):
        return dead_letter.name
    if dead_letter is not None:
        raise TypeError(f"dead_letter={_given(dead_letter)}: give the queue itself, not its {_what(dead_letter)}")
    return None


def _check_pool(pool: object, weight: int | None, given: Mapping[str, object]) -> None:
    """Raise ValueError or TypeError for an option that belongs to the pool, or that has an effect only in a pool."""
    if pool is None:
        if weight is not None:
            raise ValueError(f"weight={weight} counts among the queues of a pool: add pool=, or remove it")
        return
    if not isinstance(pool, Pool):
        raise TypeError(f"pool={_given(pool)}: give the pool itself, not its {_what(pool)}")
    for name, value in given.items():
        if value is not None:
            raise ValueError(f"{name}={value!r} is an option of pool {pool.name!r} ({pool.location}): write it there")


def _set(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _given(value: object) -> str:
    return value.__name__ if isinstance(value, type) else repr(value)


def _what(value: object) -> str:
    return "class" if isinstance(value, type) else "name"
