"""Housekeeping: heartbeats, rescue of abandoned leases, promotion of due jobs, expiry, deletion and leadership."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING

from framework.engine.port import CANCELLED_KEPT, Rescued
from framework.engine.postgres.enqueue import tell
from framework.engine.postgres.link import SLOW
from framework.engine.postgres.owner import BEAT, PATIENCE
from framework.engine.postgres.rows import COLUMNS, Row
from framework.model.fan_in import GIVEN_UP, MEND_AFTER
from framework.model.job import Failure, Lease, RunRecord
from framework.model.outcome import Kind, Outcome, Settlement

if TYPE_CHECKING:
    from framework.engine.postgres.engine import PostgresEngine

AT_ONCE = 500  # rows in one statement
CANCELLED_EVERY = 5.0  # seconds between two deletions of cancelled jobs whose time is over
FORGET_EVERY = 10.0  # seconds between two looks for unique keys that no job holds
MEND_EVERY = 10.0  # seconds between two looks at fan-ins
LEFT_OVER = 300.0  # seconds between two rescues of a dead owner with jobs of other services: each reads a whole table


class Upkeep:
    """The part of the engine that a maintenance process uses."""

    def __init__(self, engine: PostgresEngine) -> None:
        self._engine = engine
        self._schema = engine.schema
        self.expired: Counter[str] = Counter()
        self._left_over: dict[str, float] = {}
        self._beat_at = self._delete_at = self._cancelled_at = self._forget_at = self._mend_at = 0.0

    def _dead(self) -> dict[str, bool]:
        """Return the dead owners and whether each was on another machine.

        Those of this machine are known by their files, those of other machines by their heartbeats.

        While the database cannot be reached, no machine can send a heartbeat. So after a break, other machines first
        get time to send one.
        """
        engine = self._engine
        others = time.monotonic() - engine.link.since >= PATIENCE
        node = engine.life.begin()
        rows = engine.link.rows(
            f"select o.id, o.node, coalesce(n.beat < {self._schema}.clock() - %s, true) from {self._schema}.owner o "
            f"left join {self._schema}.node n on n.id = o.node where o.id <> %s",
            [PATIENCE, engine.incarnation],
        )
        return {
            name: at != node
            for name, at, silent in rows
            if (engine.life.is_dead(name) if at == node else silent and others)
        }

    def rescue(self) -> list[Rescued]:
        """Take over the leases of dead owners on this engine's queues."""
        engine = self._engine
        with engine.link.lock:
            now = time.monotonic()
            dead = self._dead()
            self._left_over = {name: until for name, until in self._left_over.items() if name in dead}
            gone = [name for name in dead if self._left_over.get(name, 0.0) <= now]
            again = engine.lost_answer
            if not gone and not again:
                return []
            rows = engine.as_owner(lambda era: engine.link.rows(
                f"select {COLUMNS}, started = delivery, cancelled "
                f"from {self._schema}.rescue_1(%s, %s, %s::text[], %s::int[], %s)",
                [engine.incarnation, era, gone, list(engine.numbers.values()), again],
                seconds=SLOW,
            ))  # fmt: skip
            engine.lost_answer = False
            for name in gone:
                engine.life.forget(name)
                self._left_over[name] = now + LEFT_OVER
            found = [(Row._make(row), started) for *row, started, _ in rows]
            engine.cancelled_keys.update((row[0], row[1], row[5]) for row in rows if row[-1])
            new = [one for one in found if (one[0].queue, one[0].place, one[0].delivery) not in engine.claimed]
            new.sort(key=lambda one: one[0].place)
            leases = engine.leases([row for row, _ in new])
            return [
                Rescued(
                    lease,
                    row.claimer or "",
                    run=RunRecord(0, lease.delivery, lease.attempt, engine.link.here(row.since)) if started else None,
                    elsewhere=dead.get(row.claimer or "", False),
                )
                for lease, (row, started) in zip(leases, new, strict=True)
            ]

    def lead(self, name: str) -> bool:
        """Return whether this owner has a role; it takes over from an owner that is dead."""
        engine = self._engine
        with engine.link.lock:
            dead = self._dead()
            return bool(engine.as_owner(lambda _: engine.link.rows(
                f"insert into {self._schema}.leader values (%s, %s) on conflict (name) do update "
                "set owner = excluded.owner where leader.owner = excluded.owner or leader.owner = any(%s) "
                f"or not exists (select from {self._schema}.owner o where o.id = leader.owner) returning name",
                [name, engine.incarnation, list(dead)],
            )))  # fmt: skip

    def maintain(self, seconds: float) -> bool:
        """Do the housekeeping that is due, in parts, for about `seconds`. Return whether all is done."""
        end = time.monotonic() + seconds
        self._beat()
        done = False
        while not done:
            done = self._promote() & self._expire() & self._delete() & self._forget_keys() & self._mend_fan_ins()
            if time.monotonic() >= end:
                break
        return done

    def _beat(self) -> None:
        """Send a heartbeat for all processes of this machine, and note which queues have a running service."""
        engine, now = self._engine, time.monotonic()
        if now < self._beat_at:
            return
        node = engine.life.begin()
        engine.link.rows(
            f"insert into {self._schema}.node values (%s, {self._schema}.clock(), '') "
            "on conflict (id) do update set beat = excluded.beat",
            [node],
        )
        engine.link.rows(
            f"update {self._schema}.queue set seen = {self._schema}.clock() where id = any(%s::int[])",
            [list(engine.numbers.values())],
        )
        engine.link.rows(
            f"delete from {self._schema}.node n where beat < {self._schema}.clock() - 86400 "
            f"and not exists (select from {self._schema}.owner o where o.node = n.id)"
        )
        self._beat_at = now + BEAT

    def _promote(self) -> bool:
        rows = self._engine.link.rows(f"select * from {self._schema}.promote_1(%s)", [AT_ONCE])
        tell(self._engine.link, (queue for (queue,) in rows))
        return len(rows) < AT_ONCE

    def _expire(self) -> bool:
        engine = self._engine
        with engine.link.lock:
            rows = engine.as_owner(lambda era: engine.link.rows(
                f"select {COLUMNS} from {self._schema}.expire_1(%s, %s, %s::int[], %s)",
                [engine.incarnation, era, list(engine.numbers.values()), AT_ONCE],
            ))  # fmt: skip
            leases = engine.leases(rows)
            engine.settle([Settlement(lease, self._too_old(lease)) for lease in leases])
        self.expired.update(lease.queue for lease in leases)
        return len(rows) < AT_ONCE

    def _too_old(self, lease: Lease) -> Outcome:
        now = self._engine.link.now()
        failure = Failure(
            lease.attempt - 1,
            "expired",
            f"expired: not done {lease.job.ttl:g} s after it could first have run",
            error_type="expired",
            queue=lease.queue,
            delivery=lease.delivery,
            started_at=now,
            ended_at=now,
        )
        return Outcome(Kind.DEAD_LETTERED, failure=failure)

    def _delete(self) -> bool:
        """Delete dead letters and cancelled jobs whose queue's ttl is over. Return True: nothing is left to do."""
        engine, began = self._engine, time.monotonic()
        if began < self._delete_at:
            return True
        for name, options in engine.queues.items():
            if options.is_dead_letter and options.ttl is not None:
                number = engine.numbers[name]
                tables = ["dead", "job", "later"] if engine.keeps_dead_letters(name) else ["dead"]
                for table in tables:
                    owned = " and owner is null" if table == "job" else ""
                    self.drop(table, f"queue = %s and home <> queue and since <= {self._schema}.clock() - %s{owned}",
                              [number, options.ttl])  # fmt: skip
        if began >= self._cancelled_at:
            self._cancelled_at = began + CANCELLED_EVERY
            keep = [CANCELLED_KEPT if one.ttl is None else one.ttl for one in engine.queues.values()]
            engine.link.rows(
                f"delete from {self._schema}.cancelled c using unnest(%s::int[], %s::float8[]) as u(queue, keep) "
                f"where c.queue = u.queue and c.since <= {self._schema}.clock() - u.keep",
                [[engine.numbers[name] for name in engine.queues], keep],
                seconds=SLOW,
            )
        took = time.monotonic() - began
        self._delete_at = time.monotonic() + (20 * took if took > 0.5 else 0.0)
        return True

    def _forget_keys(self) -> bool:
        """Delete unique keys that no job holds, and places of groups that no job has. Return whether none is left."""
        began = time.monotonic()
        if began < self._forget_at:
            return True
        ((count,),) = self._engine.link.rows(f"select {self._schema}.forget_keys_1(%s)", [AT_ONCE], seconds=SLOW)
        ((held,),) = self._engine.link.rows(f"select {self._schema}.forget_held_1(%s)", [AT_ONCE], seconds=SLOW)
        if max(count, held) >= AT_ONCE:
            return False
        self._forget_at = began + max(FORGET_EVERY, 20 * (time.monotonic() - began))
        return True

    def _mend_fan_ins(self) -> bool:
        """Do for fan-ins what no settlement does. Return True: nothing is left to do now."""
        began = time.monotonic()
        if began >= self._mend_at:
            query = f"select {self._schema}.mend_fan_ins_1(%s, %s)"
            self._engine.link.rows(query, [GIVEN_UP, MEND_AFTER], seconds=SLOW)
            self._mend_at = began + max(MEND_EVERY, 20 * (time.monotonic() - began))
        return True

    def drop(self, table: str, condition: str, values: list[object]) -> int:
        """Delete rows for ever, free their ids, and return how many rows there were."""
        rows = self._engine.link.rows(
            f"with gone as (delete from {self._schema}.{table} where {condition} returning home, id, chosen, extras), "
            f"ended as (select {self._schema}.end_1(array_agg({self._schema}.member_1(extras)), "
            "array_agg('discarded'::text)) from gone where extras like '%%\"fan_in\":\"%%'), "
            f"freed as (delete from {self._schema}.ids i using gone where gone.chosen and i.queue = gone.home "
            "and i.id = gone.id) select (select count(*) from gone), (select count(*) from ended)",
            values,
            seconds=SLOW,
        )
        return int(rows[0][0])
