"""The way of a job into the engine: validate, encode, give it an id and the trace's context, store."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from itertools import islice
from typing import Any, Protocol

from pydantic import BaseModel

from framework.broker import Broker
from framework.codec import CONTENT_TYPE, codec_for
from framework.errors import (
    Duplicate,
    EngineError,
    EnqueueError,
    EnqueueFailed,
    EnqueueUncertain,
    InvalidPayload,
    PayloadTooLarge,
    SettingsError,
)
from framework.extras import EARLIEST, LATEST, NONE, Extras
from framework.job import Job, JobId
from framework.jobscope import running
from framework.queues import DeadLetter, Queue, QueueOptions

# Jobs stored together, which share their syncs; bounded, as they are held in memory.
BATCH = 1024
BATCH_BYTES = 8 << 20  # of encoded payloads
MAX_ID_LENGTH = 255

log = logging.getLogger("framework")


class Sending(Protocol):
    """What the producer needs of telemetry."""

    def one(self, queue: str, job_id: str, size: int) -> AbstractContextManager[Mapping[str, str]]:
        """The `send` span of one job; gives the headers that carry its context."""

    def many(self, queue: str, job_ids: Sequence[str]) -> AbstractContextManager[Sequence[Mapping[str, str]]]:
        """A `create` span per job and one `send` span that links to them; gives the headers of each."""


class NoSending:
    """No spans and no headers."""

    def one(self, queue: str, job_id: str, size: int) -> AbstractContextManager[Mapping[str, str]]:
        return nullcontext({})

    def many(self, queue: str, job_ids: Sequence[str]) -> AbstractContextManager[Sequence[Mapping[str, str]]]:
        return nullcontext([{} for _ in job_ids])


class Producer:
    """Enqueues for one process; safe in threads. Close it once.

    Args:
        broker: an open engine.
        options: a queue's options after settings, by queue name; declares the queue in the engine on first use.
        sending: opens the span around each enqueue.
        clock: wall clock, seconds since the epoch.
    """

    def __init__(
        self,
        broker: Broker,
        *,
        options: Callable[[Queue[Any]], QueueOptions],
        sending: Sending | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._broker = broker
        self._resolve = options
        self._options: dict[str, QueueOptions] = {}
        self._extras: dict[str, Extras] = {}  # what all jobs of a queue say
        self._sending = sending or NoSending()
        self._clock = clock
        self.closed = False

    def enqueue(
        self,
        queue: Queue[Any],
        payloads: Sequence[Any],
        *,
        delay: float,
        run_at: datetime | None,
        job_id: str | None,
        on_conflict: str,
    ) -> list[JobId]:
        """Stores one job (the one of `payloads`); returns its id. Errors as `Queue.enqueue` says."""
        if on_conflict not in ("keep", "raise"):
            raise InvalidPayload(f"on_conflict={str(on_conflict)[:60]!r}: write 'keep' or 'raise'")
        options = self._declared(queue)
        now = self._clock()
        not_before = _not_before(now, delay, run_at)
        data = self._encode(queue, payloads[0], options)
        chosen = _checked_id(job_id)
        identity = chosen or _new_id()
        with self._sending.one(queue.name, identity, len(data)) as headers:
            extras = self._extras[queue.name]
            job = _job(identity, queue.name, data, headers, now, not_before, options, extras, chosen=bool(chosen))
            stored = self._store([job])
        if stored[0].duplicate:
            _tell_of_duplicate(queue.name, stored[0], on_conflict)
        return stored

    def enqueue_batch(self, queue: Queue[Any], payloads: Iterable[Any], *, delay: float) -> list[JobId]:
        """Stores jobs in batches; returns their ids. An error's `enqueued` lists what was stored before it."""
        options = self._declared(queue)
        stored: list[JobId] = []
        if isinstance(payloads, (BaseModel, str, bytes, Mapping)):  # all of them can be iterated, and none is meant so
            raise InvalidPayload(
                f"queue {queue.name!r}: enqueue_many takes an iterable of payloads, not one {type(payloads).__name__}"
            )
        rest = iter(payloads)
        while True:
            try:
                encoded = self._encode_some(queue, rest, options, first=len(stored))
                if not encoded:
                    return stored
                now = self._clock()
                not_before = _not_before(now, delay, None)
                ids, extras = [_new_id() for _ in encoded], self._extras[queue.name]
                with self._sending.many(queue.name, ids) as headers:
                    stored += self._store(
                        [
                            _job(i, queue.name, data, carried, now, not_before, options, extras, chosen=False)
                            for i, data, carried in zip(ids, encoded, headers, strict=True)
                        ]
                    )
            except EnqueueError as error:
                error.enqueued = (*stored, *error.enqueued)
                raise

    async def run_async(self, call: Callable[[], list[JobId]]) -> list[JobId]:
        """Runs an enqueue in a thread, with the caller's context (the current span goes along)."""
        return await asyncio.to_thread(call)

    def close(self) -> None:
        """Lets go of the engine. Idempotent."""
        if not self.closed:
            self.closed = True
            self._broker.close()

    def _declared(self, queue: Queue[Any]) -> QueueOptions:
        options = self._options.get(queue.name)
        if options is None:
            try:
                options = self._resolve(queue)
                self._broker.open([options])
            except (SettingsError, EngineError) as error:
                raise EnqueueFailed(f"queue {queue.name!r}: {error}") from error
            self._extras[queue.name] = self._said_by_all(queue, options)
            self._options[queue.name] = options
        return options

    @staticmethod
    def _said_by_all(queue: Queue[Any], options: QueueOptions) -> Extras:
        if queue.payload_type is DeadLetter:
            return NONE
        codec = codec_for(queue.payload_type, queue=queue.name, full_errors=options.full_errors)
        return Extras(fingerprint=codec.fingerprint)

    def _encode(self, queue: Queue[Any], payload: Any, options: QueueOptions) -> bytes:
        if queue.payload_type is DeadLetter:
            raise InvalidPayload(f"queue {queue.name!r} is a dead-letter queue: jobs cannot be enqueued into it")
        data = codec_for(queue.payload_type, queue=queue.name, full_errors=options.full_errors).encode(payload)
        if len(data) > options.max_payload_bytes:
            raise PayloadTooLarge(
                f"queue {queue.name!r}: payload has {len(data):,} bytes, max_payload_bytes is "
                f"{options.max_payload_bytes:,}: store the content elsewhere and enqueue a reference"
            )
        return data

    def _encode_some(self, queue: Queue[Any], rest: Iterator[Any], options: QueueOptions, *, first: int) -> list[bytes]:
        """The next payloads, as many as are stored together. An error says which it was, from `first`."""
        encoded: list[bytes] = []
        size = 0
        for number, payload in enumerate(islice(rest, BATCH), start=first):
            try:
                encoded.append(self._encode(queue, payload, options))
            except (InvalidPayload, PayloadTooLarge) as error:
                if number:  # of one alone it is clear
                    error.args = (f"payload {number}, counted from 0: {error}",)
                raise
            size += len(encoded[-1])
            if size >= BATCH_BYTES:
                break
        return encoded

    def _store(self, jobs: Sequence[Job]) -> list[JobId]:
        try:
            return list(self._broker.enqueue(jobs))
        except EnqueueError:
            raise
        except EngineError as error:
            raise EnqueueFailed(f"queue {jobs[0].queue!r}: not queued: {error}") from error
        except Exception as error:  # a bug or a driver's surprise: the caller must not take it for success or failure
            ids = ", ".join(job.id for job in jobs[:3])
            raise EnqueueUncertain(
                f"queue {jobs[0].queue!r}: nobody knows whether {ids} was queued: {error!r}", job_id=jobs[0].id
            ) from error


