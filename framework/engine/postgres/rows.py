"""The conversion between jobs and rows of the tables."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import fields
from hashlib import blake2b
from typing import Any, NamedTuple

from framework.model.extras import NONE, USUAL, unpack
from framework.model.job import Failure, Job, Lease, kept

Key = tuple[int, int, int]  # queue, place, delivery; the token of a lease

_OF_FAILURE = [one.name for one in fields(Failure) if one.name != "exception"]
_ENCODE = json.JSONEncoder(separators=(",", ":"), ensure_ascii=True).encode
JOB = "home, id, uid, payload, headers, enqueued_at, not_before, ttl, chosen, scheduled_for, extras, history"
COLUMNS = f"queue, place, owner, claimer, attempt, delivery, eligible_at, since, {JOB}"
STORED = ("queue", "home", "eligible_at", "expires_at", "since", "id", "uid", "payload", "headers", "enqueued_at",
          "not_before", "ttl", "chosen", "scheduled_for", "extras")  # fmt: skip
TYPES = ("int4", "int4", "float8", "float8", "float8", "text", "bytea", "bytea", "text", "float8", "float8", "float8",
         "bool", "float8", "text")  # fmt: skip


class Row(NamedTuple):
    """A row of any of the job tables, with the columns of COLUMNS."""

    queue: int
    place: int
    owner: str | None
    claimer: str | None
    attempt: int
    delivery: int
    eligible_at: float
    since: float
    home: int
    id: str
    uid: bytes
    payload: bytes
    headers: str | None
    enqueued_at: float
    not_before: float | None
    ttl: float | None
    chosen: bool
    scheduled_for: float | None
    extras: str | None
    history: str | None


def job_of(row: Row, name: Callable[[int], str]) -> Job:
    """Return the job in a row. `name` returns the name of a queue by its number."""
    return Job(
        id=read_id(row.id),
        uid=row.uid,
        queue=name(row.home),
        payload=row.payload,
        headers=json.loads(row.headers) if row.headers else {},
        enqueued_at=row.enqueued_at,
        not_before=row.not_before,
        ttl=row.ttl,
        chosen_id=row.chosen,
        scheduled_for=row.scheduled_for,
        history=read_history(row.history) if row.history else (),
        extras=unpack(row.extras) if row.extras else NONE,
    )


def lease_of(row: Row, name: Callable[[int], str], eligible_at: float) -> Lease:
    """Return the lease of a claimed row. `eligible_at`: by this machine's clock, which measures the job's wait."""
    token = row.queue, row.place, row.delivery
    return Lease(job_of(row, name), name(row.queue), row.attempt + 1, row.delivery, eligible_at, token)


def stored(job: Job, queue: int, now: float) -> tuple[Any, ...]:
    """Return a job's values for the columns of STORED."""
    eligible = job.eligible_at
    expires = None if job.ttl is None else eligible + job.ttl
    headers = _ENCODE(dict(job.headers)) if job.headers else None
    return (queue, queue, eligible, expires, now, write_id(job.id), job.uid, job.payload, headers, job.enqueued_at,
            job.not_before, job.ttl, job.chosen_id, job.scheduled_for, job.extras.text or None)  # fmt: skip


def key_of(job: Job) -> dict[str, Any]:
    """Return what the function `enqueue_2` needs of a job's unique key; empty: it has none."""
    extras = job.extras
    if extras.unique_key is None or job.chosen_id:
        return {}
    found = {"unique": key_hash(extras.unique_key), "until": extras.unique_scope or "", "window": extras.window}
    return found | ({"on_conflict": job.on_conflict} if job.changes_another else {})


def key_hash(key: str) -> str:
    """Return a unique key as the database has it, which cannot store every text."""
    return blake2b(key.encode(), digest_size=16).hexdigest()


def offset_of(job: Job) -> int:
    """Return the upper bits of a job's place, which are its priority."""
    return job.extras.priority - USUAL


def write_id(job_id: str) -> str:
    """Return an id as the database can store it, with NUL and lone surrogates escaped."""
    if "\0" in job_id or "\\" in job_id or not (job_id.isascii() or _is_text(job_id)):
        return _ENCODE(job_id)[1:-1]
    return job_id


def read_id(text: str) -> str:
    """Return the id that `write_id` has written."""
    return str(json.loads(f'"{text}"')) if "\\" in text else text


def _is_text(text: str) -> bool:
    return not any("\ud800" <= one <= "\udfff" for one in text)


def with_failure(history: Sequence[Failure], failure: Failure) -> str:
    """Return the stored form of a history with one failure more, without exceptions."""
    return _ENCODE([{name: getattr(one, name) for name in _OF_FAILURE} for one in kept([*history, failure])])


def read_history(text: str) -> tuple[Failure, ...]:
    """Return the failures of a stored history, without fields that only a newer version knows."""
    return tuple(Failure(**{name: one[name] for name in _OF_FAILURE if name in one}) for one in json.loads(text))
