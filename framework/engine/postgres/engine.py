"""The engine on PostgreSQL: it implements the contract on two connections, one of them for enqueues only."""

from __future__ import annotations

import math
import os
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import psycopg

from framework.engine.port import Cancelled, Features, JobView, Pause, QueueStats, Rescued, State, Tick
from framework.engine.postgres import schema, within
from framework.engine.postgres.claims import POLL, Claims
from framework.engine.postgres.complete import CompletingTransaction, Completions
from framework.engine.postgres.enqueue import PostgresFanIns, Store
from framework.engine.postgres.inspect import DeclaringEngine, Inspection
from framework.engine.postgres.link import TAKEN_FOR_DEAD, Failed, Link, Place
from framework.engine.postgres.owner import LocalLife
from framework.engine.postgres.rows import Key, Row, lease_of
from framework.engine.postgres.settle import Settling
from framework.engine.postgres.upkeep import Upkeep
from framework.model.errors import EngineError
from framework.model.extras import with_saved
from framework.model.job import Job, JobId, Lease
from framework.model.limits import CANARIES
from framework.model.options import QueueOptions
from framework.model.outcome import JobInterrupted, Kind, Outcome, Settlement

T = TypeVar("T")


class PostgresEngine(DeclaringEngine):
    """The `Engine` and `Inspector` of `framework.engine.port` for one owner.

    It keeps a list of its claims, so that it can compare them with the server's after a broken connection.
    """

    def __init__(self, place: Place, incarnation: str) -> None:
        self.place = place
        self.incarnation = incarnation
        self.features = Features(system="postgresql", settle_delay=0.02, durable="power")
        self.life = LocalLife(place.local_dir, incarnation)
        self.link = Link(place, self._connected)
        self.schema = f'"{place.schema}"'
        self.queues: dict[str, QueueOptions] = {}
        self.numbers: dict[str, int] = {}
        self._names: dict[int, str] = {}
        self._sending = Link(place)
        self.store = Store(self._sending, self.find_queue)
        self.fan_ins = PostgresFanIns(self.store, self._sending, self.find_queue)
        self.upkeep = Upkeep(self)
        self._inspection = Inspection(self)
        self.era: int | None = None  # None: this owner is not registered on the current connection
        self.claimed: set[Key] = set()
        self.cancelled_keys: set[Key] = set()  # leases whose jobs were cancelled, as far as this owner has looked
        self.lost_answer = False  # the answer to a rescue was lost
        self.claims = Claims(self)
        self._settling = Settling(self)
        self._completions = Completions(self)
        self._opened = self._closed = False

    # --- open and close ---------------------------------------------------------------------------------------------

    @property
    def notes(self) -> Sequence[str]:
        """Return lines about the connection that a person should know, after `open`."""
        if self.link.pooled:
            return (f"{self.place} is reached through a pooler: new jobs are looked for each {POLL:g} s",)
        return ()

    @property
    def local_dir(self) -> Path:
        """Return this machine's directory, and make it after `open`: a process that only enqueues leaves no files."""
        if self._opened:
            self.life.make()
        return self.place.local_dir

    def open(self, queues: Sequence[QueueOptions]) -> None:
        """Declare the queues and the dead-letter queues that they name."""
        named = {one.dead_letter for one in queues if one.dead_letter} - {one.name for one in queues}
        dead_letters = [QueueOptions(name, is_dead_letter=True, handled=False) for name in named - self.queues.keys()]
        every = [*queues, *dead_letters]
        self._read_names()
        if new := {one.name for one in every}.difference(self._names.values()):
            self.link.rows(
                f"insert into {self.schema}.queue (name) select unnest(%s::text[]) on conflict do nothing",
                [sorted(new)],
            )
            self._read_names()
        with self.link.lock:
            for one in every:
                self.queues[one.name] = one
                self.numbers[one.name] = number = next(n for n, name in self._names.items() if name == one.name)
                self.claims.limits.declare(number, one)
                self.claims.turns.declare(number, one)
                if one.handled and one.is_dead_letter:
                    self.link.rows(
                        f"insert into {self.schema}.handler values (%s, %s) on conflict do nothing",
                        [number, one.service],
                    )
                elif one.service and one.is_dead_letter:
                    self.link.rows(
                        f"delete from {self.schema}.handler where queue = %s and service = %s", [number, one.service]
                    )
        self._opened = True

    def _connected(self, link: Link, connection: psycopg.Connection) -> None:
        """Prepare a new connection. Calls that the previous one has not answered are examined later."""
        schema.check(connection, self.place)
        connection.add_notify_handler(self.claims.notified)
        self.claims.begin()
        self.era = None

    def close(self) -> None:
        """End this owner and close the connections. An owner without claims is deleted; else a rescuer takes them."""
        with self.link.lock:
            if self._closed:
                return
            self._closed = True
            if self.era is not None and not self.claimed and self.link.fileno() >= 0:
                with suppress(EngineError):
                    self.link.rows(f"delete from {self.schema}.owner where id = %s", [self.incarnation])
            self.life.end()
            self.link.close()
            self._sending.close()
            self._completions.close()
            self.claims.close()

    def find_queue(self, name: str) -> tuple[int, QueueOptions]:
        """Return the number and the options of a declared queue. Raises EngineError."""
        if name not in self.queues:
            known = ", ".join(sorted(self.queues)) or "none"
            raise EngineError(f"queue {name!r} is not declared on this engine; declared: {known}")
        return self.numbers[name], self.queues[name]

    def name_of(self, number: int) -> str:
        """Return the name of a queue of the database by its number."""
        if number not in self._names:
            self._read_names()
        return self._names[number]

    def keeps_dead_letters(self, name: str) -> bool:
        """Return whether the queue is a dead-letter queue that no service handles."""
        number, options = self.numbers[name], self.queues.get(name)
        if options is None or not options.is_dead_letter:
            return False
        return not self.link.rows(f"select 1 from {self.schema}.handler where queue = %s limit 1", [number])

    def _read_names(self) -> None:
        self._names = dict(map(tuple, self.link.rows(f"select id, name from {self.schema}.queue")))

    # --- as an owner ------------------------------------------------------------------------------------------------

    def as_owner(self, call: Callable[[int], T]) -> T:
        """Make a call with this owner's era, and repeat it once if the owner was taken for dead meanwhile."""
        with self.link.lock:
            try:
                return call(self._registered())
            except Failed as error:
                if error.code != TAKEN_FOR_DEAD:
                    raise
                self.era = None
                self.life.end()  # the owner's file may be gone, or look like a dead process's
                return call(self._registered())

    def _registered(self) -> int:
        self.link.connected()  # a new connection needs a new era
        if self.era is None:
            node, era = self.life.begin(), secrets.randbits(62)
            host = os.uname().nodename
            self.link.rows(f"select {self.schema}.register_1(%s, %s, %s, %s)", [self.incarnation, node, host, era])
            self._settling.compare()
            self.era = era
        return self.era

    def leases(self, rows: Sequence[tuple[Any, ...]]) -> list[Lease]:
        """Return the leases of claimed rows and note them as this owner's."""
        found = [lease_of(one, self.name_of, self.link.here(one.eligible_at)) for one in map(Row._make, rows)]
        self.claimed.update(lease.token for lease in found)
        return found

    # --- the verbs --------------------------------------------------------------------------------------------------

    def enqueue(self, jobs: Sequence[Job]) -> Sequence[JobId]:
        """Store the jobs with one synchronous commit."""
        return self.store.enqueue(jobs)

    def store_time(self) -> float:
        """Return the time of the database's clock."""
        return time.time() + (self._sending if self._sending.since else self.link).ahead()

    def enqueue_within(self, connection: object, jobs: Sequence[Job]) -> Sequence[JobId]:
        """Store the jobs within the caller's transaction, by one call of a function on its connection."""
        with self.store.within(jobs) as call:
            call.answers = within.rows(connection, call.query, call.document)
        return call.ids

    async def aenqueue_within(self, connection: object, jobs: Sequence[Job]) -> Sequence[JobId]:
        """Store the jobs within the caller's transaction on an asynchronous connection."""
        with self.store.within(jobs) as call:
            call.answers = await within.arows(connection, call.query, call.document)
        return call.ids

    def ticks(self, queue: str, keys: Sequence[str]) -> tuple[float, Mapping[str, Tick]]:
        """Read the schedules' rows, and the database's clock."""
        number, _ = self.find_queue(queue)
        rows = self.link.rows(
            f"select {self.schema}.clock(), key, last, missed from (select) as always left join {self.schema}.schedule "
            "on queue = %s and key = any(%s::text[])",
            [number, list(keys)],
        )
        return rows[0][0], {key: Tick(last, missed) for _, key, last, missed in rows if key is not None}

    def fire(
        self, queue: str, key: str, last: float | None, tick: float, job: Job | None = None, *, missed: int = 0
    ) -> bool:
        """Handle the tick and store its job in one transaction."""
        return self.store.fire(queue, key, last, tick, job, missed)

    def claim(self, queues: Sequence[str], *, limit: int, wait: float) -> Sequence[Lease]:
        """Claim jobs. Where there are none, wait for a notification and look again from time to time."""
        return self.claims.claim([self.find_queue(name)[0] for name in queues], limit, wait)

    def wake(self) -> None:
        """End the wait of a claim."""
        self.claims.wake()

    def settle(self, done: Sequence[Settlement]) -> None:
        """Settle leases, with one statement for each group of outcomes."""
        if left := [one for one in done if not self._completions.end(one.lease)]:
            self._settling.settle(left)
        if len(left) < len(done):
            self.claimed.difference_update(one.lease.token for one in done)

    def release(self, leases: Sequence[Lease], *, delay: float = 0) -> None:
        """Give leases back to the places that they had."""
        self.settle([Settlement(lease, Outcome(Kind.RELEASED, delay)) for lease in leases])

    def lost(self, leases: Sequence[Lease]) -> Sequence[Lease]:
        """Return the leases whose rows are not this owner's any more, without those that complete in a transaction."""
        return self._settling.lost([one for one in leases if not self._completions.begun(one)])

    def cancelled(self, leases: Sequence[Lease]) -> Sequence[Lease]:
        """Return what the last `lost` and `rescue` have found."""
        return [lease for lease in leases if lease.token in self.cancelled_keys]

    def save(self, lease: Lease, state: str) -> None:
        """Write the checkpoint into the extras of the job's row, with a synchronous commit."""
        if self._completions.begun(lease):  # that transaction has the row's lock
            raise EngineError("ctx.save(): the job is completed already, in a transaction of its handler")
        extras = with_saved(lease.job.extras, state).text or None
        rows = self.as_owner(lambda _: self.link.rows(
            f"update {self.schema}.job set extras = %s where queue = %s and place = %s and delivery = %s "
            "and owner = %s returning true",
            [extras, *lease.token, self.incarnation],
        ))  # fmt: skip
        if not rows:
            raise JobInterrupted("lease_lost")

    def transaction(self, lease: Lease) -> CompletingTransaction:
        """Return a block with a connection of this engine's own."""
        return CompletingTransaction(self._completions, lease)

    def complete(self, lease: Lease, connection: object) -> None:
        """Delete the job's row within the caller's transaction."""
        self._completions.complete(lease, connection)

    async def acomplete(self, lease: Lease, connection: object) -> None:
        """Delete the job's row within the caller's transaction, on an asynchronous connection."""
        await self._completions.acomplete(lease, connection)

    def completing(self, lease: Lease) -> bool:
        """Return whether a transaction that completes the job was begun."""
        return self._completions.begun(lease)

    def completed(self, lease: Lease) -> bool:
        """Return whether that transaction has committed: whether the job's row is gone."""
        return self._completions.completed(lease)

    def rescue(self) -> Sequence[Rescued]:
        """Take over the abandoned leases of dead owners.

        Those of this machine's owners come at once, those of another machine once it has sent no heartbeat for a while.
        """
        return self.upkeep.rescue()

    def unaccounted(self, lease: Lease) -> int:
        """Count this delivery in the row, once, and return the count."""
        queue, place, delivery = lease.token
        rows = self.link.rows(
            f"update {self.schema}.job set lost_at = delivery, lost = case when lost_at = delivery then lost "
            "else greatest(0, lost - greatest(0, delivery - lost_at - 1)) + 1 end "
            "where queue = %s and place = %s and delivery = %s and owner = %s returning lost",
            [queue, place, delivery, self.incarnation],
        )
        return int(rows[0][0]) if rows else 0

    def maintain(self, *, seconds: float = math.inf) -> bool:
        """Send a heartbeat, promote due jobs, expire jobs and delete old dead letters."""
        return self.upkeep.maintain(seconds)

    def hold(self, queue: str, seconds: float) -> None:
        """Write the end of the hold into the queue's row."""
        number, _ = self.find_queue(queue)
        self.link.rows(f"select {self.schema}.hold_1(%s, %s, %s)", [number, seconds, seconds / CANARIES])

    def stuck(self) -> Mapping[str, str]:
        """Return nothing: jobs are rows, which can always be moved."""
        return {}

    def expired(self) -> Mapping[str, int]:
        """Return and reset the counts of jobs that this engine has expired."""
        counts, self.upkeep.expired = self.upkeep.expired, Counter()
        return dict(counts)

    def lead(self, name: str) -> bool:
        """Return whether this owner has a role. A row names the owner that has it, while that owner lives."""
        return self.upkeep.lead(name)

    def stats(self, queue: str) -> QueueStats:
        """Return the counts of a queue: exact up to a limit, estimated above it."""
        self.find_queue(queue)
        return self._inspection.stats(queue)

    def undeclared(self) -> Mapping[str, QueueStats]:
        """Return the counts of queues without housekeeping for a minute, except empty ones."""
        return self._inspection.undeclared()

    # --- people -----------------------------------------------------------------------------------------------------

    def stored_queues(self) -> Sequence[str]:
        """Return the names in the table of queues."""
        self._read_names()
        return sorted(self._names.values())

    def last_seen(self, queue: str) -> float | None:
        """Return when a service that declares the queue was last seen."""
        return self._inspection.last_seen(queue)

    def browse(self, queue: str, state: State, *, after: str = "") -> Iterator[JobView]:
        """Return an iterator over the jobs in a state, which reads them page by page."""
        self.find_queue(queue)
        return self._inspection.browse(queue, state, after)

    def newer(self, queue: str) -> Iterator[JobView]:
        """Return nothing: the version of the schema covers all jobs."""
        return iter(())

    def get(self, queues: Sequence[str], job_id: str) -> Iterator[JobView]:
        """Return an iterator over the jobs of an id, from its index."""
        for queue in queues:
            self.find_queue(queue)
        return iter(self._inspection.get(queues, job_id))

    def find(self, queue: str, job_id: str, state: State) -> JobView | None:
        """Return the oldest job of an id in a state, or None."""
        self.find_queue(queue)
        return self._inspection.find(queue, job_id, state)

    def replay(self, view: JobView) -> bool:
        """Send a dead letter home, also one that its dead-letter queue has not handled yet."""
        return self._inspection.replay(view)

    def discard(self, view: JobView) -> bool:
        """Delete a job that is not claimed."""
        return self._inspection.discard(view)

    def cancel(self, view: JobView) -> Cancelled:
        """Call the function that looks for the job in all tables."""
        return self._inspection.cancel(view)

    def restore(self, view: JobView) -> str:
        """Return a refusal: on PostgreSQL, no job is ever bad."""
        return "is no longer there"

    def pause(self, queue: str, by: str) -> bool:
        """Write the queue's row of pauses, at which each claim looks."""
        self.find_queue(queue)
        return self._inspection.pause(queue, by, paused=True)

    def resume(self, queue: str, by: str) -> bool:
        """Write that row again, and notify the workers."""
        self.find_queue(queue)
        return self._inspection.pause(queue, by, paused=False)

    def paused(self, queue: str) -> Pause | None:
        """Read that row."""
        self.find_queue(queue)
        return self._inspection.paused(queue)
