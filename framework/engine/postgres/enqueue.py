"""The enqueue of jobs into the tables."""

from __future__ import annotations

import json
import time
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg

from framework.engine.fan_in import refuse_too_large
from framework.engine.postgres.link import Failed, Link
from framework.engine.postgres.rows import STORED, TYPES, key_of, offset_of, read_id, stored, write_id
from framework.model.errors import (
    EngineError,
    EnqueueError,
    EnqueueFailed,
    EnqueueUncertain,
    PayloadTooLarge,
    QueueFull,
)
from framework.model.fan_in import HOWS, NAME, Ended, FanIn
from framework.model.job import Job, JobId
from framework.model.options import QueueOptions

DISK_FULL = "53100"
HELD = "a transaction that is still open enqueues the same id or unique key"
HOLDS = "held "  # begins the answer that names the job that holds a unique key
COUNT_AGAIN = 1.0  # seconds for which a counted length is used, or 20 times what the count took, if that is longer


@dataclass(slots=True)
class _Room:
    """The number of jobs that fit into a queue, as counted at some time, and how many were stored since then."""

    left: int
    used: int
    until: float

    @property
    def is_known(self) -> bool:
        return self.used < self.left // 16 and time.monotonic() < self.until


@dataclass(slots=True)
class _Within:
    """A statement with one parameter for the caller's transaction, and its answers."""

    query: str
    document: str
    answers: Sequence[str] = ()
    ids: Sequence[JobId] = ()


