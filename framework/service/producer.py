"""The producer: it validates and encodes a payload, gives the job an id and a trace context, and stores it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

from pydantic import BaseModel

from framework.engine.port import Engine, Inspector, KeepsTime, Transactional
from framework.model.errors import (
    EngineError,
    EnqueueError,
    EnqueueFailed,
    EnqueueUncertain,
    InvalidArgument,
    InvalidPayload,
    PayloadTooLarge,
    QueueFull,
    SettingsError,
)
from framework.model.extras import NONE, Extras
from framework.model.job import Job, JobId
from framework.model.options import QueueOptions
from framework.service.cancelling import cancel
from framework.service.codec import CONTENT_TYPE, LARGE, Codec, codec_for, looks_large
from framework.service.fan_in import FollowUp, Members, gathering
from framework.service.grouping import Line
from framework.service.grouping.tickets import LoopTicket
from framework.service.keys import check_conflict, check_id, keys_of, tell_of_duplicates
from framework.service.queues import DeadLetter, Queue
from framework.service.request import (
    JobOptions,
    Request,
    Requests,
    check_own,
    checked_id,
    first_moment,
    new_ids,
    own_headers,
    own_ttl,
    with_own,
)
from framework.service.room import Room, pauses
from framework.service.sender import CancelAnswer, NoSending, Sending

# Jobs of `enqueue_many` that are stored together and share their syncs; limited, because they are held in memory.
BATCH = 1024
BATCH_BYTES = 8 << 20  # of encoded payloads

_NO_HEADERS: Mapping[str, str] = {}


@dataclass(slots=True)
class _Opened:
    """A queue that the engine has opened.

    Attributes:
        extras: the same for all its jobs without options of their own. large: its last payload was large.
    """

    options: QueueOptions
    extras: Extras = NONE
    large: bool = False

    def own(self, own: JobOptions) -> tuple[Extras, float | None, Mapping[str, str]]:
        """Return extras, ttl and headers of a job with options of its own. Raises InvalidArgument, TypeError."""
        check_own(own)
        return with_own(self.extras, own), own_ttl(own, self.options.ttl), own_headers(own)


class _Encoded(NamedTuple):
    """A job of `enqueue_many`: its payload, its id if that is chosen, and its keys if it has any."""

    data: bytes
    job_id: str | None
    keys: dict[str, Any]


class Producer:
    """The producer of one process; safe in threads and event loops. Close it once.

    Jobs that are enqueued one by one at the same time share calls of the engine, whatever their queues (group commit).
    Jobs with a chosen id or a unique key share only calls that are round trips to a server: a local engine stores each
    under the lock of its id or key, which another process may hold, and no other job must wait for that. Each batch has
    calls of its own.

    Args:
        engine: the engine, open.
        options: returns a queue's options after settings; called at the first use of each queue.
        sending: opens the span around each enqueue.
        clock: wall clock, seconds since the epoch; None: that of the engine's store, or else of this machine.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        options: Callable[[Queue[Any]], QueueOptions],
        sending: Sending | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._engine = engine
        self._resolve = options
        self._opened: dict[str, _Opened] = {}
        self._codecs: dict[Queue[Any], Codec] = {}
        self._sending = sending or NoSending()
        self._clock = clock or (engine.store_time if isinstance(engine, KeepsTime) else time.time)
        self._line = Line(self._store)
        self._room = Room(engine)
        self.closed = False

    def enqueue(self, asked: Request) -> JobId:
        """Store one job and return its id. Raises what `Queue.enqueue` raises."""
        job, headers = self._made(asked)
        if asked.connection is None:
            stored = self._send(job, headers, asked.block)
        else:
            engine = self._transactional()
            with self._sending.one(job.queue, job.id, len(job.payload)) as carried:
                headers.update(carried)
                (stored,) = engine.enqueue_within(asked.connection, [job])
        if stored.duplicate:
            tell_of_duplicates(asked.queue, [stored], asked.on_conflict)
        return stored

    async def aenqueue(self, asked: Request) -> JobId:
        """Store one job without blocking the event loop, and return its id.

        One thread stores for all coroutines. Large payloads are encoded in a thread, too. If a coroutine is cancelled
        while its job waits in line, the job is still stored.
        """
        opened = self._opened.get(asked.queue.name)
        if opened is None or opened.large or looks_large(asked.payload):
            job, headers = await asyncio.to_thread(self._made, asked)
        else:
            job, headers = self._made(asked)
        self._opened[job.queue].large = len(job.payload) > LARGE
        if asked.connection is not None:
            engine = self._transactional()
            with self._sending.one(job.queue, job.id, len(job.payload)) as carried:
                headers.update(carried)
                (stored,) = await engine.aenqueue_within(asked.connection, [job])
        elif asked.block:
            stored = await self._asend(job, headers, asked.block)
        elif self._groups(job):
            ticket = self._join(job, headers)
            await ticket.future
            try:
                stored = ticket.result()
            except QueueFull as error:
                await asyncio.to_thread(self._room.explain, error, job.queue)
                raise
        else:
            stored = await asyncio.to_thread(self._send, job, headers)
        if stored.duplicate:
            tell_of_duplicates(asked.queue, [stored], asked.on_conflict)
        return stored

    def enqueue_batch(self, asked: Requests) -> list[JobId]:
        """Store jobs in batches and return their ids. An error's `enqueued` lists the jobs stored before it."""
        return self._stored(asked) if asked.then is None else self._gathered(asked, asked.then)

    def _gathered(self, asked: Requests, then: FollowUp[Any]) -> list[JobId]:
        """Store the jobs as members of a fan-in; the spans of their enqueues are within that of the follow-up's."""
        self._open(asked.queue)
        job, headers = self._made(then.request)
        stored: list[JobId] = []
        with _listing(stored), self._sending.one(job.queue, job.id, len(job.payload)) as carried:
            headers.update(carried)
            with gathering(self._engine, asked.queue.name, job) as numbering:
                try:
                    stored += self._stored(asked, numbering)
                except EnqueueError as error:  # the span counts follow-ups alone
                    stored += map(JobId, error.enqueued)
                    error.enqueued = ()
                    raise
        return Members(stored, job.id)

    def _stored(self, asked: Requests, as_members: Callable[[list[Job]], list[Job]] = list) -> list[JobId]:
        connection, stored = asked.connection, list[JobId]()
        store = self._store if connection is None else partial(self._transactional().enqueue_within, connection)
        waits = pauses(asked.block)
        with _listing(stored):
            for encoded in self._encoded(asked):
                with self._batch(asked, encoded) as jobs:
                    stored += (new := self._room.put(store, as_members(jobs), waits))
                tell_of_duplicates(asked.queue, new, asked.on_conflict)
        return stored

    async def aenqueue_batch(self, asked: Requests) -> list[JobId]:
        """Store as `enqueue_batch` does, in a thread; on the caller's connection, only the encoding is in a thread."""
        if asked.connection is None:
            return await asyncio.to_thread(self.enqueue_batch, asked)
        engine, stored = self._transactional(), list[JobId]()
        with _listing(stored):
            batches = self._encoded(asked)
            while (encoded := await asyncio.to_thread(next, batches, None)) is not None:
                with self._batch(asked, encoded) as jobs:
                    stored += (new := list(await engine.aenqueue_within(asked.connection, jobs)))
                tell_of_duplicates(asked.queue, new, asked.on_conflict)
        return stored

    @contextmanager
    def _batch(self, asked: Requests, encoded: Sequence[_Encoded]) -> Iterator[list[Job]]:
        """Yield the jobs of encoded payloads, within the spans of their enqueue."""
        queue, own = asked.queue, asked.own
        opened, now = self._opened[queue.name], self._clock()
        extras, ttl, more = opened.own(own) if own else (opened.extras, opened.options.ttl, {})
        not_before = first_moment(now, asked.delay, None)
        ids = [new_ids() if one.job_id is None else (one.job_id, new_ids()[1]) for one in encoded]
        with self._sending.many(queue.name, [job_id for job_id, _ in ids]) as headers:
            yield [
                Job(
                    i, uid, queue.name, data, _headers(more, carried), now, not_before, ttl, job_id is not None, None,
                    (), replace(extras, **keys) if keys else extras, asked.on_conflict,
                )
                for (i, uid), (data, job_id, keys), carried in zip(ids, encoded, headers, strict=True)
            ]  # fmt: skip

    def _send(self, job: Job, headers: dict[str, str], block: float = 0.0) -> JobId:
        with self._sending.one(job.queue, job.id, len(job.payload)) as carried:
            headers.update(carried)
            store = self._put if self._groups(job) else self._store
            return self._room.put(store, [job], pauses(block))[0]

    def _put(self, jobs: Sequence[Job]) -> list[JobId]:
        return [self._line.put(job) for job in jobs]

    async def _asend(self, job: Job, headers: dict[str, str], block: float) -> JobId:
        """Store a job that may have to wait for room: only the tries are in a thread."""
        with self._sending.one(job.queue, job.id, len(job.payload)) as carried:
            headers.update(carried)
            for pause in pauses(block):
                try:
                    return (await asyncio.to_thread(self._store, [job]))[0]
                except QueueFull:
                    await asyncio.sleep(pause)
            return (await asyncio.to_thread(self._room.put, self._store, [job], iter(())))[0]

    def _transactional(self) -> Transactional:
        if not isinstance(self._engine, Transactional):
            raise InvalidPayload(f"connection=: the engine {self._engine.features.system!r} has no transactions")
        return self._engine

    def _groups(self, job: Job) -> bool:
        return not (job.excludes and self._engine.features.local)

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

    def cancel(self, queue: Queue[Any], job_id: str) -> CancelAnswer:
        """Cancel a job of a queue. Raises EngineError, EnqueueFailed."""
        job_id = checked_id(job_id)
        self._open(queue)
        if not isinstance(self._engine, Inspector):
            raise EngineError(f"the engine {self._engine.features.system!r} cannot cancel jobs")
        return cancel(self._engine, queue.options, job_id)

    def close(self) -> None:
        """Store the jobs that wait in line, and close the engine. Idempotent."""
        if not self.closed:
            self.closed = True
            self._line.close()
            self._engine.close()

    def _open(self, queue: Queue[Any]) -> _Opened:
        opened = self._opened.get(queue.name)
        if opened is None:
            try:
                opened = _Opened(self._resolve(queue))
                self._engine.open([opened.options])
            except (SettingsError, EngineError) as error:
                raise EnqueueFailed(f"queue {queue.name!r}: {error}") from error
            if queue.payload_type is not DeadLetter:
                made = self._codec(queue, opened.options).fingerprint, opened.options.version or None
                opened.extras = Extras(priority=opened.options.priority, fingerprint=made[0], version=made[1])
            self._opened[queue.name] = opened
        return opened

    def _made(self, asked: Request) -> tuple[Job, dict[str, str]]:
        """Return a job, checked and encoded, and its headers, to which the caller adds the trace's."""
        queue, name = asked.queue, asked.queue.name
        check_conflict(asked.on_conflict, queue)
        opened = self._open(queue)
        now = self._clock()
        not_before = first_moment(now, asked.delay, asked.run_at)
        data = self._encode(queue, asked.payload, opened.options)
        job_id, uid = new_ids()
        if chosen := asked.job_id is not None:
            check_id(queue)
            job_id = checked_id(asked.job_id)
        extras, ttl, more = opened.own(asked.own) if asked.own else (opened.extras, opened.options.ttl, _NO_HEADERS)
        if keys := self._keys(queue, data):
            extras = replace(extras, **keys)
        headers = _headers(more)
        # By position, which is faster: every job comes through here.
        job = Job(job_id, uid, name, data, headers, now, not_before, ttl, chosen, None, (), extras, asked.on_conflict)
        return job, headers

    def _keys(self, queue: Queue[Any], data: bytes) -> dict[str, Any]:
        """Return the keys of a payload as extras, made from what a handler gets. Raises InvalidArgument."""
        if queue.unique is None and queue.group is None:
            return {}
        return keys_of(queue, self._codecs[queue].decode(data))

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

    def _encoded(self, asked: Requests) -> Iterator[list[_Encoded]]:
        """Yield the encoded payloads in parts that are stored together. An error names the number of its payload."""
        queue, jobs = asked.queue, asked.jobs
        options = self._open(queue).options
        check_conflict(asked.on_conflict, queue)
        if isinstance(jobs, (BaseModel, str, bytes, Mapping)):  # iterable, and surely one payload
            raise InvalidPayload(
                f"queue {queue.name!r}: enqueue_many takes an iterable of payloads, not one {type(jobs).__name__}"
            )
        if asked.paired:
            check_id(queue)
        encoded: list[_Encoded] = []
        size = 0
        for number, (payload, job_id) in enumerate(asked.each()):
            try:
                data = self._encode(queue, payload, options)
                chosen = checked_id(job_id) if asked.paired else None
                encoded.append(_Encoded(data, chosen, self._keys(queue, data)))
            except (InvalidPayload, InvalidArgument, PayloadTooLarge) as error:
                if number:  # payload 0 may be the only one
                    error.args = (f"payload {number}, counted from 0: {error}",)
                raise
            size += len(data)
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
                f"queue {jobs[0].queue!r}: {ids} may or may not be queued: {error!r}", job_id=jobs[0].id
            ) from error


@contextmanager
def _listing(stored: Sequence[JobId]) -> Iterator[None]:
    """List in an EnqueueError what was stored before it."""
    try:
        yield
    except EnqueueError as error:
        error.enqueued = (*stored, *error.enqueued)
        raise


def _headers(own: Mapping[str, str], carried: Mapping[str, str] = _NO_HEADERS) -> dict[str, Any]:
    """Return the headers of a job: its own, the type of its payload, and those that carry the context of its trace."""
    return {**own, "content-type": CONTENT_TYPE, **carried}
