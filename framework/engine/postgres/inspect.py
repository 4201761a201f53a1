"""The views and counts of jobs in the tables, the acts of a person on them, and the declarations of services."""

from __future__ import annotations

import heapq
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import psycopg

from framework.engine.declarations import Declaration, read
from framework.engine.inspector import without_replaced
from framework.engine.port import NO_JOBS, Cancelled, JobView, Pause, QueueStats, State
from framework.engine.postgres.enqueue import tell
from framework.engine.postgres.link import SLOW, Link
from framework.engine.postgres.rows import COLUMNS, JOB, Row, job_of, key_of, write_id
from framework.model.errors import UsageError
from framework.model.extras import LEAST_URGENT, MOST_URGENT, USUAL
from framework.model.job import Job

if TYPE_CHECKING:
    from framework.engine.postgres.engine import PostgresEngine

FIRST_PAGE, PAGE = 100, 500  # rows in the first page and in the others
EXACT = 100_000  # jobs up to which a count is exact; above, it is estimated
NEAR = 20_000  # first rows of a queue, in which claimed jobs and the oldest are searched: claims come from the front
MINUTE = 60.0
_WHERE: dict[State, tuple[str, str]] = {
    "ready": ("job", "owner is null"),
    "in_flight": ("job", "owner is not null"),
    "delayed": ("later", "true"),
    "dead": ("dead", "true"),
    "cancelled": ("cancelled", "true"),
}
_WITHIN_LEVEL = (1 << 56) - 1  # the part of a place that is not the priority


def _columns(table: str) -> str:
    return COLUMNS if table == "job" else COLUMNS.replace("owner, claimer", "null, null")


@dataclass(frozen=True, slots=True)
class RowView(JobView):
    """A view of a job with the table and the key of its row."""

    table: str = ""
    number: int = 0
    row: int = 0


class DeclaringEngine:
    """The part of the engine that implements `framework.engine.declarations`."""

    link: Link
    schema: str

    def declare(self, said: Declaration) -> None:
        """Replace the service's row."""
        self.link.rows(
            f"insert into {self.schema}.service values (%s, %s, {self.schema}.clock()) "
            "on conflict (name) do update set said = excluded.said, seen = excluded.seen",
            [said.service, said.text()],
        )

    def withdraw(self, service: str) -> None:
        """Remove the time from the service's row."""
        self.link.rows(f"update {self.schema}.service set seen = 0 where name = %s", [service])

    def declarations(self) -> list[Declaration]:
        """Return what stands in all rows; a damaged one says nothing."""
        rows = self.link.rows(
            f"select said, case when seen > 0 then {self.schema}.clock() - seen end from {self.schema}.service "
            "order by name"
        )
        return [found for said, silent in rows if (found := read(said, silent)) is not None]