class Store:
    """The enqueue of jobs on a connection of its own, so that no other call waits for its commits.

    Args:
        find: returns the number and the options of a queue. Raises EngineError if the queue is not declared.
    """

    def __init__(self, link: Link, find: Callable[[str], tuple[int, QueueOptions]]) -> None:
        self._link = link
        self._schema = f'"{link.place.schema}"'
        self._find = find
        self._rooms: dict[int, _Room] = {}

    def enqueue(self, jobs: Sequence[Job]) -> list[JobId]:
        """Store the jobs in order, up to the first that is refused. Raises an EnqueueError."""
        good, refusal = self._checked(jobs)
        ids: list[JobId] = []
        if good:
            try:
                with self._link.lock:
                    ids, full = self._store(good)
            except EngineError as error:
                raise _not_stored(good, error) from error
            refusal = full or refusal
        if refusal is not None:
            refusal.enqueued = tuple(ids)
            raise refusal
        return ids

    def _checked(self, jobs: Sequence[Job]) -> tuple[Sequence[Job], EnqueueError | None]:
        for number, job in enumerate(jobs):
            try:
                _, options = self._find(job.queue)
            except EngineError as error:
                return jobs[:number], EnqueueFailed(str(error))
            if len(job.payload) > options.max_payload_bytes:
                return jobs[:number], PayloadTooLarge(
                    f"queue {job.queue!r} takes payloads of {options.max_payload_bytes} bytes, this one has "
                    f"{len(job.payload)}: store it elsewhere and enqueue a reference, or raise max_payload_bytes"
                )
        return jobs, None

    def _store(self, jobs: Sequence[Job]) -> tuple[list[JobId], EnqueueError | None]:
        queues = {job.queue for job in jobs}
        rooms = {number: room for name in queues for number, room in [self._room(name)] if room is not None}
        if any(job.excludes or offset_of(job) for job in jobs):
            answers = self._by_document(jobs, rooms)
        else:
            answers = self._plain(jobs, rooms)
        new = Counter(self._find(job.queue)[0] for job, one in zip(jobs, answers, strict=False) if one == "stored")
        for number, count in new.items():
            if number in self._rooms:
                self._rooms[number].used += count
        tell(self._link, new, below=any(offset_of(job) < 0 for job in jobs))
        return self._answers(jobs, answers)

    def _answers(self, jobs: Sequence[Job], answers: Sequence[str]) -> tuple[list[JobId], EnqueueError | None]:
        """Return the ids of jobs that were stored or are duplicates, and the error of the first that was refused."""
        ids: list[JobId] = []
        for job, answer in zip(jobs, answers, strict=False):
            if answer == "locked":
                return ids, EnqueueFailed(f"{job.id!r} not queued: {HELD}")
            if answer == "full":
                number, options = self._find(job.queue)
                self._rooms.pop(number, None)
                return ids, QueueFull(
                    f"queue {job.queue!r} holds {options.max_length} jobs, its max_length: enqueue later, or raise it"
                )
            if answer == "duplicate":
                ids.append(JobId.taken(job.id))
            elif answer.startswith(HOLDS):
                ids.append(JobId.taken(read_id(answer.removeprefix(HOLDS))))
            else:
                ids.append(JobId(job.id))
        return ids, None

    @contextmanager
    def within(self, jobs: Sequence[Job]) -> Iterator[_Within]:
        """Yield the statement for the caller's transaction; the caller sets its answers. Raises an EnqueueError."""
        good, refusal = self._checked(jobs)
        if refusal is not None:
            raise refusal
        limits = dict(self._find(job.queue) for job in good)
        most = {n: one.max_length for n, one in limits.items() if one.max_length and not one.is_dead_letter}
        call = _Within(self._query(good), self.document(good, most=most))
        try:
            yield call
        except EnqueueError:
            raise
        except Exception as error:
            # The driver's text is left out: it may quote the payload.
            raise EnqueueFailed(f"not queued, roll the transaction back: {type(error).__name__}") from error
        call.ids, full = self._answers(good, call.answers)
        if full is not None:
            full.enqueued = tuple(call.ids)
            raise full

    def fire(self, queue: str, key: str, last: float | None, tick: float, job: Job | None, missed: int) -> bool:
        """Handle a tick of a schedule as the contract's `fire` does. Raises EngineError, PayloadTooLarge, QueueFull."""
        number, options = self._find(queue)
        document = None
        if job is not None:
            if (refusal := self._checked([job])[1]) is not None:
                raise refusal
            document = self.document([job], most={number: options.max_length} if options.max_length else {})
        query = f"select {self._schema}.fire_1(%s, %s, %s::float8, %s::float8, %s, %s::text)"
        ((answer,),) = self._link.rows(query, [number, key, last, tick, missed, document])
        if answer == "fired" and job is not None:
            tell(self._link, [number], below=offset_of(job) < 0)
        elif answer not in ("fired", "late"):
            assert job is not None
            _, refusal = self._answers([job], [answer])
            raise refusal or EnqueueFailed(f"{job.id!r} not queued: {answer}")
        return bool(answer == "fired")

    def _room(self, queue: str) -> tuple[int, int | None]:
        """Return a queue's number and how many jobs still fit; None if it has no limit.

        Where there is little room it is counted each time. Where there is much, a count is used for a while, and other
        producers may make the queue a little longer than its limit.
        """
        number, options = self._find(queue)
        if options.max_length is None or options.is_dead_letter:
            return number, None
        room = self._rooms.get(number)
        if room is None or not room.is_known:
            began = time.monotonic()
            rows = self._link.rows(f"select {self._schema}.room_1(%s, %s)", [number, options.max_length])
            took = time.monotonic() - began
            room = self._rooms[number] = _Room(rows[0][0], 0, began + took + max(COUNT_AGAIN, 20 * took))
        return number, room.left - room.used

    def _plain(self, jobs: Sequence[Job], rooms: dict[int, int]) -> list[str]:
        now = self._link.now()
        ready, later, answers = [], [], []
        for job in jobs:
            number, _ = self._find(job.queue)
            if rooms.get(number, 1) <= 0:
                answers.append("full")
                break
            if number in rooms:
                rooms[number] -= 1
            row = stored(job, number, now)
            if job.eligible_at > now and job.not_before is not None:
                later.append((*row, job.eligible_at))
            else:
                ready.append(row)
            answers.append("stored")
        if ready and later:
            self._link.call(lambda cursor: self._both(cursor, ready, later))
        elif ready or later:
            self._link.call(lambda cursor: self._insert(cursor, ready, later))
        return answers

    def _both(self, cursor: psycopg.Cursor, *rows: list[tuple[Any, ...]]) -> None:
        with cursor.connection.transaction():
            self._insert(cursor, *rows)

    def _insert(self, cursor: psycopg.Cursor, ready: list[tuple[Any, ...]], later: list[tuple[Any, ...]]) -> None:
        for table, columns, types, rows in (
            ("job", STORED, TYPES, ready), ("later", (*STORED, "due"), (*TYPES, "float8"), later)
        ):  # fmt: skip
            names = f"{self._schema}.{table} ({', '.join(columns)})"
            if len(rows) == 1:
                marks = ", ".join(f"%b::{one}" for one in types)
                cursor.execute(f"insert into {names} values ({marks})", rows[0])
            elif rows:
                with cursor.copy(f"copy {names} from stdin (format binary)") as copy:
                    copy.set_types(types)
                    for row in rows:
                        copy.write_row(row)

    def _by_document(self, jobs: Sequence[Job], rooms: dict[int, int]) -> list[str]:
        query = self._query(jobs).format("%s")
        return [answer for (answer,) in self._link.rows(query, [self.document(jobs, rooms=rooms)])]

    def _query(self, jobs: Sequence[Job]) -> str:
        function = "enqueue_2" if any(job.extras.unique_key is not None for job in jobs) else "enqueue_1"
        return f"select answer from {self._schema}.{function}({{}}) order by number"

    def document(self, jobs: Sequence[Job], **limits: dict[int, int]) -> str:
        """Return the JSON text for the function `enqueue_1`."""
        return json.dumps({"jobs": [self._entry(job) for job in jobs], **limits})

    def _entry(self, job: Job) -> dict[str, Any]:
        number, _ = self._find(job.queue)
        names = dict(zip(STORED, stored(job, number, 0.0), strict=True))
        names |= {name: b64encode(names[name]).decode() for name in ("uid", "payload")}
        return names | {"id": write_id(job.id), "priority": offset_of(job)} | key_of(job)


