"""Functions that make a job's record from the arguments of `enqueue`: its id, its times, its random bytes."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import datetime

from framework.model.errors import InvalidArgument
from framework.model.extras import EARLIEST, LATEST, Extras
from framework.model.job import Job
from framework.model.options import QueueOptions
from framework.service.codec import CONTENT_TYPE
from framework.service.randomness import random_bytes

MAX_ID_LENGTH = 255


def new_job(
    job_id: str,
    data: bytes,
    headers: Mapping[str, str],
    options: QueueOptions,
    extras: Extras,
    *,
    now: float,
    not_before: float | None,
    uid: bytes,
    chosen: bool = False,
) -> Job:
    """Return the record that an engine stores."""
    # By position, which is faster: every job comes through here.
    return Job(job_id, uid, options.name, data, headers, now, not_before, options.ttl, chosen, None, (), extras)


def new_headers(carried: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the headers of a job: the type of its payload, and those that carry the context of its trace."""
    return {"content-type": CONTENT_TYPE, **carried} if carried else {"content-type": CONTENT_TYPE}


def new_ids() -> tuple[str, bytes]:
    """Return a job id and a uid. The id has 32 hex digits: 48 bits of milliseconds, so that ids roughly sort by time,
    then 80 random bits."""
    random = random_bytes()
    return f"{time.time_ns() // 1_000_000:012x}{random[16:26].hex()}", random[:16]


def checked_id(job_id: object) -> str:
    """Return the id that a caller chose, if it is valid. Raises InvalidArgument."""
    if not isinstance(job_id, str) or not 0 < len(job_id) <= MAX_ID_LENGTH or not job_id.isprintable():
        raise InvalidArgument(f"job_id={_shortened(job_id)}: 1 to {MAX_ID_LENGTH} printable characters")
    return job_id


def _shortened(value: object) -> str:
    text = str(value)
    return repr(text) if len(text) <= 60 else f"{text[:60]!r}… ({len(text):,} characters)"


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
