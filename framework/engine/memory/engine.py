"""The engine in memory, for tests and `framework.testing`: the whole contract, but nothing outlives the process.

Several engines may share one `MemoryStore`, as processes share a directory. All times come from the given clock, so a
test that moves its clock sees delays, backoff and ttl pass without sleeping.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from queue import Empty, SimpleQueue
from tempfile import TemporaryDirectory
from typing import Any

from framework.engine import url_options as options
from framework.engine.memory.store import MemoryStore, Row, Shelf, UnknownQueue
from framework.engine.port import NO_JOBS, Features, JobView, Pause, QueueStats, Rescued, State, Tick
from framework.model.errors import EnqueueFailed, LeaseLost, PayloadTooLarge, QueueFull, SettingsError, UsageError
from framework.model.job import Job, JobId, Lease
from framework.model.options import QueueSpec
from framework.model.outcome import Kind, Outcome, Settlement

__all__ = ["MemoryEngine", "MemoryStore", "connect"]

LONGEST_WAIT = 5.0  # seconds, as the contract says
TURN = 0.5  # seconds between two calls of `maintain`


def connect(
    url: str,
    *,
    incarnation: str,
    store: MemoryStore | None = None,
    clock: Callable[[], float] = time.time,
    **_others: Any,
) -> MemoryEngine:
    """Return an engine on `store`, or on a new store of its own.

    Args:
        url: `memory:`.
        incarnation: name of this owner, never reused.
        clock: returns the wall-clock time in seconds since the epoch.

    Raises:
        SettingsError: the URL names a place or an option, and memory has none.
    """
    url, _ = options.split(url, {})
    if url.rstrip("/") != "memory:":
        raise SettingsError(f"WORKER_ENGINE_URL={url!r}: the engine in memory has no place, write memory:")
    return MemoryEngine(MemoryStore() if store is None else store, incarnation=incarnation, clock=clock)


class MemoryEngine:
    """The `Engine` and `Inspector` of `framework.engine.port` on a `MemoryStore`."""

    features = Features(system="memory", local=True, durable="nothing")
    notes: Sequence[str] = ()

    def __init__(self, store: MemoryStore, *, incarnation: str, clock: Callable[[], float] = time.time) -> None:
        self.store = store
        self.incarnation = incarnation
        self._clock = clock
        # True: wake() was called; False: a job came. This is not a Condition, because a signal from a handler that runs
        # between a check and a wait would be lost; SimpleQueue.put is reentrant, and its items stay.
        self._notifier: SimpleQueue[bool] = SimpleQueue()
        self._own: TemporaryDirectory[str] | None = None

    @property
    def local_dir(self) -> Path:
        """Return a directory of this engine's own, made at the first use."""
        self._own = self._own or TemporaryDirectory(prefix="worker-")
        return Path(self._own.name)

    def open(self, queues: Sequence[QueueSpec]) -> None:
        """Declare the queues and the dead-letter queues that they name."""
        with self.store.lock:
            self.store.declare(queues)
            self.store.living.add(self.incarnation)

    def enqueue(self, jobs: Sequence[Job]) -> list[JobId]:
        """Store the jobs in order, up to the first that is refused."""
        stored: list[JobId] = []
        with self.store.lock:
            try:
                for job in jobs:
                    stored.append(self._enqueue_one(job, stored))
            finally:
                self.store.notify()
        return stored

    def _enqueue_one(self, job: Job, stored: Sequence[str]) -> JobId:
        try:
            shelf = self.store.shelf(job.queue)
        except UnknownQueue as error:
            raise EnqueueFailed(str(error), enqueued=stored) from None
        options = shelf.options
        if len(job.payload) > options.max_payload_bytes:
            raise PayloadTooLarge(
                f"queue {job.queue!r} takes payloads of {options.max_payload_bytes} bytes, this one has "
                f"{len(job.payload)}: store it elsewhere and enqueue a reference, or raise max_payload_bytes",
                enqueued=stored,
            )
        if job.excludes and (holder := self.store.holder(job, self._clock())) is not None:
            return JobId.taken(holder)
        if options.max_length is not None and shelf.length >= options.max_length:
            raise QueueFull(
                f"queue {job.queue!r} holds {shelf.length} jobs, its max_length: enqueue later, or raise it",
                enqueued=stored,
            )
        self.store.add(job, now=self._clock())
        return JobId(job.id)

    def claim(self, queues: Sequence[str], *, limit: int, wait: float) -> Sequence[Lease]:
        """Claim due jobs in order, from one queue after the other; wait on the notifier where there are none."""
        deadline = time.monotonic() + min(wait, LONGEST_WAIT)
        while True:
            with self.store.lock:
                shelves = [self.store.shelf(queue) for queue in queues]
                leases: list[Lease] = []
                for shelf in shelves:
                    leases += [self._lease(row) for row in self._take(shelf, limit - len(leases))]
                left = deadline - time.monotonic()
                if leases or left <= 0:
                    return leases
                # Registered before the lock is released: any job that is stored afterwards notifies this claim.
                self.store.waiting.add(self._notifier)
                due = min((shelf.next_due(default=math.inf) for shelf in shelves), default=math.inf)
                left = min(left, max(0.001, due - self._clock()))
            try:
                woken = self._notifier.get(timeout=left)
            except Empty:
                continue
            if woken:
                while not self._notifier.empty():  # many calls of `wake` end one claim only
                    self._notifier.get()
                return ()

    def _take(self, shelf: Shelf, limit: int) -> Iterator[Row]:
        now = self._clock()
        shelf.promote(now)
        for _ in range(0 if self.store.is_paused(shelf.options.name) else limit):
            row = shelf.pop_ready(now)
            while row is not None and row.expired(now):
                self.store.expire(row, now)
                row = shelf.pop_ready(now)
            if row is None:
                return
            row.delivery += 1
            row.owner = row.holder = self.incarnation
            self.store.move(row, "in_flight", now=now)
            yield row

    def _lease(self, row: Row) -> Lease:
        return Lease(row.job, row.queue, row.attempt + 1, row.delivery, row.eligible_at, token=row)

    def settle(self, done: Sequence[Settlement]) -> None:
        """Settle each lease by the kind of its outcome."""
        self._settle(done)

    def _settle(self, done: Sequence[Settlement]) -> None:
        lost = []
        with self.store.lock:
            for one in done:
                if self._holds(one.lease):
                    self._settle_one(one.lease.token, one.outcome)
                else:
                    lost.append(one.lease)
            self.store.notify()
        if lost:
            raise LeaseLost(lost)

    def _settle_one(self, row: Row, outcome: Outcome) -> None:
        store, now, failure = self.store, self._clock(), outcome.failure
        match outcome.kind:
            case Kind.SUCCEEDED | Kind.DISCARDED:
                store.remove(row)
            case Kind.RELEASED:
                if outcome.delay > 0:
                    store.put_back(row, now=now, delay=outcome.delay)
                else:
                    store.move(row, "ready", now=now)
            case Kind.ARCHIVED:
                store.move(row, "dead", now=now)
            case Kind.RETRIED if failure is not None:
                row.attempt += 1
                row.add_failure(failure)
                store.put_back(row, now=now, delay=outcome.delay)
            case Kind.DEAD_LETTERED if failure is not None:
                store.dead_letter(row, failure, now=now)
            case _:
                raise ValueError(f"{outcome.kind} needs the failure")

    def release(self, leases: Sequence[Lease], *, delay: float = 0) -> None:
        """Give leases back to the places that they had."""
        self._settle([Settlement(lease, Outcome(Kind.RELEASED, delay)) for lease in leases])

    def lost(self, leases: Sequence[Lease]) -> list[Lease]:
        """Return the leases that a rescuer has taken over or that were settled."""
        with self.store.lock:
            return [lease for lease in leases if not self._holds(lease)]

    def _holds(self, lease: Lease) -> bool:
        row: Row = lease.token
        # A later claim by the same owner has the same holder: only the delivery distinguishes the two.
        return row.holder == self.incarnation and row.delivery == lease.delivery

    def rescue(self) -> Sequence[Rescued]:
        """Take over the leases whose holder is dead."""
        with self.store.lock:
            abandoned = self.store.abandoned()
            for row in abandoned:
                row.holder = self.incarnation
            return [Rescued(self._lease(row), row.owner) for row in abandoned]

    def unaccounted(self, lease: Lease) -> int:
        """Count this delivery in the row, once, and return the count."""
        row: Row = lease.token
        with self.store.lock:
            count, last = row.unaccounted
            if last != lease.delivery:
                ended = max(0, lease.delivery - last - 1)  # in good order since the last counted one
                row.unaccounted = max(0, count - ended) + 1, lease.delivery
            return row.unaccounted[0]

    def maintain(self, *, seconds: float = math.inf) -> float:
        """Promote due jobs, expire jobs and delete dead letters whose ttl is over. It never takes long."""
        with self.store.lock:
            self.store.maintain(self._clock())
            self.store.notify()
        return TURN

    def stuck(self) -> Mapping[str, str]:
        """Return nothing: in memory, jobs can always be moved."""
        return {}

    def expired(self) -> Mapping[str, int]:
        """Return and reset the counts of expired jobs, which all engines on the store share."""
        with self.store.lock:
            counts, self.store.expired = self.store.expired, Counter()
        return dict(counts)

    def lead(self, name: str) -> bool:
        """Return whether this owner has a role; the first living owner that asks gets it."""
        with self.store.lock:
            return self.store.lead(name, self.incarnation)

    def ticks(self, queue: str, keys: Sequence[str]) -> tuple[float, Mapping[str, Tick]]:
        """Return the clock's time and the states of schedules."""
        with self.store.lock:
            found = {key: self.store.ticks.get((queue, key)) for key in keys}
        return self._clock(), {key: tick for key, tick in found.items() if tick is not None}

    def fire(
        self, queue: str, key: str, last: float | None, tick: float, job: Job | None = None, *, missed: int = 0
    ) -> bool:
        """Set the latest tick under the store's lock, after the job was accepted."""
        with self.store.lock:
            known = self.store.ticks.get((queue, key))
            if (None if known is None else known.last) != last:
                return False
            if job is not None:
                self._enqueue_one(job, ())
                self.store.notify()
            self.store.ticks[queue, key] = Tick(tick, missed + (known.missed if known else 0))
        return True

    def stats(self, queue: str) -> QueueStats:
        """Return the current counts of a queue."""
        with self.store.lock:
            shelf, now = self.store.shelf(queue), self._clock()
            counts, paused = shelf.counts, self.store.is_paused(queue)
            if self.store.keeps_dead_letters(shelf):
                dead = counts["dead"] + shelf.length
                return replace(NO_JOBS, in_flight=counts["in_flight"], dead=dead, paused=paused)
            oldest = min((row.eligible_at for row in shelf.in_state("ready")), default=now)
            return QueueStats(
                counts["ready"], counts["delayed"], counts["in_flight"], counts["dead"], 0, max(0.0, now - oldest),
                paused,
            )  # fmt: skip

    def undeclared(self) -> Mapping[str, QueueStats]:
        """Return nothing: a job cannot be stored in an undeclared queue."""
        return {}

    def wake(self) -> None:
        """End a wait, without a lock: a signal handler may interrupt the thread that holds it."""
        self._notifier.put(True)

    def close(self) -> None:
        """End this owner. Its claims become abandoned leases."""
        with self.store.lock:
            self.store.living.discard(self.incarnation)
            self.store.notify()
        if self._own is not None:
            self._own.cleanup()
            self._own = None

    def stored_queues(self) -> Sequence[str]:
        """Return the names of all declared queues: others cannot hold jobs."""
        return self.store.queues()

    def last_seen(self, queue: str) -> float | None:
        """Return None: no service outlives the store."""
        return None

    def browse(self, queue: str, state: State, *, after: str = "") -> Iterator[JobView]:
        """Return an iterator over a copy of the current jobs, in the order of the queue."""
        least = _position(after)
        with self.store.lock:
            rows = [row for row in self.store.shelf(queue).rows.values() if self.store.state_of(row) == state]
            return iter([row.view(state) for row in sorted(rows, key=lambda row: row.position) if row.position > least])

    def newer(self, queue: str) -> Iterator[JobView]:
        """Return nothing: all jobs in memory are of this version."""
        return iter(())

    def get(self, queues: Sequence[str], job_id: str) -> Iterator[JobView]:
        """Return an iterator over the jobs of an id; all jobs are looked at."""
        with self.store.lock:
            rows = [row for queue in queues for row in self.store.shelf(queue).rows.values() if row.job.id == job_id]
            return iter([row.view(self.store.state_of(row)) for row in sorted(rows, key=lambda row: row.position)])

    def find(self, queue: str, job_id: str, state: State) -> JobView | None:
        """Return the oldest job of an id in a state, or None."""
        return next((view for view in self.browse(queue, state) if view.job.id == job_id), None)

    def replay(self, view: JobView) -> bool:
        """Send a dead letter home, also one that its dead-letter queue has not handled yet."""
        with self.store.lock:
            row = self.store.seen(view)
            if row is None or not (row.state == "dead" or row.is_dead_letter):
                return False
            self.store.send_home(row, now=self._clock())
            self.store.notify()
            return True

    def discard(self, view: JobView) -> bool:
        """Delete a job that is not claimed."""
        with self.store.lock:
            row = self.store.seen(view)
            if row is None:
                return False
            self.store.remove(row)
            return True

    def pause(self, queue: str, by: str) -> bool:
        """Set the queue's flag."""
        with self.store.lock:
            return self.store.pause(queue, by, self._clock(), paused=True)

    def resume(self, queue: str, by: str) -> bool:
        """Clear the queue's flag, and notify the claims that wait."""
        with self.store.lock:
            done = self.store.pause(queue, by, self._clock(), paused=False)
            self.store.notify()
        return done

    def paused(self, queue: str) -> Pause | None:
        """Return the latest pause or resumption."""
        with self.store.lock:
            self.store.shelf(queue)
            return self.store.pauses.get(queue)

    def restore(self, view: JobView) -> str:
        """Return a refusal: in memory, no job is ever bad."""
        return "is no longer there"


def _position(cursor: str) -> int:
    if cursor and not (cursor.isascii() and cursor.isdigit()):
        raise UsageError(f"{cursor[:100]!r} is no position in a list: take one that a page has returned")
    return int(cursor or 0)
