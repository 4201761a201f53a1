"""The way of a job into the engine: validate, encode, give it an id and the trace's context, store."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from contextvars import copy_context
from datetime import datetime
from itertools import islice
from typing import Any, Protocol

from pydantic import BaseModel

from framework.engine.port import Broker, Transactional
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

# Jobs stored together, which share their syncs; bounded, as they are held in memory.
BATCH = 1024
BATCH_BYTES = 8 << 20  # of encoded payloads

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
    """Enqueues for one process; safe in threads and event loops. Close it once.

    Jobs that are enqueued one by one at the same time share calls of the engine, whatever their queues. Those with a
    chosen id do so only where a call is a round trip to a server: a local engine stores each of them under the lock of
    its id, which another process may hold, and no other job must wait for that. Batches have calls of their own.

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
        """Store one job; return its id. Errors as `Queue.enqueue` says."""
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
        """`enqueue` for event loops: one thread stores for all coroutines. Large payloads are encoded in a thread, too.

        A coroutine that is cancelled while its job stands in line leaves a job that is stored all the same.
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
                not_before = first_moment(now, delay, None)
                ids, extras = [new_ids() for _ in encoded], self._extras[queue.name]
                with self._sending.many(queue.name, [job_id for job_id, _ in ids]) as headers:
                    stored += self._store(
                        [
                            new_job(
                                i, data, new_headers(carried), options, extras, now=now, not_before=not_before, uid=uid
                            )
                            for (i, uid), data, carried in zip(ids, encoded, headers, strict=True)
                        ]
                    )
            except EnqueueError as error:
                error.enqueued = (*stored, *error.enqueued)
                raise

    def _send(self, job: Job, headers: dict[str, str]) -> JobId:
        with self._sending.one(job.queue, job.id, len(job.payload)) as carried:
            headers.update(carried)
            return self._line.put(job) if self._groups(job) else self._store([job])[0]

    def _transactional(self) -> Transactional:
        if not isinstance(self._broker, Transactional):
            raise InvalidPayload(f"connection=: the engine {self._broker.features.system!r} has no transactions")
        return self._broker

    def _groups(self, job: Job) -> bool:
        return not (job.chosen_id and self._broker.features.local)

    def _join(self, job: Job, headers: dict[str, str]) -> LoopTicket:
        """Put a coroutine's job in line. Its span is current in a context of its own, as it outlives a coroutine that
        is cancelled: it ends when the job has its answer."""
        context, sending = copy_context(), self._sending.one(job.queue, job.id, len(job.payload))
        headers.update(context.run(sending.__enter__))

        def end(error: BaseException | None) -> None:
            context.run(sending.__exit__, type(error) if error else None, error, error.__traceback__ if error else None)

        try:
            return self._line.join(job, context.copy(), end)
        except EnqueueError as error:
            end(error)
            raise

    async def run_async(self, call: Callable[[], list[JobId]]) -> list[JobId]:
        """Runs an enqueue in a thread, with the caller's context (the current span goes along)."""
        return await asyncio.to_thread(call)

    def close(self) -> None:
        """Store what stands in line, and let go of the engine. Idempotent."""
        if not self.closed:
            self.closed = True
            self._line.close()
            self._broker.close()

    def _declared(self, queue: Queue[Any]) -> QueueOptions:
        options = self._options.get(queue.name)
        if options is None:
            try:
                options = self._resolve(queue)
                self._broker.open([options])
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
        """Return a job, checked and encoded, and its headers, which the trace's are still to join."""
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
