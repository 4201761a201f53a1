"""One enqueue as its caller asked for it, and what a job gets besides its payload: its id, its times, random bytes."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypedDict

from framework.model.errors import InvalidArgument
from framework.model.extras import EARLIEST, LATEST, Extras
from framework.model.frozen import frozen
from framework.model.job import FRAMEWORK_HEADERS
from framework.model.retry import LONGEST, RetryPolicy, Seconds, seconds

if TYPE_CHECKING:
    from framework.service.fan_in import FollowUp
    from framework.service.queues import Queue

MAX_ID_LENGTH = 255
MOST_HEADERS = 32_768  # characters of all headers of a job
_PIECE, _PIECES = 32, 256  # bytes of one job, and jobs for which random bytes are drawn at once

_pool: list[bytes] = []


class JobOptions(TypedDict, total=False):
    """The options of one job, or of all jobs of one `enqueue_many`; None: as the queue has it.

    Attributes:
        priority: 0 to 9; of the jobs of a queue, those with a lower number run first.
        timeout: seconds for each attempt, until `JobInterrupted` is raised in the handler.
        retry: when the job runs again after a failure. The queue's `give_up_on` applies, and it has none of its own.
        ttl: seconds from when the job may first run until it becomes a dead letter.
        headers: text for the handler, by name, in `ctx.headers`; also tracing's propagators see them.
    """

    priority: int | None
    timeout: Seconds | None
    retry: RetryPolicy | None
    ttl: Seconds | None
    headers: Mapping[str, str] | None


@frozen
class Request:
    """The arguments of `Queue.enqueue`, with delay and block in seconds, and the options of this job in `own`."""

    queue: Queue[Any]
    payload: Any
    delay: float
    run_at: datetime | None
    job_id: str | None
    on_conflict: str
    connection: object | None
    own: JobOptions
    block: float = 0.0


@frozen
class Requests:
    """The arguments of `Queue.enqueue_many`, as in `Request`; `own` are the options of each job.

    Attributes:
        jobs: payloads, or pairs of payload and id. paired: they are pairs.
        then: the job that follows once all of them have ended.
    """

    queue: Queue[Any]
    jobs: Iterable[Any]
    paired: bool
    delay: float
    on_conflict: str
    connection: object | None
    own: JobOptions
    block: float = 0.0
    then: FollowUp[Any] | None = None

    def each(self) -> Iterator[tuple[Any, Any]]:
        """Yield each payload with the id that belongs to it, or None. Raises InvalidArgument."""
        for number, one in enumerate(self.jobs):
            if self.paired and (not isinstance(one, tuple) or len(one) != 2):
                what = f"item {number}, counted from 0, is {type(one).__name__}"
                raise InvalidArgument(f"jobs: {what} and no pair: write (payload, job_id)")
            yield one if self.paired else (one, None)


def first_moment(now: float, delay: float, run_at: datetime | None) -> float | None:
    """Return the moment before which a job must not start; None: it may start at once. Raises InvalidArgument."""
    if run_at is None:
        if not 0 <= delay <= LATEST - now:
            raise InvalidArgument(f"delay={delay:g}: write 0 or more seconds, and no moment beyond the year 9999")
        return now + delay if delay else None
    if delay:
        raise InvalidArgument("delay and run_at exclude each other: give one")
    if not isinstance(run_at, datetime):
        raise InvalidArgument(f"run_at={run_at!r} is no datetime: write datetime(..., tzinfo=UTC)")
    if run_at.tzinfo is None:
        raise InvalidArgument(f"run_at={run_at.isoformat()} has no time zone: write datetime(..., tzinfo=UTC)")
    moment = run_at.timestamp()
    if not EARLIEST <= moment <= LATEST:  # in UTC the moment may fall outside
        raise InvalidArgument(f"run_at={run_at.isoformat()}: its moment in UTC is not within the years 1 to 9999")
    return moment


def check_own(own: JobOptions) -> None:
    """Raise TypeError for an option that does not exist."""
    for name in own.keys() - JobOptions.__annotations__.keys():
        raise TypeError(f"enqueue: no option {name!r}; a job has {', '.join(JobOptions.__annotations__)}")


def with_own(extras: Extras, own: JobOptions) -> Extras:
    """Return the extras of a queue's jobs with the options of one job. Raises InvalidArgument."""
    changes: dict[str, Any] = {}
    if (priority := own.get("priority")) is not None:
        changes["priority"] = priority
    if (timeout := own.get("timeout")) is not None:
        changes["timeout"] = _duration("timeout", timeout)
    if (retry := own.get("retry")) is not None:
        if not isinstance(retry, RetryPolicy):
            raise InvalidArgument(f"retry={retry!r:.60}: write RetryPolicy(max_retries=3)")
        if retry.give_up_on:
            raise InvalidArgument("retry: classes cannot be stored with a job: declare give_up_on on the queue")
        changes["retry"] = retry.numbers
    try:
        return replace(extras, **changes)
    except ValueError as error:
        raise InvalidArgument(str(error)) from None


