"""One enqueue as its caller asked for it, and what a job gets besides its payload: its id, its times, random bytes."""

from __future__ import annotations

import os
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any

from framework.model.errors import InvalidArgument
from framework.model.extras import EARLIEST, LATEST
from framework.model.frozen import frozen

if TYPE_CHECKING:
    from framework.service.queues import Queue

MAX_ID_LENGTH = 255
_PIECE, _PIECES = 32, 256  # bytes of one job, and jobs for which random bytes are drawn at once

_pool: list[bytes] = []


@frozen
class Request:
    """The arguments of `Queue.enqueue`, with the delay in seconds."""

    queue: Queue[Any]
    payload: Any
    delay: float
    run_at: datetime | None
    job_id: str | None
    on_conflict: str
    connection: object | None


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


def checked_id(job_id: object) -> str:
    """Return the id that a caller chose, if it is valid. Raises InvalidArgument."""
    if isinstance(job_id, str) and 0 < len(job_id) <= MAX_ID_LENGTH and job_id.isprintable():
        return job_id
    text = str(job_id)
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
