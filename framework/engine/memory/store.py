"""The store that engines in memory share: the rows of all queues. Callers hold the store's lock."""

from __future__ import annotations

import heapq
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from queue import SimpleQueue

from framework.engine.declarations import Declaration
from framework.engine.memory.fan_ins import Fans
from framework.engine.memory.lanes import Lanes
from framework.engine.memory.row import Row
from framework.engine.port import CANCELLED_KEPT, STARVING_TURN, Cancelled, JobView, Pause, State, Tick
from framework.model.errors import EngineError
from framework.model.job import Failure, Job
from framework.model.limits import Room, Throttle
from framework.model.options import QueueOptions, QueueSpec


class UnknownQueue(EngineError):
    """The queue is not declared on this store."""


class Shelf:
    """The rows of one queue. The heaps may hold entries of rows that have moved; these are skipped when popped."""

    def __init__(self, options: QueueSpec) -> None:
        self.options = options
        self.rows: dict[int, Row] = {}
        self.counts: Counter[State] = Counter()
        self._ready: dict[int, list[tuple[int, int]]] = {}  # by priority: position, serial
        self._pops = 0
        self._delayed: list[tuple[float, int]] = []  # due, serial
        self._lanes = Lanes(self.rows)

    @property
    def length(self) -> int:
        """Return the number of jobs that `max_length` limits."""
        return self.counts["ready"] + self.counts["delayed"]

    def in_state(self, state: State) -> list[Row]:
        return [row for row in self.rows.values() if row.state == state]

    def put(self, row: Row) -> None:
        self.rows[row.serial] = row
        self.counts[row.state] += 1
        if row.state == "delayed":
            heapq.heappush(self._delayed, (row.eligible_at, row.serial))
        if self.options.groups is not None:
            self._lanes.put(row)
        elif row.state == "ready":
            heapq.heappush(self._ready.setdefault(row.job.extras.priority, []), (row.position, row.serial))

    def drop(self, row: Row) -> None:
        del self.rows[row.serial]
        self.counts[row.state] -= 1
        if self.options.groups is not None:
            self._lanes.drop(row)

    def pop_ready(self, now: float) -> Row | None:
        """Return the ready row that is next, or None. It is still in state ready: the caller moves it."""
        if self.options.groups is not None:
            return self._lanes.pop(self.options.groups)
        firsts = [row for priority in sorted(self._ready) if (row := self._first(priority)) is not None]
        if not firsts:
            return None
        self._pops += 1
        after, found = self.options.starve_after, firsts[0]
        if after is not None and self._pops % STARVING_TURN == 0:
            late = [row for row in firsts[1:] if row.eligible_at <= now - after]
            found = min(late, key=lambda row: row.eligible_at, default=found)
        heapq.heappop(self._ready[found.job.extras.priority])
        return found

    def _first(self, priority: int) -> Row | None:
        """Return the first ready row of a priority, or None."""
        heap = self._ready[priority]
        while heap:
            position, serial = heap[0]
            row = self.rows.get(serial)
            if row is not None and row.state == "ready" and row.position == position:
                return row
            heapq.heappop(heap)
        return None

    def next_due(self, *, default: float) -> float:
        """Return when the next delayed row is due, in seconds since the epoch; the time may be too early."""
        return self._delayed[0][0] if self._delayed else default

    def promote(self, now: float) -> None:
        while self._delayed and self._delayed[0][0] <= now:
            due, serial = heapq.heappop(self._delayed)
            row = self.rows.get(serial)
            if row is not None and row.state == "delayed" and row.eligible_at == due:
                self.drop(row)
                row.state, row.since = "ready", due
                self.put(row)


