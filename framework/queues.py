"""Declaring a queue: what a service writes as a class attribute, and the options that every part reads.

Nothing here stores a job. `Queue.enqueue` reaches the process's producer through `opener`, which
`framework/__init__` installs, so that no import goes up.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypeVar, overload

from framework.errors import DeclarationError
from framework.job import Context, Failure, JobId, Reason
from framework.places import caller_place
from framework.retry import LONGEST, RetryPolicy, Seconds, seconds
from framework.slo import Slo

if TYPE_CHECKING:
    from collections.abc import Iterator

P = TypeVar("P")
W = TypeVar("W")
R = TypeVar("R", bound=Awaitable[None] | None)
OnConflict = Literal["keep", "raise"]

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}", re.ASCII)
MOST_WORKERS, MOST_CONCURRENCY = 1_000, 10_000  # more is a slip of the pen, which would fill memory or disk at a start
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """The payload of a dead-letter queue: a job that will not run again by itself.

    Attributes:
        job_id: id of the job, as `enqueue` returned it.
        queue: its home queue, to which a replay returns it.
        payload: decoded JSON, not validated: it may be the reason.
        reason: why it died.
        attempts: the failures that are kept, oldest first: the first and the last ten.
    """

    job_id: str
    queue: str
    payload: Any
    reason: Reason
    attempts: Sequence[Failure]


@dataclass(frozen=True)
class Cron(Generic[P]):
    """A schedule by cron expression. Schedules come with a later release; `worker check` says so."""

    expression: str
    payload: P
    timezone: str = "UTC"

    def __init__(self, expression: str, payload: P, *, timezone: str = "UTC") -> None:
        object.__setattr__(self, "expression", expression)
        object.__setattr__(self, "payload", payload)
        object.__setattr__(self, "timezone", timezone)


@dataclass(frozen=True)
class Every(Generic[P]):
    """A schedule by period. Schedules come with a later release; `worker check` says so."""

    period: Seconds
    payload: P


@dataclass(frozen=True, slots=True)
class QueueOptions:
    """A queue's declaration as plain values, after the settings had their say.

    Attributes:
        name: name in the engine, in telemetry and on the command line.
        attribute: name on the app; the key of its settings.
        workers: processes that serve it; 0 is legal, at most 1,000.
        concurrency: jobs at once in one process, at most 10,000; above 1 those of a sync handler run in threads.
        timeout: seconds until `JobInterrupted` is raised in the handler; None = never.
        kill_after: seconds from there to SIGKILL.
        dead_letter: name of the queue that takes its dead letters; None = its own list.
        ttl: seconds from first eligibility to expiry; on a dead-letter queue: how long letters are kept.
        max_length: ready and delayed jobs that it holds; None = no limit.
        max_payload_bytes: size of the encoded payload.
        max_jobs_per_process, max_memory: after so many jobs, or above so many bytes resident, a process is replaced.
        slo: what it promises about waiting; None = nothing.
        is_dead_letter: its payloads are dead letters.
        full_errors: messages about a payload that does not fit may quote it.
        handled: the service has a handler for it. A dead-letter queue that no service on the store handles keeps its
            dead letters in state dead.
        service: the service that declares it; empty: nobody's declaration, which changes nobody's.
    """

    name: str
    attribute: str = ""
    workers: int = 1
    concurrency: int = 1
    timeout: float | None = 30.0
    kill_after: float = 5.0
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    dead_letter: str | None = None
    ttl: float | None = None
    max_length: int | None = 100_000
    max_payload_bytes: int = 1_048_576
    max_jobs_per_process: int | None = None
    max_memory: int | None = None
    slo: Slo | None = None
    is_dead_letter: bool = False
    full_errors: bool = False
    handled: bool = True
    service: str = ""

    def __post_init__(self) -> None:
        check_name(self.name)
        for name, least in (("workers", 0), ("concurrency", 1), ("max_payload_bytes", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)}: must be {least} or more")
        for name, most in (("workers", MOST_WORKERS), ("concurrency", MOST_CONCURRENCY)):
            if getattr(self, name) > most:
                raise ValueError(f"{name}={getattr(self, name)}: must be at most {most}")
        for name in ("max_length", "max_jobs_per_process", "max_memory"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value}: must be 1 or more, or None for no limit")
        for name in ("timeout", "ttl"):
            value = getattr(self, name)
            if value is not None and not 0 < value <= LONGEST:
                raise ValueError(
                    f"{name}={value}: must be more than 0 seconds, or None for no limit; at most {LONGEST:g}"
                )
        if self.slo is not None and not isinstance(self.slo, Slo):
            raise ValueError(f"slo={self.slo!r}: write slo=Slo(wait=30, target=0.99)")
        if not 0 < self.kill_after <= LONGEST:
            raise ValueError(f"kill_after={self.kill_after}: must be more than 0 seconds, at most {LONGEST:g}")


def check_name(name: str) -> None:
    """Refuses what cannot be a directory, a subject and a metric attribute everywhere. Raises ValueError."""
    if not NAME.fullmatch(name):
        raise ValueError(f"queue name {name[:120]!r}: 1 to 100 of a-z 0-9 . _ - and a letter or digit first")


def parse_size(text: str | int | None) -> int | None:
    """`max_memory`: `512MiB`, `1G` or a number of bytes, as bytes; units of 1024. Raises ValueError."""
    if text is None or isinstance(text, int):
        return text
    match = re.fullmatch(r"\s*(\d{1,15}(?:\.\d{1,9})?)\s*([KMGT]?)(?:i?B)?\s*", text, re.IGNORECASE | re.ASCII)
    if not match:
        raise ValueError(f"max_memory={text!r}: write it as 512MiB, 2GiB or a number of bytes")
    return int(Decimal(match[1]) * _UNITS[match[2].upper()])


def _name_of(dead_letter: object) -> str | None:
    if isinstance(dead_letter, Queue):
        return dead_letter.name
    if dead_letter is not None:
        raise TypeError(f"dead_letter={dead_letter!r}: give the queue itself, not its name")
    return None


class Sender(Protocol):
    """What `Queue.enqueue` needs of a producer."""

    def enqueue(
        self,
        queue: Queue[Any],
        payload: Any,
        *,
        delay: float,
        run_at: datetime | None,
        job_id: str | None,
        on_conflict: str,
    ) -> JobId: ...

    async def aenqueue(
        self,
        queue: Queue[Any],
        payload: Any,
        *,
        delay: float,
        run_at: datetime | None,
        job_id: str | None,
        on_conflict: str,
    ) -> JobId: ...

    def enqueue_batch(self, queue: Queue[Any], payloads: Iterable[Any], *, delay: float) -> list[JobId]: ...

    async def run_async(self, call: Callable[[], list[JobId]]) -> list[JobId]: ...


def _no_opener(queue: Queue[Any]) -> Sender:
    raise RuntimeError("framework/__init__ has not installed an opener")


opener: Callable[[Queue[Any]], Sender] = _no_opener


class Queue(Generic[P]):
    """A declaration with options: `Queue[Delivery]("deliveries")`. The payload type is any that pydantic can validate.

    Args:
        name: 1 to 100 of `a-z 0-9 . _ -`.
        workers: processes; 0 is legal: no worker of this service runs it.
        concurrency: jobs at once in one process: of an async handler on its event loop, of a sync one in threads.
        timeout: seconds until `JobInterrupted` is raised in the handler.
        kill_after: seconds from the soft timeout to SIGKILL.
        retry: when a failed job runs again.
        dead_letter: the queue that takes what will not run again; without one they are kept on this queue.
        ttl: seconds from when a job may first run until it becomes a dead letter; on a dead-letter queue: until a dead
            letter is deleted, after it was handled, or after it came where no service has a handler.
        max_length: ready and delayed together; retry, release and replay are never refused.
        max_payload_bytes: size of the payload as JSON.
        schedules: a later release runs them.
        max_jobs_per_process: a process is replaced after so many jobs.
        max_memory: a process is replaced above so much resident memory: `512MiB`.
        slo: how long jobs may wait; `worker alerts` makes alerts of it.

    Raises:
        DeclarationError: an option is out of its range; names file and line.
    """

    def __init__(
        self,
        name: str,
        *,
        workers: int = 1,
        concurrency: int = 1,
        timeout: Seconds | None = 30,
        kill_after: Seconds = 5,
        retry: RetryPolicy | None = None,
        dead_letter: Queue[DeadLetter] | None = None,
        ttl: Seconds | None = None,
        max_length: int | None = 100_000,
        max_payload_bytes: int = 1_048_576,
        schedules: Sequence[Cron[P] | Every[P]] = (),
        max_jobs_per_process: int | None = None,
        max_memory: str | None = None,
        slo: Slo | None = None,
    ) -> None:
        self.name, self.place = name, caller_place()
        self.attribute = self.owner = ""
        self.dead_letter, self.schedules = dead_letter, tuple(schedules)
        self._connected: list[Sender] = []
        try:
            self.options = QueueOptions(
                name=name,
                workers=workers,
                concurrency=concurrency,
                timeout=None if timeout is None else seconds(timeout),
                kill_after=seconds(kill_after),
                retry=retry or RetryPolicy(),
                dead_letter=_name_of(dead_letter),
                ttl=None if ttl is None else seconds(ttl),
                max_length=max_length,
                max_payload_bytes=max_payload_bytes,
                max_jobs_per_process=max_jobs_per_process,
                max_memory=parse_size(max_memory),
                slo=slo,
            )
        except (ValueError, TypeError) as error:
            raise DeclarationError(f"{self.place}: {error}") from None

    def __set_name__(self, owner: type, attribute: str) -> None:
        if not self.attribute:
            self.attribute, self.owner = attribute, owner.__name__

    def __repr__(self) -> str:
        return f"<Queue {self.name!r}>"

    @property
    def payload_type(self) -> Any:
        """What stands in the brackets of `Queue[...]`. Raises DeclarationError where nothing does."""
        alias = getattr(self, "__orig_class__", None)
        if alias is None:
            where = f"{self.owner}.{self.attribute}" if self.owner else f"queue {self.name!r}"
            raise DeclarationError(f'{self.place}: {where} has no payload type: write Queue[YourModel]("{self.name}")')
        return alias.__args__[0]

    @overload
    def handler(self, fn: Callable[[W, P, Context], R], /) -> Callable[[W, P, Context], R]: ...
    @overload
    def handler(self, fn: Callable[[W, P], R], /) -> Callable[[W, P], R]: ...
    def handler(self, fn: Callable[..., Any] | None = None, /) -> Callable[..., Any]:
        """Marks a method as this queue's handler and returns it unchanged."""
        if fn is None:
            raise DeclarationError(f"{caller_place()}: write @….handler without parentheses: queue {self.name!r}")
        try:
            marks: list[Queue[Any]] = fn.__dict__.setdefault("__worker_queues__", [])
        except AttributeError:  # a class, a property, a builtin
            what = f"{caller_place()}: @….handler of queue {self.name!r} stands above"
            raise DeclarationError(f"{what} {type(fn).__name__}: a handler is a plain method") from None
        marks.append(self)
        return fn

    def enqueue(
        self,
        payload: P,
        /,
        *,
        delay: Seconds = 0,
        run_at: datetime | None = None,
        job_id: str | None = None,
        on_conflict: OnConflict = "keep",
    ) -> JobId:
        """Store one job durably and return its id.

        Args:
            payload: validated against the queue's payload type, stored as JSON.
            delay: seconds before it may start; run_at: the moment, with a time zone. One of the two.
            job_id: your own id; while a job of that id exists in any state, nothing is queued.
            on_conflict: what happens then: "keep" returns the id with `duplicate` set, "raise" raises Duplicate.

        Raises:
            InvalidPayload, PayloadTooLarge, QueueFull, EnqueueFailed, Duplicate: not queued.
            EnqueueUncertain: the job may or may not be queued.
        """
        return self.sender().enqueue(
            self, payload, delay=seconds(delay), run_at=run_at, job_id=job_id, on_conflict=on_conflict
        )

    async def aenqueue(
        self,
        payload: P,
        /,
        *,
        delay: Seconds = 0,
        run_at: datetime | None = None,
        job_id: str | None = None,
        on_conflict: OnConflict = "keep",
    ) -> JobId:
        """`enqueue` without blocking the event loop. Coroutines that enqueue at the same time share the engine's calls.

        Where it is cancelled, the job may be stored all the same.
        """
        return await self.sender().aenqueue(
            self, payload, delay=seconds(delay), run_at=run_at, job_id=job_id, on_conflict=on_conflict
        )

    def enqueue_many(self, payloads: Iterable[P], /, *, delay: Seconds = 0) -> list[str]:
        """Stores many jobs, much faster than one by one; not atomic: an error's `enqueued` lists what was queued, also
        that of InvalidPayload, which says which payload it was."""
        return list(self.sender().enqueue_batch(self, payloads, delay=seconds(delay)))

    async def aenqueue_many(self, payloads: Iterable[P], /, *, delay: Seconds = 0) -> list[str]:
        """`enqueue_many` without blocking the event loop: in a thread, which goes on when the caller is cancelled."""
        sender, wait = self.sender(), seconds(delay)
        return list(await sender.run_async(lambda: sender.enqueue_batch(self, payloads, delay=wait)))

    def sender(self) -> Sender:
        """The producer in force: of the innermost `connect()`, else the process's own."""
        return self._connected[-1] if self._connected else opener(self)

    @contextmanager
    def connected(self, sender: Sender) -> Iterator[None]:
        """Inside the block this queue's jobs go to `sender`, in every thread."""
        self._connected.append(sender)
        try:
            yield
        finally:
            self._connected.remove(sender)
