"""The engine: `Broker` and `Inspector` of `framework.engine.port` on two connections, one of them for enqueues."""

from __future__ import annotations

import math
import os
import secrets
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import psycopg

from framework.engine.port import Features, JobView, QueueStats, Rescued, State
from framework.engine.postgres import schema, within
from framework.engine.postgres.claims import POLL, Claims
from framework.engine.postgres.enqueue import Store
from framework.engine.postgres.inspect import Inspection
from framework.engine.postgres.link import TAKEN_FOR_DEAD, Failed, Link, Place
from framework.engine.postgres.owner import LocalLife
from framework.engine.postgres.rows import Key, Row, lease_of
from framework.engine.postgres.settle import Settling
from framework.engine.postgres.upkeep import Upkeep
from framework.model.errors import EngineError
from framework.model.job import Job, JobId, Lease
from framework.model.options import QueueOptions
from framework.model.outcome import Kind, Outcome, Settlement

T = TypeVar("T")


class PostgresBroker:
    """One owner. What it holds it knows, so after a break it can tell what the server and it think differently."""

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
        self.upkeep = Upkeep(self)
        self._inspection = Inspection(self)
        self.era: int | None = None  # None: to be registered
        self.held: set[Key] = set()
        self.lost_answer = False  # of a rescue
        self.claims = Claims(self)
        self._settling = Settling(self)
        self._opened = self._closed = False

    # --- open and close ---------------------------------------------------------------------------------------------

    @property
    def notes(self) -> Sequence[str]:
        """One line each; after `open`."""
        if self.link.pooled:
            return (f"{self.place} is reached through a pooler: new jobs are looked for each {POLL:g} s",)
        return ()

    @property
    def local_dir(self) -> Path:
        """Made when it is asked for after `open`: a process that only enqueues leaves nothing behind."""
        if self._opened:
            self.life.make()
        return self.place.local_dir

    def open(self, queues: Sequence[QueueOptions]) -> None:
        """Declares the queues and the dead-letter queues that they name."""
        named = {one.dead_letter for one in queues if one.dead_letter} - {one.name for one in queues}
        letters = [QueueOptions(name, is_dead_letter=True, handled=False) for name in named - self.queues.keys()]
        every = [*queues, *letters]
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
        """Begins a connection: what was done on the one before, and not answered, is looked at later."""
        schema.check(connection, self.place)
        connection.add_notify_handler(self.claims.notified)
        self.claims.begin()
        self.era = None

    def close(self) -> None:
        """An owner that holds nothing is forgotten; the claims of another are there for a rescuer."""
        with self.link.lock:
            if self._closed:
                return
            self._closed = True
            if self.era is not None and not self.held and self.link.fileno() >= 0:
                with suppress(EngineError):
                    self.link.rows(f"delete from {self.schema}.owner where id = %s", [self.incarnation])
            self.life.end()
            self.link.close()
            self._sending.close()
            self.claims.close()

    def find_queue(self, name: str) -> tuple[int, QueueOptions]:
        """Return number and options of an open queue. Raises EngineError."""
        if name not in self.queues:
            known = ", ".join(sorted(self.queues)) or "none"
            raise EngineError(f"queue {name!r} is not declared on this engine; declared: {known}")
        return self.numbers[name], self.queues[name]

    def name_of(self, number: int) -> str:
        """Return the name of any queue of the store."""
        if number not in self._names:
            self._read_names()
        return self._names[number]

    def keeps_letters(self, name: str) -> bool:
        """Return whether the dead letters of a queue are dead where they lie: no service handles them."""
        number, options = self.numbers[name], self.queues.get(name)
        if options is None or not options.is_dead_letter:
            return False
        return not self.link.rows(f"select 1 from {self.schema}.handler where queue = %s limit 1", [number])

    def _read_names(self) -> None:
        self._names = dict(map(tuple, self.link.rows(f"select id, name from {self.schema}.queue")))

    # --- as an owner ------------------------------------------------------------------------------------------------

    def as_owner(self, call: Callable[[int], T]) -> T:
        """Make a call with this owner's era. It is repeated once where the owner was taken for dead meanwhile."""
        with self.link.lock:
            try:
                return call(self._registered())
            except Failed as error:
                if error.code != TAKEN_FOR_DEAD:
                    raise
                self.era = None
                self.life.end()  # its file may be gone, or be taken for that of a dead process
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
        """Return the leases of claimed rows, which are this owner's from now on."""
        found = [lease_of(Row._make(row), self.name_of) for row in rows]
        self.held.update(lease.token for lease in found)
        return found

    # --- the verbs --------------------------------------------------------------------------------------------------

    def enqueue(self, jobs: Sequence[Job]) -> Sequence[JobId]:
        """One commit for all, synchronous."""
        return self.store.enqueue(jobs)

    def enqueue_within(self, connection: object, jobs: Sequence[Job]) -> Sequence[JobId]:
        """One call of a function, which answers."""
        with self.store.within(jobs) as call:
            call.answers = within.rows(connection, call.query, call.document)
        return call.ids

    async def aenqueue_within(self, connection: object, jobs: Sequence[Job]) -> Sequence[JobId]:
        """The same."""
        with self.store.within(jobs) as call:
            call.answers = await within.arows(connection, call.query, call.document)
        return call.ids

    def claim(self, queues: Sequence[str], *, limit: int, wait: float) -> Sequence[Lease]:
        """Waits for a notification, and looks now and then."""
        return self.claims.claim([self.find_queue(name)[0] for name in queues], limit, wait)

    def wake(self) -> None:
        """A byte into a pipe to ourselves."""
        self.claims.wake()

    def settle(self, done: Sequence[Settlement]) -> None:
        """Of each kind in one statement."""
        self._settling.settle(done)

    def release(self, leases: Sequence[Lease], *, delay: float = 0) -> None:
        """Back to the place that they had."""
        self.settle([Settlement(lease, Outcome(Kind.RELEASED, delay)) for lease in leases])

    def lost(self, leases: Sequence[Lease]) -> Sequence[Lease]:
        """Those whose rows are not this owner's."""
        return self._settling.lost(leases)

    def rescue(self) -> Sequence[Rescued]:
        """Those of this machine at once, those of others when it has not beaten for a while."""
        return self.upkeep.rescue()

    def unaccounted(self, lease: Lease) -> int:
        """Counts in the row."""
        queue, place, delivery = lease.token
        rows = self.link.rows(
            f"update {self.schema}.job set lost_at = delivery, lost = case when lost_at = delivery then lost "
            "else greatest(0, lost - greatest(0, delivery - lost_at - 1)) + 1 end "
            "where queue = %s and place = %s and delivery = %s and owner = %s returning lost",
            [queue, place, delivery, self.incarnation],
        )
        return int(rows[0][0]) if rows else 0

    def maintain(self, *, seconds: float = math.inf) -> bool:
        """Beats, promotes and expires."""
        return self.upkeep.maintain(seconds)

    def stuck(self) -> Mapping[str, str]:
        """Return nothing: jobs are rows, and no row resists."""
        return {}

    def expired(self) -> Mapping[str, int]:
        """What this handle has found."""
        counts, self.upkeep.expired = self.upkeep.expired, Counter()
        return dict(counts)

    def lead(self, name: str) -> bool:
        """A row that names the holder, who lives."""
        return self.upkeep.lead(name)

    def stats(self, queue: str) -> QueueStats:
        """Exact up to a limit, estimated above it."""
        self.find_queue(queue)
        return self._inspection.stats(queue)

    def undeclared(self) -> Mapping[str, QueueStats]:
        """Queues whose services have not kept house for a minute; the empty ones are left out."""
        return self._inspection.undeclared()

    # --- people -----------------------------------------------------------------------------------------------------

    def browse(self, queue: str, state: State) -> Iterator[JobView]:
        """By pages."""
        self.find_queue(queue)
        return self._inspection.browse(queue, state)

    def newer(self, queue: str) -> Iterator[JobView]:
        """None: the schema's version says what there is."""
        return iter(())

    def find(self, queue: str, job_id: str, state: State) -> JobView | None:
        """The oldest of that id."""
        self.find_queue(queue)
        return next(self._inspection.browse(queue, state, job_id), None)

    def replay(self, view: JobView) -> bool:
        """Home again; also a letter that its dead-letter queue has not handled yet."""
        return self._inspection.replay(view)

    def discard(self, view: JobView) -> bool:
        """Deletes what nobody holds."""
        return self._inspection.discard(view)

    def restore(self, view: JobView) -> str:
        """Nothing is ever bad."""
        return "is no longer there"