def own_ttl(own: JobOptions, usual: float | None) -> float | None:
    """Return the job's own ttl in seconds, else the queue's. Raises InvalidArgument."""
    ttl = own.get("ttl")
    if ttl is None:
        return usual
    found = _duration("ttl", ttl)
    if not 0 < found <= LONGEST:
        raise InvalidArgument(f"ttl={found:g}: must be more than 0 and at most {LONGEST:g} s")
    return found


def own_headers(own: JobOptions) -> Mapping[str, str]:
    """Return the job's own headers. Raises InvalidArgument."""
    headers = own.get("headers") or {}
    if not isinstance(headers, Mapping):
        raise InvalidArgument(f"headers={headers!r:.60}: write a dict of texts, such as {{'tenant': 'acme'}}")
    for name, value in headers.items():
        if not (isinstance(name, str) and 0 < len(name) <= 100 and name.isprintable()):
            raise InvalidArgument(f"headers: the name {name!r:.60} is not text of 1 to 100 printable characters")
        if name.lower() in FRAMEWORK_HEADERS:
            raise InvalidArgument(f"headers: {name!r} is set by the framework: choose another name")
        if not isinstance(value, str):
            raise InvalidArgument(f"headers: the value of {name!r} is not text but {type(value).__name__}")
    if sum(len(name) + len(value) for name, value in headers.items()) > MOST_HEADERS:
        raise InvalidArgument(f"headers: more than {MOST_HEADERS:,} characters: put them into the payload")
    return headers


def _duration(name: str, value: Seconds) -> float:
    try:
        return seconds(value)
    except TypeError as error:
        raise InvalidArgument(f"{name}: {error}") from None


def checked_id(job_id: object) -> str:
    """Return the id that a caller chose, if it is valid. Raises InvalidArgument."""
    if isinstance(job_id, str) and 0 < len(job_id) <= MAX_ID_LENGTH and job_id.isprintable():
        return job_id
    if not isinstance(job_id, str):
        raise InvalidArgument(
            f"job_id={job_id!r:.60} is {type(job_id).__name__}: write 1 to {MAX_ID_LENGTH} printable characters"
        )
    text = job_id
    given = repr(text) if len(text) <= 60 else f"{text[:60]!r}… ({len(text):,} characters)"
    raise InvalidArgument(f"job_id={given}: 1 to {MAX_ID_LENGTH} printable characters")


def new_ids() -> tuple[str, bytes]:
    """Return a job id and a uid. The id has 32 hex digits: 48 bits of milliseconds, so that ids roughly sort by time,
    then 80 random bits."""
    random = random_bytes()
    return f"{time.time_ns() // 1_000_000:012x}{random[16:26].hex()}", random[:16]


def random_bytes() -> bytes:
    """Return 32 random bytes that no other call returns, in this process or in a forked one.

    They come from a pool, because `os.urandom` is a system call that releases the interpreter lock.
    """
    while True:
        pool = _pool
        try:
            return pool.pop()
        except IndexError:
            block = os.urandom(_PIECE * _PIECES)
            # Into the list read above: if a signal handler has forked since, the child uses a new list.
            pool.extend([block[at : at + _PIECE] for at in range(0, len(block), _PIECE)])


def _in_child() -> None:
    global _pool
    _pool = []


os.register_at_fork(after_in_child=_in_child)