def _tell_of_duplicate(queue: str, job_id: JobId, on_conflict: str) -> None:
    """A job that enqueues its successor under its own id loses it: it holds the id as long as it runs."""
    if on_conflict == "raise":
        raise Duplicate(f"queue {queue!r}: a job of id {job_id!r} exists already: nothing was queued", job_id=job_id)
    lease = running.get()
    if lease is not None and (lease.job.queue, lease.job.id) == (queue, job_id):
        log.warning(
            "queue %r: job %r enqueued another under its own id, which it holds as long as it exists: nothing was "
            "queued; give the other an id of its own, or raise Snooze to run this one again",
            queue,
            str(job_id),
        )


def _job(
    job_id: str,
    queue: str,
    data: bytes,
    headers: Mapping[str, str],
    now: float,
    not_before: float | None,
    options: QueueOptions,
    extras: Extras,
    *,
    chosen: bool,
) -> Job:
    return Job(
        id=job_id,
        uid=os.urandom(16),
        queue=queue,
        payload=data,
        headers={"content-type": CONTENT_TYPE, **headers},
        enqueued_at=now,
        not_before=not_before,
        ttl=options.ttl,
        chosen_id=chosen,
        extras=extras,
    )


def _new_id() -> str:
    """A job id: 48 bits of milliseconds, then 80 random ones, as 32 hex digits. Sorts by time, roughly."""
    return f"{time.time_ns() // 1_000_000:012x}{os.urandom(10).hex()}"


def _checked_id(job_id: str | None) -> str | None:
    if job_id is None:
        return None
    if not isinstance(job_id, str) or not 0 < len(job_id) <= MAX_ID_LENGTH or not job_id.isprintable():
        raise InvalidPayload(f"job_id={_shortened(job_id)}: 1 to {MAX_ID_LENGTH} printable characters")
    return job_id


def _shortened(value: object) -> str:
    text = str(value)
    return repr(text) if len(text) <= 60 else f"{text[:60]!r}… ({len(text):,} characters)"


def _not_before(now: float, delay: float, run_at: datetime | None) -> float | None:
    """The moment before which a job must not start. Raises InvalidPayload."""
    if run_at is None:
        if not 0 <= delay <= LATEST - now:
            raise InvalidPayload(f"delay={delay}: 0 or more seconds, and not beyond the year 9999")
        return now + delay if delay else None
    if delay:
        raise InvalidPayload("delay and run_at exclude each other: give one")
    if not isinstance(run_at, datetime):
        raise InvalidPayload(f"run_at={run_at!r} is no datetime: write datetime(..., tzinfo=UTC)")
    if run_at.tzinfo is None:
        raise InvalidPayload(f"run_at={run_at.isoformat()} has no time zone: write datetime(..., tzinfo=UTC)")
    moment = run_at.timestamp()
    if not EARLIEST <= moment <= LATEST:  # in UTC, which the years 1 and 9999 of another time zone may leave
        raise InvalidPayload(f"run_at={run_at.isoformat()}: its moment in UTC is not within the years 1 to 9999")
    return moment
