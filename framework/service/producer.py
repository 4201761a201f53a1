"""The producer: it validates and encodes a payload, gives the job an id and a trace context, and stores it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import copy_context
from datetime import datetime
from functools import partial
from typing import Any, Protocol

from pydantic import BaseModel

from framework.engine.port import Engine, Transactional
from framework.model.errors import (
    Duplicate,
    EngineError,
    EnqueueError,
    EnqueueFailed,
    EnqueueUncertain,
    InvalidArgument,
    InvalidPayload,
    PayloadTooLarge,
    SettingsError,
)
from framework.model.extras import Extras
from framework.model.job import Job, JobId
from framework.model.jobscope import running
from framework.model.options import QueueOptions
from framework.service.codec import Codec, codec_for
from framework.service.codec.weight import LARGE, looks_large
from framework.service.grouping import Line
from framework.service.grouping.tickets import LoopTicket
from framework.service.newjob import checked_id, first_moment, new_headers, new_ids, new_job
from framework.service.queues import DeadLetter, Queue

# Jobs of `enqueue_many` that are stored together and share their syncs; limited, because they are held in memory.
BATCH = 1024
BATCH_BYTES = 8 << 20  # of encoded payloads

log = logging.getLogger("framework")


class Sending(Protocol):
    """The interface that the producer needs from telemetry."""

    def one(self, queue: str, job_id: str, size: int) -> AbstractContextManager[Mapping[str, str]]:
        """Open the `send` span of one job; the block gets the headers that carry its context."""

    def many(self, queue: str, job_ids: Sequence[str]) -> AbstractContextManager[Sequence[Mapping[str, str]]]:
        """Open a `create` span for each job, and one `send` span that links to them; the block gets the headers."""


class NoSending:
    """Sending without telemetry: no spans and no headers."""

    def one(self, queue: str, job_id: str, size: int) -> AbstractContextManager[Mapping[str, str]]:
        return nullcontext({})

    def many(self, queue: str, job_ids: Sequence[str]) -> AbstractContextManager[Sequence[Mapping[str, str]]]:
        return nullcontext([{} for _ in job_ids])


class Producer:
    """The producer of one process; safe in threads and event loops. Close it once.

    Jobs that are enqueued one by one at the same time share calls of the engine, whatever their queues (group commit).
    Jobs with a chosen id share only calls that are round trips to a server: a local engine stores each under the lock
    of its id, which another process may hold, and no other job must wait for that. Each batch has calls of its own.

    Args:
        engine: the engine, open.
        options: returns a queue's options after settings; called at the first use of each queue.
        sending: opens the span around each enqueue.
        clock: wall clock, seconds since the epoch.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        options: Callable[[Queue[Any]], QueueOptions],
        sending: Sending | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._engine = engine
        self._resolve = options
        self._options: dict[str, QueueOptions] = {}
        self._extras: dict[str, Extras] = {}  # by queue: the same for all its jobs
        self._codecs: dict[Queue[Any], Codec] = {}
        self._large: set[str] = set()  # queues whose last payload was large
        self._sending = sending or NoSending()
        self._clock = clock
        self._line = Line(self._store)
        self.closed = False

    def enqueue(
        self,
        queue: Queue[Any],
        payload: Any,
        *,
        delay: float,
        run_at: datetime | None,
        job_id: str | None,
        on_conflict: str,
        connection: object | None = None,
    ) -> JobId:
        """Store one job and return its id. Raises what `Queue.enqueue` raises."""
        job, headers = self._made(queue, payload, delay, run_at, job_id, on_conflict)
        if connection is None:
            stored = self._send(job, headers)
        else:
            engine = self._transactional()
            with self._sending.one(queue.name, job.id, len(job.payload)) as carried:
                headers.update(carried)
                (stored,) = engine.enqueue_within(connection, [job])
        if stored.duplicate:
            _tell_of_duplicate(queue.name, stored, on_conflict)
        return stored

    async def aenqueue(
        self,
        queue: Queue[Any],
        payload: Any,
        *,
        delay: float,
        run_at: datetime | None,
        job_id: str | None,
        on_conflict: str,
        connection: object | None = None,
    ) -> JobId:
        """Store one job without blocking the event loop, and return its id.

        One thread stores for all coroutines. Large payloads are encoded in a thread, too. If a coroutine is cancelled
        while its job waits in line, the job is still stored.
        """
        given = (queue, payload, delay, run_at, job_id, on_conflict)
        if queue.name not in self._options or queue.name in self._large or looks_large(payload):
            job, headers = await asyncio.to_thread(self._made, *given)
        else:
            job, headers = self._made(*given)
        (self._large.add if len(job.payload) > LARGE else self._large.discard)(queue.name)
        if connection is not None:
            engine = self._transactional()
            with self._sending.one(queue.name, job.id, len(job.payload)) as carried:
                headers.update(carried)
                (stored,) = await engine.aenqueue_within(connection, [job])
        elif self._groups(job):
            ticket = self._join(job, headers)
            await ticket.future
            stored = ticket.result()
        else:
            stored = await asyncio.to_thread(self._send, job, headers)
        if stored.duplicate:
            _tell_of_duplicate(queue.name, stored, on_conflict)
        return stored

    def enqueue_batch(
        self, queue: Queue[Any], payloads: Iterable[Any], *, delay: float, connection: object | None = None
    ) -> list[JobId]:
        """Store jobs in batches and return their ids. An error's `enqueued` lists the jobs stored before it."""
        store = self._store if connection is None else partial(self._transactional().enqueue_within, connection)
        stored: list[JobId] = []
        with _listing(stored):
            for encoded in self._encoded(queue, payloads):
                with self._batch(queue, encoded, delay) as jobs:
                    stored += store(jobs)
        return stored

    async def aenqueue_batch(
        self, queue: Queue[Any], payloads: Iterable[Any], *, delay: float, connection: object | None = None
    ) -> list[JobId]:
        """Store as `enqueue_batch` does, in a thread; on the caller's connection, only the encoding is in a thread."""
        if connection is None:
            return await asyncio.to_thread(self.enqueue_batch, queue, payloads, delay=delay)
        engine = self._transactional()
        stored: list[JobId] = []
        with _listing(stored):
            batches = self._encoded(queue, payloads)
            while (encoded := await asyncio.to_thread(next, batches, None)) is not None:
                with self._batch(queue, encoded, delay) as jobs:
                    stored += await engine.aenqueue_within(connection, jobs)
        return stored

    @contextmanager
    def _batch(self, queue: Queue[Any], encoded: Sequence[bytes], delay: float) -> Iterator[list[Job]]:
        """Yield the jobs of encoded payloads, within the spans of their enqueue."""
        options, extras, now = self._options[queue.name], self._extras[queue.name], self._clock()
        not_before = first_moment(now, delay, None)
        ids = [new_ids() for _ in encoded]
        with self._sending.many(queue.name, [job_id for job_id, _ in ids]) as headers:
            yield [
                new_job(i, data, new_headers(carried), options, extras, now=now, not_before=not_before, uid=uid)
                for (i, uid), data, carried in zip(ids, encoded, headers, strict=True)
            ]

    def _send(self, job: Job, headers: dict[str, str]) -> JobId:
        with self._sending.one(job.queue, job.id, len(job.payload)) as carried:
            headers.update(carried)
            return self._line.put(job) if self._groups(job) else self._store([job])[0]

    def _transactional(self) -> Transactional:
        if not isinstance(self._engine, Transactional):
            raise InvalidPayload(f"connection=: the engine {self._engine.features.system!r} has no transactions")
        return self._engine

    def _groups(self, job: Job) -> bool:
        return not (job.chosen_id and self._engine.features.local)

    def _join(self, job: Job, headers: dict[str, str]) -> LoopTicket:
        """Put a coroutine's job in line and return its ticket.

        The span is current in a context of its own and ends when the job has its answer, which may be after the
        coroutine was cancelled.
        """
        context, sending = copy_context(), self._sending.one(job.queue, job.id, len(job.payload))
        headers.update(context.run(sending.__enter__))

        def end(error: BaseException | None) -> None:
            context.run(sending.__exit__, type(error) if error else None, error, error.__traceback__ if error else None)

        try:
            return self._line.join(job, context.copy(), end)
        except EnqueueError as error:
            end(error)
            raise

    def close(self) -> None:
        """Store the jobs that wait in line, and close the engine. Idempotent."""
        if not self.closed:
            self.closed = True
            self._line.close()
            self._engine.close()

    def _declared(self, queue: Queue[Any]) -> QueueOptions:
        options = self._options.get(queue.name)
        if options is None:
            try:
                options = self._resolve(queue)
                self._engine.open([options])
            except (SettingsError, EngineError) as error:
                raise EnqueueFailed(f"queue {queue.name!r}: {error}") from error
            if queue.payload_type is not DeadLetter:
                self._extras[queue.name] = Extras(fingerprint=self._codec(queue, options).fingerprint)
            self._options[queue.name] = options
        return options

    def _made(
        self,
        queue: Queue[Any],
        payload: Any,
        delay: float,
        run_at: datetime | None,
        job_id: str | None,
        on_conflict: str,
    ) -> tuple[Job, dict[str, str]]:
        """Return a job, checked and encoded, and its headers, to which the caller adds the trace's."""
        if on_conflict not in ("keep", "raise"):
            raise InvalidArgument(f"on_conflict={str(on_conflict)[:60]!r}: write 'keep' or 'raise'")
        options = self._declared(queue)
        now = self._clock()
        not_before = first_moment(now, delay, run_at)
        data = self._encode(queue, payload, options)
        identity, uid = new_ids()
        if chosen := job_id is not None:
            identity = checked_id(job_id)
        headers = new_headers()
        extras = self._extras[queue.name]
        return new_job(
            identity, data, headers, options, extras, now=now, not_before=not_before, uid=uid, chosen=chosen
        ), headers

    def _codec(self, queue: Queue[Any], options: QueueOptions) -> Codec:
        if queue.payload_type is DeadLetter:
            raise InvalidPayload(f"queue {queue.name!r} is a dead-letter queue: jobs cannot be enqueued into it")
        codec = codec_for(queue.payload_type, queue=queue.name, full_errors=options.full_errors)
        self._codecs[queue] = codec
        return codec

    def _encode(self, queue: Queue[Any], payload: Any, options: QueueOptions) -> bytes:
        data = (self._codecs.get(queue) or self._codec(queue, options)).encode(payload)
        if len(data) > options.max_payload_bytes:
            raise PayloadTooLarge(
                f"queue {queue.name!r}: payload has {len(data):,} bytes, max_payload_bytes is "
                f"{options.max_payload_bytes:,}: store the content elsewhere and enqueue a reference"
            )
        return data

    def _encoded(self, queue: Queue[Any], payloads: Iterable[Any]) -> Iterator[list[bytes]]:
        """Yield the encoded payloads in parts that are stored together. An error names the number of its payload."""
        options = self._declared(queue)
        if isinstance(payloads, (BaseModel, str, bytes, Mapping)):  # iterable, and surely one payload
            raise InvalidPayload(
                f"queue {queue.name!r}: enqueue_many takes an iterable of payloads, not one {type(payloads).__name__}"
            )
        encoded: list[bytes] = []
        size = 0
        for number, payload in enumerate(payloads):
            try:
                encoded.append(self._encode(queue, payload, options))
            except (InvalidPayload, PayloadTooLarge) as error:
                if number:  # payload 0 may be the only one
                    error.args = (f"payload {number}, counted from 0: {error}",)
                raise
            size += len(encoded[-1])
            if len(encoded) >= BATCH or size >= BATCH_BYTES:
                yield encoded
                encoded, size = [], 0
        if encoded:
            yield encoded

    def _store(self, jobs: Sequence[Job]) -> list[JobId]:
        try:
            return list(self._engine.enqueue(jobs))
        except EnqueueError:
            raise
        except EngineError as error:
            raise EnqueueFailed(f"queue {jobs[0].queue!r}: not queued: {error}") from error
        except Exception as error:  # a bug, or an unexpected error of a driver: neither success nor failure
            ids = ", ".join(job.id for job in jobs[:3])
            raise EnqueueUncertain(
                f"queue {jobs[0].queue!r}: nobody knows whether {ids} was queued: {error!r}", job_id=jobs[0].id
            ) from error


@contextmanager
def _listing(stored: Sequence[JobId]) -> Iterator[None]:
    """List in an EnqueueError what was stored before it."""
    try:
        yield
    except EnqueueError as error:
        error.enqueued = (*stored, *error.enqueued)
        raise


def _tell_of_duplicate(queue: str, job_id: JobId, on_conflict: str) -> None:
    """Raise Duplicate if the caller asked for it; warn a job that enqueues its successor under its own id.

    Such a successor is never stored, because the running job holds the id.
    """
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