class Inspection:
    """The views, counts and acts for people. Reads take no lock, so a list may be a moment old."""

    def __init__(self, engine: PostgresEngine) -> None:
        self._engine = engine
        self._schema = engine.schema
        self._known: dict[str, tuple[float, QueueStats]] = {}

    # --- counts -----------------------------------------------------------------------------------------------------

    def stats(self, queue: str) -> QueueStats:
        """Return the counts of a queue, and whether it is paused or held."""
        pause, engine = self.paused(queue), self._engine
        held = False
        if engine.queues[queue].may_be_held:
            query = f"select 1 from {self._schema}.throttle where queue = %s and held_until > {self._schema}.clock()"
            held = bool(engine.link.rows(query, [engine.numbers[queue]]))
        return replace(self._counts(queue), paused=pause is not None and pause.paused, held=held)

    def _counts(self, queue: str) -> QueueStats:
        """Return the counts of a queue; where counting takes long, they are kept for 20 times as long."""
        until, known = self._known.get(queue, (0.0, NO_JOBS))
        began = time.monotonic()
        if began < until:
            return known
        number, engine = self._engine.numbers[queue], self._engine
        near = engine.link.rows(
            f"select count(*) filter (where owner is null), count(*) filter (where owner is not null), "
            f"{self._schema}.clock() - min(eligible_at) filter (where owner is null) from (select owner, eligible_at "
            f"from {self._schema}.job where queue = %s order by queue, place limit %s) near",
            [number, NEAR],
            seconds=SLOW,
        )[0]
        ready, in_flight, age = near
        if ready + in_flight >= NEAR:
            ready = self._count("job", number) - in_flight
        stats = QueueStats(
            ready, self._count("later", number), in_flight, self._count("dead", number), 0, max(0.0, age or 0.0)
        )
        if engine.keeps_dead_letters(queue):
            stats = replace(NO_JOBS, in_flight=in_flight, dead=stats.jobs_at_rest)
        took = time.monotonic() - began
        self._known[queue] = (began + (20 * took if took > 0.05 else 0.0), stats)
        return stats

    def _count(self, table: str, number: int) -> int:
        rows = self._engine.link.rows(
            f"select count(*) from (select from {self._schema}.{table} where queue = %s limit %s) counted",
            [number, EXACT],
            seconds=SLOW,
        )
        found = int(rows[0][0])
        if found < EXACT:
            return found
        plan = self._engine.link.rows(
            f"explain (format json) select from {self._schema}.{table} where queue = {number:d}"
        )
        return max(found, int(plan[0][0][0]["Plan"]["Plan Rows"]))

    def undeclared(self) -> dict[str, QueueStats]:
        """Return the counts of queues for which no service does housekeeping, except empty ones."""
        engine = self._engine
        rows = engine.link.rows(
            f"select id, name from {self._schema}.queue where seen < {self._schema}.clock() - %s and "
            "id <> all(%s::int[])",
            [MINUTE, list(engine.numbers.values())],
        )
        found = {}
        for number, name in rows:
            engine.numbers[name] = number  # only while the queue is counted, as it is not declared
            try:
                found[name] = self.stats(name)
            finally:
                del engine.numbers[name]
        return {name: stats for name, stats in found.items() if stats.jobs}

    # --- views ------------------------------------------------------------------------------------------------------

    def last_seen(self, queue: str) -> float | None:
        """Return when a service that declares a queue was last seen; None: never."""
        rows = self._engine.link.rows(f"select seen from {self._schema}.queue where name = %s", [queue])
        return rows[0][0] or None if rows else None

    def browse(self, queue: str, state: State, after: str = "") -> Iterator[JobView]:
        """Yield the jobs of a state in the order of their enqueue; the rows of all priorities are merged."""
        if not after.isascii() or not (after or "0").isdigit() or int(after or 0) > _WITHIN_LEVEL:
            raise UsageError(f"{after[:100]!r} is no position in a list: take one that a page has returned")
        return self._merged(queue, state, int(after or 0))

    def _merged(self, queue: str, state: State, after: int) -> Iterator[JobView]:
        levels = range(MOST_URGENT - USUAL, LEAST_URGENT - USUAL + 1)
        parts = self._parts(queue, state)
        pages = [self._rows(queue, table, where, level, after) for table, where in parts for level in levels]
        for _, table, row in heapq.merge(*pages, key=lambda one: one[0]):
            yield self._view(queue, state, table, row)

    def get(self, queues: Sequence[str], job_id: str) -> Sequence[JobView]:
        """Return the jobs of an id, oldest first. They are found by the id, however long the queues are."""
        numbers = {self._engine.numbers[queue]: queue for queue in queues}
        found: list[JobView] = []
        for table in ("job", "later", "dead", "cancelled"):
            rows = self._engine.link.rows(
                # The sum keeps the planner from the primary key, in which the whole queue would match.
                f"select {_columns(table)} from {self._schema}.{table} where id = %s and queue + 0 = any(%s::int[])",
                [write_id(job_id), list(numbers)],
            )
            for row in map(Row._make, rows):
                queue = numbers[row.queue]
                found.append(self._view(queue, self._state(queue, table, row), table, row))
        return without_replaced(sorted(found, key=lambda view: int(view.cursor)))

    def find(self, queue: str, job_id: str, state: State) -> JobView | None:
        """Return the oldest job of an id in a state, or None."""
        views = self.browse(queue, state) if state == "cancelled" else self.get([queue], job_id)
        return next((view for view in views if view.job.id == job_id and view.state == state), None)

    def _state(self, queue: str, table: str, row: Row) -> State:
        if row.owner is not None:
            return "in_flight"
        if table == "cancelled":
            return "cancelled"
        if table == "dead" or self._engine.keeps_dead_letters(queue):
            return "dead"
        return "ready" if table == "job" else "delayed"

    def _parts(self, queue: str, state: State) -> list[tuple[str, str]]:
        """Return the tables that hold the jobs of a state, each with a condition."""
        if self._engine.keeps_dead_letters(queue):
            if state in ("ready", "delayed"):
                return []
            if state == "dead":
                return [_WHERE["dead"], _WHERE["ready"], _WHERE["delayed"]]
        return [_WHERE[state]] if state in _WHERE else []

    def _view(self, queue: str, state: State, table: str, row: Row) -> RowView:
        job = job_of(row, self._engine.name_of)
        return RowView(job, queue, state, row.attempt, row.delivery, row.since, cursor=str(row.place & _WITHIN_LEVEL),
                       due=row.eligible_at if state == "delayed" else None, table=table, number=row.queue,
                       row=row.place)  # fmt: skip

    def _rows(self, queue: str, table: str, where: str, level: int, after: int) -> Iterator[tuple[int, str, Row]]:
        """Yield the rows of one priority, each with its place within the priority and its table."""
        number, last, end, size = self._engine.numbers[queue], (level << 56) + after, (level + 1) << 56, FIRST_PAGE
        while True:
            rows = self._engine.link.rows(
                f"select {_columns(table)} from {self._schema}.{table} where queue = %s and place > %s and place < %s "
                f"and {where} order by queue, place limit %s",
                [number, last, end, size],
                seconds=SLOW,
            )
            for found in map(Row._make, rows):
                last = found.place
                yield found.place - (level << 56), table, found
            if len(rows) < size:
                return
            size = PAGE

    # --- acts -------------------------------------------------------------------------------------------------------

    def replay(self, view: JobView) -> bool:
        """Move a dead letter to the end of its home queue; its ttl begins anew. Return whether it moved."""
        if not isinstance(view, RowView) or view.state == "in_flight" or not view.is_dead_letter:
            return False
        owned = " and owner is null" if view.table == "job" else ""
        query = (
            f"with gone as (delete from {self._schema}.{view.table} where queue = %s and place = %s and delivery = %s"
            f"{owned} returning *) insert into {self._schema}.job (queue, place, delivery, lost, lost_at, eligible_at, "
            f"expires_at, since, {JOB}) select home, ((place >> 56) << 56) + nextval('{self._schema}.place'), "
            f"delivery, lost, lost_at, {self._schema}.clock(), {self._schema}.clock() + ttl, {self._schema}.clock(), "
            f"{JOB} from gone returning queue, id, uid"
        )
        rows = self._engine.link.call(partial(self._replayed, query, [view.number, view.row, view.delivery], view.job))
        tell(self._engine.link, (queue for queue, _, _ in rows))
        return bool(rows)

    def _replayed(self, query: str, values: list[Any], job: Job, cursor: psycopg.Cursor) -> list[tuple[Any, ...]]:
        """Move a dead letter home, with its unique key if no other job has taken that meanwhile."""
        with cursor.connection.transaction():
            rows = cursor.execute(query, values).fetchall()
            if rows and (key := key_of(job)) and key["window"] is None:
                hold = f"select {self._schema}.hold_key_1(%s, %s, %s, %s, %s, null)"
                cursor.execute(hold, [rows[0][0], key["unique"], *rows[0][1:], key["until"]])
        return rows

    def discard(self, view: JobView) -> bool:
        """Delete a job that is not claimed. Return whether it was there."""
        if not isinstance(view, RowView) or view.state == "in_flight":
            return False
        owned = " and owner is null" if view.table == "job" else ""
        values: list[Any] = [view.number, view.row, view.delivery]
        where = f"queue = %s and place = %s and delivery = %s{owned}"
        return self._engine.upkeep.drop(view.table, where, values) > 0

    def cancel(self, view: JobView) -> Cancelled:
        """Move a waiting job into the table of cancelled ones, or mark the row of a claimed one."""
        if not isinstance(view, RowView):
            return "gone"
        query = f"select {self._schema}.cancel_1(%s, %s, %s)"
        found: Cancelled = self._engine.link.rows(query, [view.number, view.row, view.job.uid])[0][0]
        return found

    def pause(self, queue: str, by: str, *, paused: bool) -> bool:
        """Pause or resume a queue, and notify its workers. Return False: it was so already."""
        number, link = self._engine.numbers[queue], self._engine.link
        # A queue that was never paused has nothing to resume.
        known = paused or self.paused(queue) is not None
        done = known and link.rows(f"select {self._schema}.pause_1(%s, %s, %s)", [number, paused, by[:200]])[0][0]
        if not paused:
            tell(link, [number])
        return bool(done)

    def paused(self, queue: str) -> Pause | None:
        """Return the latest pause or resumption; None: there was none."""
        rows = self._engine.link.rows(
            f"select paused, by, since from {self._schema}.pause where queue = %s", [self._engine.numbers[queue]]
        )
        return Pause(*rows[0]) if rows else None