class MemoryStore:
    """The queues with their rows, the living owners, and the notifiers of waiting claims."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.living: set[str] = set()
        self.waiting: set[SimpleQueue[bool]] = set()
        self._shelves: dict[str, Shelf] = {}
        self._ids: dict[tuple[str, str], int] = {}  # home queue and chosen id -> serial
        self._keys: dict[tuple[str, str], Row] = {}  # home queue and unique key -> the last job that took it
        self._serials = count(1)
        self.expired: Counter[str] = Counter()
        self._leaders: dict[str, str] = {}  # role -> incarnation
        self.ticks: dict[tuple[str, str], Tick] = {}  # queue and key of a schedule
        self.declared: dict[str, tuple[Declaration, float | None]] = {}  # when; None: the service has stopped
        self.pauses: dict[str, Pause] = {}  # the latest of each queue
        self.throttles: dict[str, Throttle] = {}  # of queues with a rate or a breaker
        self._handlers: dict[str, set[str]] = {}  # dead-letter queue -> services that handle it
        self.fans = Fans(self)

    def kill(self, incarnation: str) -> None:
        """Kill an owner at once: its claims become abandoned leases, run records included."""
        with self.lock:
            self.living.discard(incarnation)

    def declare(self, queues: Sequence[QueueSpec]) -> None:
        for options in queues:
            shelf = self._shelves.setdefault(options.name, Shelf(options))
            if (shelf.options.groups is None) != (options.groups is None):  # its rows are in another order now
                before, shelf = shelf, Shelf(options)
                self._shelves[options.name] = shelf
                for row in before.rows.values():
                    shelf.put(row)
            shelf.options = options
            handlers = self._handlers.setdefault(options.name, set())
            if options.handled:
                handlers.add(options.service)
            elif options.service:
                handlers.discard(options.service)
        for options in queues:
            if options.dead_letter is not None and options.dead_letter not in self._shelves:
                self._shelves[options.dead_letter] = Shelf(
                    QueueOptions(options.dead_letter, is_dead_letter=True, handled=False)
                )

    def shelf(self, queue: str) -> Shelf:
        """Return the rows of a queue. Raises UnknownQueue."""
        if queue not in self._shelves:
            known = ", ".join(sorted(self._shelves)) or "none"
            raise UnknownQueue(f"queue {queue!r} is not declared on this engine; declared: {known}")
        return self._shelves[queue]

    def queues(self) -> list[str]:
        """Return the names of all queues."""
        with self.lock:
            return sorted(self._shelves)

    def keeps_dead_letters(self, shelf: Shelf) -> bool:
        """Return whether the queue is a dead-letter queue that no service handles."""
        return shelf.options.is_dead_letter and not self._handlers.get(shelf.options.name)

    def state_of(self, row: Row) -> State:
        """Return the state as users see it: waiting jobs of a queue that no service handles are dead."""
        waits = row.state in ("ready", "delayed")
        return "dead" if waits and self.keeps_dead_letters(self._shelves[row.queue]) else row.state

    def notify(self) -> None:
        """Notify all waiting claims, so that they look again."""
        waiting, self.waiting = self.waiting, set()
        for notifier in waiting:
            notifier.put(False)

    def holder(self, job: Job, now: float) -> str | None:
        """Return the id of the job that has this one's chosen id or holds its unique key; None: there is none.

        A job that waits is changed, if this one says so.
        """
        if job.chosen_id and (job.queue, job.id) in self._ids:
            return job.id
        row = self._keys.get((job.queue, job.extras.unique_key or ""))
        if row is None or not self._holds_key(row, now):
            return None
        waits = row.serial in self._shelves[row.queue].rows and row.state in ("ready", "delayed")
        if job.changes_another and waits and not row.delivery:
            row.job = row.job.changed_by(job)
            if job.on_conflict == "postpone":
                row.ttl_from = job.eligible_at
                self.put_back(row, now=now, delay=job.eligible_at - now)
        return row.job.id

    def _holds_key(self, row: Row, now: float) -> bool:
        extras = row.job.extras
        if extras.window is not None:
            return now < row.job.enqueued_at + extras.window
        if row.is_dead_letter or row.serial not in self._shelves[row.queue].rows:
            return False
        return row.state in ("ready", "delayed") or (row.state == "in_flight" and extras.unique_scope != "started")

    def add(self, job: Job, *, now: float) -> None:
        serial = next(self._serials)
        job = replace(job, headers=dict(job.headers), history=tuple(job.history))
        row = Row(job, job.queue, serial, serial, job.eligible_at, ttl_from=job.eligible_at, since=now)
        row.state = "ready" if job.not_before is None or job.not_before <= now else "delayed"
        if job.chosen_id:
            self._ids[job.queue, job.id] = serial
        if job.extras.unique_key is not None:
            self._keys[job.queue, job.extras.unique_key] = row
        self.shelf(job.queue).put(row)

    def move(self, row: Row, state: State, *, now: float, queue: str | None = None) -> None:
        """Move a row to a state, and to another queue if one is given; all changes of state go this way."""
        target = self.shelf(queue or row.queue)
        self._shelves[row.queue].drop(row)
        row.again = state in ("ready", "delayed") and queue is None and (row.again or row.state == "in_flight")
        row.queue, row.state, row.since = target.options.name, state, now
        if state != "in_flight":
            row.owner = row.holder = ""
        target.put(row)

    def put_back(self, row: Row, *, now: float, delay: float) -> None:
        row.eligible_at = now + max(0.0, delay)
        self.move(row, "delayed" if delay > 0 else "ready", now=now)

    def remove(self, row: Row) -> None:
        self._shelves[row.queue].drop(row)
        row.owner = row.holder = ""
        self._free_id(row)

    def _free_id(self, row: Row) -> None:
        if self._ids.get((row.job.queue, row.job.id)) == row.serial:
            del self._ids[row.job.queue, row.job.id]
        key = row.job.queue, row.job.extras.unique_key or ""
        if self._keys.get(key) is row and row.job.extras.window is None:
            del self._keys[key]

    def set_aside(self, row: Row, *, now: float) -> None:
        """Move a row to state cancelled, and free its id."""
        self._free_id(row)
        self.move(row, "cancelled", now=now)
        self.fans.end(row.job.extras, "cancelled", now)

    def cancel(self, view: JobView, *, now: float) -> Cancelled:
        """Cancel the job of a view, in any state."""
        row = next((one for one in self.shelf(view.queue).rows.values() if one.job.uid == view.job.uid), None)
        if row is None or row.is_dead_letter or row.state == "dead":
            return "gone"
        if row.state == "in_flight":
            row.cancelled = True
            return "stopping"
        if row.state != "cancelled":
            self.set_aside(row, now=now)
        return "cancelled"

    def dead_letter(self, row: Row, failure: Failure, *, now: float) -> None:
        """Dead-letter a row. A dead letter that fails again stays in its queue, in state dead."""
        row.attempt = 0
        row.add_failure(failure)
        target = None if row.is_dead_letter else self._shelves[row.queue].options.dead_letter
        if target is None:
            self.move(row, "dead", now=now)
        else:
            row.eligible_at = now
            self.move(row, "ready", now=now, queue=target)
        self.fans.end(row.job.extras, "dead", now)

    def expire(self, row: Row, now: float) -> None:
        message = f"expired: not done {row.job.ttl:g} s after it could first have run"
        failure = Failure(
            row.attempt, "expired", message, error_type="expired", queue=row.queue, delivery=row.delivery,
            started_at=now, ended_at=now,
        )  # fmt: skip
        self.expired[row.queue] += 1
        self.dead_letter(row, failure, now=now)

    def send_home(self, row: Row, *, now: float) -> None:
        """Move a row to the end of its home queue. Its ttl begins anew, else an expired job would expire at once."""
        row.position, row.attempt = next(self._serials), 0
        row.eligible_at = row.ttl_from = now
        self.move(row, "ready", now=now, queue=row.job.queue)

    def pause(self, queue: str, by: str, now: float, *, paused: bool) -> bool:
        """Pause or resume a queue. Return False: it was so already."""
        self.shelf(queue)
        if self.is_paused(queue) == paused:
            return False
        self.pauses[queue] = Pause(paused, by, now)
        return True

    def is_paused(self, queue: str) -> bool:
        known = self.pauses.get(queue)
        return known is not None and known.paused

    def room(self, shelf: Shelf, wanted: int, now: float) -> Room:
        """Take room for up to `wanted` jobs under the queue's limits."""
        options = shelf.options
        if options.max_running is not None:
            wanted = min(wanted, options.max_running - shelf.counts["in_flight"])
        if wanted <= 0 or (options.rate is None and options.breaker is None):
            return Room(max(0, wanted))
        return self.throttles.setdefault(options.name, Throttle()).take(options, wanted, now)

    def waits(self, queue: str, now: float) -> float:
        """Return for how many seconds a rate or a breaker still keeps the ready jobs of a queue back."""
        known, shelf = self.throttles.get(queue), self.shelf(queue)
        return 0.0 if known is None or not shelf.counts["ready"] else replace(known).take(shelf.options, 1, now).wait

    def is_held(self, queue: str, now: float) -> bool:
        """Return whether a breaker holds the queue."""
        return queue in self.throttles and self.throttles[queue].is_held(now)

    def lead(self, name: str, incarnation: str) -> bool:
        """Return whether this owner has the role; it takes over from an owner that is dead."""
        if self._leaders.get(name) not in self.living:
            self._leaders[name] = incarnation
        return self._leaders[name] == incarnation

    def abandoned(self) -> list[Row]:
        """Return the claimed rows whose holders are dead."""
        claimed = (row for shelf in self._shelves.values() for row in shelf.in_state("in_flight"))
        return sorted((row for row in claimed if row.holder not in self.living), key=lambda row: row.position)

    def seen(self, view: JobView) -> Row | None:
        """Return the row of a view, if it is still as it was seen and not claimed."""
        for row in self.shelf(view.queue).rows.values():
            if row.job.uid == view.job.uid and row.delivery == view.delivery and row.state != "in_flight":
                return row if self.state_of(row) == view.state else None
        return None

    def maintain(self, now: float) -> None:
        self.fans.give_up(now)
        for shelf in self._shelves.values():
            shelf.promote(now)
            for row in list(shelf.rows.values()):
                if row.state in ("ready", "delayed") and row.expired(now):
                    self.expire(row, now)
                elif self._is_over(row, shelf, now):
                    self.remove(row)

    def _is_over(self, row: Row, shelf: Shelf, now: float) -> bool:
        """Return whether a dead letter or a cancelled job is past its queue's ttl; other jobs stay."""
        ttl = shelf.options.ttl
        if row.state == "cancelled":
            return now >= row.since + (CANCELLED_KEPT if ttl is None else ttl)
        return row.is_dead_letter and ttl is not None and now >= row.since + ttl and self.state_of(row) == "dead"