class PostgresFanIns:
    """The `FanIns` of `framework.engine.fan_in`, on the connection for enqueues.

    A member ends in the transaction that settles its job, and the last one stores the follow-up in it.
    """

    def __init__(self, store: Store, link: Link, find: Callable[[str], tuple[int, QueueOptions]]) -> None:
        self._store = store
        self._link = link
        self._find = find

    def begin(self, queue: str, follow_up: Job) -> None:
        """Insert the row, with the follow-up as the document for its enqueue."""
        number, most = self._find(queue)[0], self._find(follow_up.queue)[1].max_payload_bytes
        refuse_too_large(follow_up, most)
        self._rows(
            "insert into {schema}.fan_in (name, of_queue, touched, follow_up) values (%s, %s, {schema}.clock(), %s) "
            "on conflict do nothing",
            [_checked(follow_up.id), number, self._store.document([follow_up])],
        )

    def grow(self, queue: str, name: str, members: int) -> bool:
        """Insert a row for each new member."""
        return bool(self._rows("select {schema}.grow_fan_in_1(%s, %s)", [name, members])[0][0])

    def seal(self, queue: str, name: str, members: int) -> bool:
        """Set the number of members; with the last end, or here, the follow-up is inserted."""
        return bool(self._rows("select {schema}.seal_fan_in_1(%s, %s)", [name, members])[0][0])

    def drop(self, queue: str, name: str) -> None:
        """Delete the rows."""
        self._rows(
            "with gone as (delete from {schema}.fan_in where name = %s and members is null returning name) "
            "delete from {schema}.member m using gone where m.fan_in = gone.name",
            [name],
        )

    def look(self, queue: str, name: str) -> FanIn | None:
        """Read the row."""
        counts = ", ".join(HOWS)
        rows = self._rows(f"select members, grown, {counts} from {{schema}}.fan_in where name = %s", [name])
        if not rows:
            return None
        members, grown, *ends = rows[0]
        return FanIn(grown if members is None else members, members is not None, Ended(*ends))

    def _rows(self, query: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        return self._link.rows(query.format(schema=f'"{self._link.place.schema}"'), values)


def _checked(name: str) -> str:
    if not NAME.fullmatch(name):
        raise ValueError(f"{name!r:.60} is no name of a fan-in")
    return name


def tell(link: Link, queues: Iterable[int], *, below: bool = True) -> None:
    """Notify claims that wait for these queues, and do not wait for it. Errors are ignored: claims also look from time
    to time.

    Args:
        below: there may be a new job below the floors of those claims.
    """
    if numbers := sorted(set(queues)):
        names = ",".join(map(str, numbers))
        link.post(f'select "{link.place.schema}".tell_1($1::int[], $2::bool)', [f"{{{names}}}", str(below)])


def _not_stored(jobs: Sequence[Job], error: EngineError) -> EnqueueError:
    if isinstance(error, Failed) and error.unsure:
        return EnqueueUncertain(f"{jobs[0].id!r} may be queued or not: {error}", job_id=jobs[0].id)
    if isinstance(error, Failed) and error.code == DISK_FULL:
        return QueueFull(f"not queued: {error}")
    return EnqueueFailed(f"not queued: {error}")
