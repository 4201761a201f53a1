"""The claims of an owner: which rows a claim reads, and how it waits."""

from __future__ import annotations

import math
import os
import select
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import psycopg

from framework.engine.postgres.limits import Limits, Turns
from framework.engine.postgres.rows import COLUMNS, Key, Row
from framework.engine.postgres.starving import Starving
from framework.model.job import Lease

if TYPE_CHECKING:
    from framework.engine.postgres.engine import PostgresEngine

LONGEST_WAIT = 1.0  # seconds; the contract lets a claim wait longer
POLL = 0.1  # seconds between looks where a pooler keeps notifications away
LOOK_BACK = 0.1  # least time in seconds between two looks below the floor
LONG_LOOK = 0.25  # seconds; a shorter look is made at once where a notification says that a job is below the floor
LOWEST = -(2**63)
_OF_LIMITS = "%s, %s, %s::int[], %s::bigint[], %s, %s::int[], %s::float8[], %s::float8[], %s::float8[], %s::float8[]"
_OF_GROUPS = "%s::boolean[], %s::int[], %s::boolean[], %s::bigint[], %s::boolean[]"
_AT = {name: at for at, name in enumerate(Row._fields)}


class Claims:
    """The claims of one owner.

    The floor of a queue is the highest place that this owner has claimed. Jobs above it are found at once, no matter
    how many dead rows are before them. Released jobs, urgent jobs and late commits are below it; a look at them may
    take long, and the longer it takes, the rarer it is made.
    """

    def __init__(self, engine: PostgresEngine) -> None:
        self._engine = engine
        self._floors: dict[int, int] = {}
        self._looked: dict[int, tuple[float, float]] = {}  # end and duration of the last look below each floor
        self._below: set[int] = set()  # queues with a notification about a job below the floor
        self._told = True  # a job may be below a floor that no look has found
        self._listening: set[int] = set()
        self._starving = Starving(engine)
        self.limits = Limits()
        self.turns = Turns()
        self._reader, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def begin(self) -> None:
        """Start anew on a new connection: listen again, and look below the floors."""
        self._listening.clear()
        self._told = True

    def lower(self, keys: Sequence[Key]) -> None:
        """Lower the floors below these jobs, so that this owner can claim them again at once."""
        for queue, place, _ in keys:
            self._floors[queue] = min(self._floors.get(queue, LOWEST), place - 1)

    def claim(self, numbers: Sequence[int], limit: int, wait: float) -> Sequence[Lease]:
        """Return up to `limit` leases, those of each queue in order."""
        deadline = time.monotonic() + min(wait, LONGEST_WAIT)
        engine = self._engine
        if wait > 0:
            self._listen(numbers)
        while True:
            with engine.link.lock:
                rows = engine.as_owner(partial(self._take, numbers, limit))
                order = {number: at for at, number in enumerate(numbers)}
                leases = engine.leases(sorted(rows, key=lambda row: (order[row[0]], row[1])))
                if leases and self.limits.canaries:
                    leases = [replace(one, canary=one.token[0] in self.limits.canaries) for one in leases]
            if leases or (left := deadline - time.monotonic()) <= 0:
                return leases
            if self._told:  # a notification may be about a job below a floor
                due = min(map(self._due, filter(self.limits.has_room, numbers)), default=math.inf)
                left = min(left, max(0.001, due - time.monotonic()))
            left = min(left, self.limits.wait(numbers))
            if self._wait(min(left, POLL) if engine.link.pooled else left):
                return []
            if not (self._told or engine.link.pooled) and time.monotonic() >= deadline:
                return []  # the next claim looks at once: two looks in a row are half of an idle tree's work

    def _due(self, number: int) -> float:
        """Return when the next look below a queue's floor is due, in monotonic seconds."""
        looked, took = self._looked.get(number, (0.0, 0.0))
        if number in self._below:
            return looked + (2 * took if took > LONG_LOOK else 0.0)
        return looked + max(LOOK_BACK, 20 * took)

    def _take(self, numbers: Sequence[int], limit: int, era: int) -> list[tuple[Any, ...]]:
        began = time.monotonic()
        self.limits.canaries.clear()
        whole = [began >= self._due(number) for number in numbers]
        if all(whole):
            self._told = False  # before the look, which may miss jobs that are notified afterwards
        self._below.difference_update(number for number, all_ in zip(numbers, whole, strict=True) if all_)
        floors = [
            LOWEST if all_ else self._floors.get(number, LOWEST) for number, all_ in zip(numbers, whole, strict=True)
        ]
        cut = self.limits.apply(numbers[:1])
        starving = not self.turns.apply(numbers[:1])  # among groups nothing starves
        late = self._starving.take(numbers[0], limit, partial(self._claimed, era), cut=cut) if starving else []
        limit -= len(late)
        rows = self._claimed(era, numbers, floors, limit) if limit else []
        took = time.monotonic() - began
        if starving:
            self._starving.look(numbers[0], late, rows, limit, cut=cut)
        last: dict[int, int] = {}
        for row in rows:
            last[row[0]] = max(row[1], last.get(row[0], LOWEST))
        for number, all_ in zip(numbers, whole, strict=True):
            if not self.limits.has_room(number):  # the claim has not looked at its jobs
                self._told = self._told or all_
                continue
            full = limit > 0 and len(rows) >= limit and number in last
            cut = full or (number in last and self.limits.apply([number]))  # more jobs may be there
            floor = self._floors.get(number, LOWEST)
            self._floors[number] = last[number] if all_ and cut else max(floor, last.get(number, LOWEST))
            if all_:
                self._looked[number] = began + took, took
            if full and number == rows[-1][0]:
                break  # the claim has not looked at the queues after this one
        return late + rows

    def _claimed(self, era: int, numbers: Sequence[int], floors: Sequence[int], limit: int) -> list[tuple[Any, ...]]:
        engine, limits = self._engine, self.limits
        values = [engine.incarnation, era, list(numbers), list(floors), limit]
        grouped = self.turns.apply(numbers)
        if not limits.apply(numbers) and not grouped:
            return engine.link.rows(
                f"select {COLUMNS} from {engine.schema}.claim_1(%s, %s, %s::int[], %s::bigint[], %s)", values
            )
        values += limits.arguments(numbers)
        if not grouped:
            return limits.jobs(
                engine.link.rows(f"select {COLUMNS} from {engine.schema}.claim_2({_OF_LIMITS})", values), _AT
            )
        query = f"select {COLUMNS} from {engine.schema}.claim_3({_OF_LIMITS}, {_OF_GROUPS})"
        return limits.jobs(self.turns.jobs(engine.link.rows(query, values + self.turns.arguments(numbers)), _AT), _AT)

    def _listen(self, numbers: Sequence[int]) -> None:
        """Listen for notifications of these queues; called before a look, so that no job in between is missed."""
        engine = self._engine
        with engine.link.lock:
            engine.link.connected()
            for number in set(numbers) - self._listening:
                if not engine.link.pooled:
                    engine.link.rows(f'listen "{engine.place.schema}_{number}"')
                self._listening.add(number)

    def notified(self, notify: psycopg.Notify) -> None:
        """Note a notification. The thread that reads the connection calls it, and wakes another one that waits."""
        if notify.payload:
            self._below.add(int(notify.channel.rpartition("_")[2]))
        self._told = True
        self._write(b"n")

    def _wait(self, seconds: float) -> bool:
        """Wait for a notification. Return whether `wake` ended the wait."""
        link, reader = self._engine.link, self._reader
        socket = link.fileno()
        try:
            found, _, _ = select.select([one for one in (socket, reader) if one >= 0], [], [], seconds)
        except (OSError, ValueError):  # another thread has closed the connection
            return False
        if reader in found:
            with suppress(OSError):
                if b"w" in os.read(reader, 4096):
                    return True
        if socket in found:
            with link.lock:
                if not link.hear():
                    link.close()
        return False

    def wake(self) -> None:
        """End a wait: write a byte into a pipe to the own process."""
        self._write(b"w")

    def _write(self, byte: bytes) -> None:
        with suppress(OSError):  # the pipe is full: a waiting thread wakes in any case
            os.write(self._writer, byte)

    def close(self) -> None:
        """Close the pipe; no thread may wait any more."""
        reader, writer, self._reader, self._writer = self._reader, self._writer, -1, -1
        os.close(writer)
        os.close(reader)
