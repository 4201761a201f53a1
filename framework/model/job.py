"""The durable record of a job, its leases and its runs: plain data that every engine uses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Any, Literal, Protocol, Self

from framework.model.extras import NONE, Extras
from framework.model.frozen import frozen

# The headers that the framework itself writes: the payload's type, and the context of the trace.
FRAMEWORK_HEADERS = frozenset({"content-type", "traceparent", "tracestate", "baggage"})
KEPT_FAILURES = 10  # failures that a history keeps besides the first
Reason = Literal["error", "timeout", "worker_lost", "rejected", "expired", "invalid_payload"]


class JobId(str):
    """The id of a job that `enqueue` was asked to store, or of the job that holds its unique key.

    Attributes:
        duplicate: a job of this id existed already, or holds the unique key, so no second one was stored.
    """

    duplicate: bool = False

    @classmethod
    def taken(cls, job_id: str) -> JobId:
        """Return the id with `duplicate` set."""
        found = cls(job_id)
        found.duplicate = True
        return found


@dataclass(frozen=True, slots=True)
class Failure:
    """A failed attempt, as it is stored with the job and shown by `worker dead show`.

    Attributes:
        attempt: number of the attempt, from 1; 0 if there was no attempt (the job expired before its first run).
        reason: why the attempt failed.
        message: text of the error, at most 1,000 characters.
        traceback: tail of the traceback, at most 2,000 characters; empty if there was none.
        trace_id: 32 hex digits; empty if the run was not traced.
        exception: the exception itself; only in the process where it was raised.
        error_type: qualified name of the exception's class, or the reason; telemetry's `error.type`.
        span_id: 16 hex digits of the attempt's `process` span.
        queue: the queue on which the attempt ran (a dead letter's handler can fail, too).
        delivery: number of the claim to which the attempt belongs; unique for a job.
        started_at, ended_at: seconds since the epoch, wall clock.
    """

    attempt: int
    reason: Reason
    message: str
    traceback: str = ""
    trace_id: str = ""
    exception: BaseException | None = field(default=None, compare=False, repr=False)
    error_type: str = ""
    span_id: str = ""
    queue: str = ""
    delivery: int = 0
    started_at: float = 0.0
    ended_at: float = 0.0


@frozen
class Job:
    """The stored record of a job. It never changes after enqueue; only the history of attempts grows.

    Attributes:
        id: chosen by the caller or generated; unique while the job exists.
        uid: 16 random bytes, written once. Span ids derive from it, because a chosen id may be used again.
        queue: the home queue; a dead letter keeps it.
        payload: the encoded payload; only the producer and the executor read it.
        headers: `traceparent`, `tracestate`, `baggage`, `content-type`, and others, all text.
        enqueued_at: seconds since the epoch, wall clock.
        not_before: seconds since the epoch before which the job must not start; None = at once.
        ttl: seconds from first eligibility after which the job expires; None = never.
        chosen_id: the caller chose the id, so a second enqueue with it is a duplicate.
        scheduled_for: the moment that a schedule planned, seconds since the epoch; None if no schedule made the job.
        history: failed attempts, oldest first: the first and the last ten.
        extras: priority, keys, per-job options and origin; most jobs have few of them or none.
        on_conflict: not stored; what an enqueue does to a waiting job that holds the unique key. "replace": that job
            gets this payload. "postpone": and it waits as long as this one. Other texts: nothing.
    """

    id: str
    uid: bytes
    queue: str
    payload: bytes
    headers: Mapping[str, str]
    enqueued_at: float
    not_before: float | None = None
    ttl: float | None = None
    chosen_id: bool = False
    scheduled_for: float | None = None
    history: Sequence[Failure] = ()
    extras: Extras = NONE
    on_conflict: str = field(default="keep", compare=False)

    @property
    def changes_another(self) -> bool:
        """Return whether the job changes a waiting one that holds its unique key."""
        return self.on_conflict in ("replace", "postpone") and self.extras.unique_key is not None

    def changed_by(self, other: Job) -> Job:
        """Return this job with the payload and headers, and perhaps the time, of another with its unique key."""
        job = replace(self, payload=other.payload, headers=other.headers)
        return replace(job, not_before=other.eligible_at, ttl=other.ttl) if other.on_conflict == "postpone" else job

    @property
    def excludes(self) -> bool:
        """Return whether the job is only stored if no other has its chosen id or its unique key."""
        return self.chosen_id or self.extras.unique_key is not None

    @property
    def eligible_at(self) -> float:
        """Return the moment from which the job could first run, in seconds since the epoch."""
        return self.enqueued_at if self.not_before is None else max(self.enqueued_at, self.not_before)

    @property
    def own_headers(self) -> dict[str, str]:
        """Return the headers that the job was enqueued with, without the framework's own."""
        return {name: value for name, value in self.headers.items() if name not in FRAMEWORK_HEADERS}


@frozen
class Lease:
    """A claimed job. Its owner settles it once: by an outcome, or by giving it back.

    Attributes:
        job: the job.
        queue: the queue it was claimed from; differs from `job.queue` for a dead letter.
        attempt: number of the attempt, from 1, if it starts.
        delivery: number of this claim, from 1; grows at every claim and is never reset.
        eligible_at: since when the job could be claimed (after delay or backoff), seconds since the epoch.
        token: what the engine needs to settle the lease; only the engine reads it.
        previous: the run of an earlier delivery that had started and whose end is unknown, because its machine is
            lost. The worker that claims the job charges that attempt instead of starting one.
        canary: the queue is held (`Engine.hold`); the job finds out whether it may be reopened.
    """

    job: Job
    queue: str
    attempt: int
    delivery: int
    eligible_at: float
    token: Any = field(repr=False, compare=False)
    previous: RunRecord | None = None
    canary: bool = False

    @property
    def is_dead_letter(self) -> bool:
        """Return whether the job is a dead letter: it was claimed from a queue that is not its home queue."""
        return self.queue != self.job.queue


# The lease of the job that runs in the current context: log lines of its handler, and of libraries, carry its ids.
running: ContextVar[Lease | None] = ContextVar("framework_job", default=None)


def kept(history: Sequence[Failure]) -> tuple[Failure, ...]:
    """Return what a history keeps: the first failure and the latest ones, KEPT_FAILURES of them."""
    return tuple(history) if len(history) <= KEPT_FAILURES + 1 else (history[0], *history[-KEPT_FAILURES:])


def current_job() -> dict[str, object] | None:
    """Return queue, job_id and attempt of the running job; None if no job runs in this context."""
    lease = running.get()
    return None if lease is None else keys_of(lease)


def keys_of(lease: Lease) -> dict[str, object]:
    """Return the keys that every log line about an attempt has."""
    return {"queue": lease.queue, "job_id": lease.job.id, "attempt": lease.attempt}


@frozen
class RunRecord:
    """The record that a worker writes before a handler starts; a rescuer reads it after the worker died.

    Attributes:
        row: the concurrency slot of the process, from 0.
        delivery, attempt: as in the lease.
        started_at: seconds since the epoch, wall clock.
        trace_id, span_id: ids of the attempt's span: 32 and 16 hex digits; empty if not traced.
        sampled: whether the span is to be exported.
    """

    row: int
    delivery: int
    attempt: int
    started_at: float
    trace_id: str = ""
    span_id: str = ""
    sampled: bool = False

    @property
    def ids(self) -> bytes:
        """Return both ids as bytes; zeros if the run is not traced."""
        return ids_of(self.trace_id, self.span_id)


NO_IDS = bytes(24)


def ids_of(trace_id: str, span_id: str) -> bytes:
    """Return the 24 bytes of two ids in hex; zeros if they are not valid ids."""
    try:
        found = bytes.fromhex(trace_id + span_id)
    except ValueError:
        return NO_IDS
    return found if len(found) == len(NO_IDS) else NO_IDS


class Run(Protocol):
    """The facts of a run that are written before its handler starts; both RunRecord and Attempt have them."""

    @property
    def row(self) -> int: ...
    @property
    def started_at(self) -> float: ...
    @property
    def ids(self) -> bytes: ...
    @property
    def sampled(self) -> bool: ...


class Logger(Protocol):
    """The interface of `ctx.log`. A structlog logger has it, and the core does not depend on structlog."""

    def bind(self, **kw: object) -> Self: ...
    def debug(self, event: str, **kw: object) -> object: ...
    def info(self, event: str, **kw: object) -> object: ...
    def warning(self, event: str, **kw: object) -> object: ...
    def error(self, event: str, **kw: object) -> object: ...
    def exception(self, event: str, **kw: object) -> object: ...


_SPAN_ID = blake2b(digest_size=8, person=b"span")  # copied for each id, which takes half the time of a new one
_TRACE_ID = blake2b(digest_size=16, person=b"trace")


def span_bytes(uid: bytes, delivery: int) -> bytes:
    """Return the id of the `process` span; every process that has the job derives the same id."""
    digest = _SPAN_ID.copy()
    digest.update(uid + delivery.to_bytes(8, "big"))
    return digest.digest()


def trace_bytes(uid: bytes, delivery: int) -> bytes:
    """Return the trace id of a `process` span that is a root."""
    digest = _TRACE_ID.copy()
    digest.update(uid + delivery.to_bytes(8, "big"))
    return digest.digest()


def span_id_of(uid: bytes, delivery: int) -> str:
    """Return `span_bytes` in 16 hex digits."""
    return span_bytes(uid, delivery).hex()


def trace_id_of(uid: bytes, delivery: int) -> str:
    """Return `trace_bytes` in 32 hex digits."""
    return trace_bytes(uid, delivery).hex()
