"""The settlement of leases: one statement for jobs that end, one for jobs that move, one for released jobs."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from framework.engine.postgres.enqueue import tell
from framework.engine.postgres.link import SLOW, Failed
from framework.engine.postgres.rows import Key, with_failure
from framework.model.errors import EngineUnavailable, LeaseLost
from framework.model.fan_in import ENDS
from framework.model.job import Lease
from framework.model.outcome import Kind, Outcome, Settlement

if TYPE_CHECKING:
    from framework.engine.postgres.engine import PostgresEngine

End = tuple[str | None, str | None]  # a member of a fan-in as the schema's functions take it, and how it ends; or Nones
AGAIN = 1.0  # seconds in which a crash of the server may undo what it has committed asynchronously


class Settling:
    """The settlement of one owner's leases. It remembers for a while which jobs it has deleted."""

    def __init__(self, engine: PostgresEngine) -> None:
        self._engine = engine
        self._acked: deque[tuple[float, dict[Key, End]]] = deque()
        self._unsure: set[Key] = set()  # leases of calls whose answer was lost

    def settle(self, done: Sequence[Settlement]) -> None:
        """Settle all leases that can be settled. Raises LeaseLost, EngineUnavailable."""
        acked, released, moved, cancelled = [], [], [], []
        for one in done:
            if one.outcome.kind in (Kind.SUCCEEDED, Kind.DISCARDED):
                acked.append(one)
            elif one.outcome.kind is Kind.RELEASED and one.outcome.delay <= 0:
                released.append(one)
            elif one.outcome.kind is Kind.CANCELLED:
                cancelled.append(one)
            else:
                moved.append(one)
        parts = [(self._ack, acked), (self._move, moved), (self._release, released), (self._set_aside, cancelled)]
        lost: list[Lease] = []
        for at, (act, some) in enumerate(parts):
            try:
                lost += self._part(act, some) if some else []
            except EngineUnavailable as error:
                left = [one.lease for _, rest in parts[at:] for one in rest]
                raise EngineUnavailable(str(error), unsettled=[*left, *lost]) from error
        if lost:
            raise LeaseLost(lost)

    def _part(self, act: Callable[[Sequence[Settlement]], set[int]], some: Sequence[Settlement]) -> list[Lease]:
        """Settle leases of one group and return those that were not this owner's any more."""
        engine, keys = self._engine, [one.lease.token for one in some]
        with engine.link.lock:
            try:
                places = engine.as_owner(lambda _: act(some))
            except Failed as error:
                if error.unsure:
                    self._unsure.update(keys)
                raise
            engine.claimed.difference_update(keys)
            engine.cancelled_keys.difference_update(keys)
            lost = [one.lease for one in some if one.lease.token[1] not in places]
            lost = [lease for lease in lost if lease.token not in self._unsure]
            self._unsure.difference_update(keys)
        return lost

    def _ack(self, done: Sequence[Settlement]) -> set[int]:
        keys, now = [one.lease.token for one in done], time.monotonic()
        while self._acked and self._acked[0][0] < now - AGAIN:
            self._acked.popleft()
        ends = [end_of(one) for one in done]
        self._acked.append((now, dict(zip(keys, ends, strict=True))))
        return self._keys("ack_1", keys, ends)

    def _release(self, done: Sequence[Settlement]) -> set[int]:
        keys = [one.lease.token for one in done]
        places = self._keys("release_1", keys)
        self._engine.claims.lower(keys)
        tell(self._engine.link, (queue for queue, *_ in keys))
        return places

    def _set_aside(self, done: Sequence[Settlement]) -> set[int]:
        return {place for (place,) in self._rows("aside_1", [one.lease.token for one in done], ", null, true")}

    def _keys(self, function: str, keys: Sequence[Key], ends: Sequence[End] = ()) -> set[int]:
        """Settle leases by a function of the schema, and end what is a member among them; return their places."""
        if not keys:
            return set()
        engine = self._engine
        values = [engine.incarnation, *map(list, zip(*keys, strict=True))]
        call = f"{function}(%s, %s::int[], %s::bigint[], %s::int[])"
        return {place for (place,) in engine.link.rows(*settled(engine.schema, call, values, keys, ends))}

    def _rows(self, function: str, keys: Sequence[Key], more: str = "") -> list[tuple[Any, ...]]:
        """Return what a function of the schema answers about this owner's leases; `more`: its last arguments."""
        engine = self._engine
        query = f"select * from {engine.schema}.{function}(%s, %s::int[], %s::bigint[], %s::int[]{more})"
        return engine.link.rows(query, [engine.incarnation, *map(list, zip(*keys, strict=True))])

    def lost(self, leases: Sequence[Lease]) -> list[Lease]:
        """Return the leases that are not this owner's any more; note that the others have started.

        It also finds out which of them were cancelled.
        """
        if not leases:
            return []
        engine, keys = self._engine, [lease.token for lease in leases]
        mine: dict[int, bool] = dict(engine.as_owner(lambda _: self._rows("started_2", keys)))
        engine.cancelled_keys.update(key for key in keys if mine.get(key[1]))
        return [lease for lease in leases if lease.token[1] not in mine]

    def _move(self, done: Sequence[Settlement]) -> set[int]:
        engine = self._engine
        moves = [self._moved(one.lease, one.outcome) for one in done]
        keys = [one.lease.token for one in done]
        call = (
            "move_1(%s, %s::int[], %s::bigint[], %s::int[], %s::text[], %s::int[], %s::float8[], %s::int[], %s::text[])"
        )
        values = [engine.incarnation, *map(list, zip(*keys, strict=True)), *map(list, zip(*moves, strict=True))]
        places = engine.link.rows(*settled(engine.schema, call, values, keys, [end_of(one) for one in done]))
        ready = [(target, key) for key, (state, target, *_) in zip(keys, moves, strict=True) if state == "job"]
        engine.claims.lower([key for target, key in ready if target == key[0]])
        tell(engine.link, (target for target, _ in ready))
        return {place for (place,) in places}

    def _moved(self, lease: Lease, outcome: Outcome) -> tuple[str, int, float | None, int, str | None]:
        """Return a job's new state, queue, delay, attempts and history; delay or history None means unchanged."""
        engine, failure = self._engine, outcome.failure
        own = engine.numbers[lease.queue]
        history = None if failure is None else with_failure(lease.job.history, failure)
        match outcome.kind:
            case Kind.RELEASED:
                return "later", own, outcome.delay, lease.attempt - 1, None
            case Kind.ARCHIVED:
                return "dead", own, None, lease.attempt - 1, None
            case Kind.RETRIED if failure is not None:
                return "later" if outcome.delay > 0 else "job", own, max(0.0, outcome.delay), lease.attempt, history
            case Kind.DEAD_LETTERED if failure is not None:
                dead_letters = None if lease.is_dead_letter else engine.queues[lease.queue].dead_letter
                if dead_letters is None:
                    return "dead", own, None, 0, history
                return "job", engine.numbers[dead_letters], 0.0, 0, history
        raise ValueError(f"{outcome.kind} needs the failure")

    def compare(self) -> None:
        """Compare this owner's claims with the server's after a break, and repair the differences.

        The server may have lost claims, acks and releases; this process may have lost the answer to a claim.
        """
        engine = self._engine
        rows = engine.link.rows(
            f"select queue, place, delivery, claimer is not null from {engine.schema}.job where owner = %s",
            [engine.incarnation],
            seconds=SLOW,
        )
        acked = {key: end for _, ends in self._acked for key, end in ends.items()}
        unknown = [(key, rescued) for *numbers, rescued in rows if (key := tuple(numbers)) not in engine.claimed]
        again = [key for key, _ in unknown if key in acked]
        self._keys("ack_1", again, [acked[key] for key in again])
        self._keys("release_1", [key for key, rescued in unknown if key not in acked and not rescued])
        self._claim_again(engine.claimed.difference((queue, place, delivery) for queue, place, delivery, _ in rows))
        engine.lost_answer = engine.lost_answer or any(rescued and key not in acked for key, rescued in unknown)

    def _claim_again(self, keys: set[Key]) -> None:
        """Restore claims that the server has lost, each with its place in its group. What others have stays theirs."""
        if keys:
            engine = self._engine
            engine.link.rows(
                f"with again as (update {engine.schema}.job j set owner = %s, delivery = u.delivery "
                "from unnest(%s::int[], %s::bigint[], %s::int[]) as u(queue, place, delivery) where j.queue = u.queue "
                "and j.place = u.place and j.owner is null and j.delivery = u.delivery - 1 returning j.*) "
                f"insert into {engine.schema}.held select queue, {engine.schema}.group_of(extras), place from again "
                'where extras like \'%%"group":"%%\' on conflict do nothing returning place',
                [engine.incarnation, *map(list, zip(*keys, strict=True))],
            )


def end_of(one: Settlement) -> End:
    """Return the member that a settlement ends, as the functions of the schema take it, and how; Nones: it ends none.

    A job that was cancelled meanwhile is not ended here, but by a trigger of the schema.
    """
    member, how = one.lease.job.extras.fan_in, ENDS.get(one.outcome.kind)
    return (None, None) if member is None or how is None else (member, how)


def settled(
    schema: str, call: str, values: Sequence[Any], keys: Sequence[Key], ends: Sequence[End]
) -> tuple[str, Sequence[Any]]:
    """Return the statement for a call that settles leases and answers their places, and what it takes.

    Where some of them are members of fan-ins, it ends those in the same transaction, if they are among these places.
    """
    if not any(member for member, _ in ends):
        return f"select {schema}.{call}", values
    members = [[place for _, place, _ in keys], *map(list, zip(*ends, strict=True))]
    query = f"select {schema}.settled_1(array(select {schema}.{call}), %s::bigint[], %s::text[], %s::text[])"
    return query, [*values, *members]
