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
from framework.engine.memory.fan_ins import MemoryFanIns
from framework.engine.memory.inspection import MemoryInspection
from framework.engine.memory.row import Row
from framework.engine.memory.store import MemoryStore, Shelf, UnknownQueue
from framework.engine.port import NO_JOBS, Features, QueueStats, Rescued, Tick
from framework.model.errors import EnqueueFailed, LeaseLost, PayloadTooLarge, QueueFull, SettingsError
from framework.model.extras import with_saved
from framework.model.fan_in import ENDS
from framework.model.job import Job, JobId, Lease
from framework.model.limits import Throttle
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


class MemoryEngine(MemoryInspection):
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
        self.fan_ins = MemoryFanIns(store, clock)

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
                    leases += self._take(shelf, limit - len(leases))
                left = deadline - time.monotonic()
                if leases or left <= 0:
                    return leases
                # Registered before the lock is released: any job that is stored afterwards notifies this claim.
                self.store.waiting.add(self._notifier)
                now = self._clock()
                due = min((shelf.next_due(default=math.inf) for shelf in shelves), default=math.inf)
                held = min((wait for queue in queues if (wait := self.store.waits(queue, now))), default=math.inf)
                left = min(left, max(0.001, min(due - now, held)))
            try:
                woken = self._notifier.get(timeout=left)
            except Empty:
                continue
            if woken:
                while not self._notifier.empty():  # many calls of `wake` end one claim only
                    self._notifier.get()
                return ()

    def _take(self, shelf: Shelf, limit: int) -> list[Lease]:
        now, options = self._clock(), shelf.options
        shelf.promote(now)
        if self.store.is_paused(options.name):
            return []
        room = self.store.room(shelf, limit, now)
        leases = [self._lease(row, canary=room.canary) for row in self._claimed(shelf, room.jobs, now)]
        if len(leases) < room.jobs and options.name in self.store.throttles:
            self.store.throttles[options.name].give_back(options, room, room.jobs - len(leases))
        return leases

    def _claimed(self, shelf: Shelf, limit: int, now: float) -> Iterator[Row]:
        for _ in range(limit):
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

    def _lease(self, row: Row, *, canary: bool = False) -> Lease:
        return Lease(row.job, row.queue, row.attempt + 1, row.delivery, row.eligible_at, token=row, canary=canary)

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
                store.fans.end(row.job.extras, ENDS[outcome.kind], now)
            case kind if row.cancelled or kind is Kind.CANCELLED:
                store.set_aside(row, now=now)
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

    def cancelled(self, leases: Sequence[Lease]) -> list[Lease]:
        """Return the leases whose rows have the flag."""
        return [lease for lease in leases if lease.token.cancelled]

    def _holds(self, lease: Lease) -> bool:
        row: Row = lease.token
        # A later claim by the same owner has the same holder: only the delivery distinguishes the two.
        return row.holder == self.incarnation and row.delivery == lease.delivery

    def save(self, lease: Lease, state: str) -> None:
        """Put the checkpoint into the job's extras."""
        with self.store.lock:
            if not self._holds(lease):
                raise LeaseLost([lease])
            row: Row = lease.token
            row.job = replace(row.job, extras=with_saved(row.job.extras, state))

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

    def hold(self, queue: str, seconds: float) -> None:
        """Hold a queue in the store, or reopen it, and notify the claims that wait."""
        with self.store.lock:
            self.store.shelf(queue)
            self.store.throttles.setdefault(queue, Throttle()).hold(self._clock(), seconds)
            self.store.notify()

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
            counts, paused, held = shelf.counts, self.store.is_paused(queue), self.store.is_held(queue, now)
            if self.store.keeps_dead_letters(shelf):
                dead = counts["dead"] + shelf.length
                return replace(NO_JOBS, in_flight=counts["in_flight"], dead=dead, paused=paused)
            oldest = min((row.eligible_at for row in shelf.in_state("ready")), default=now)
            return QueueStats(
                counts["ready"], counts["delayed"], counts["in_flight"], counts["dead"], 0, max(0.0, now - oldest),
                paused, held,
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
