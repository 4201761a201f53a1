"""The fan-ins of the database. A member ends in the transaction that settles its job, and the last one stores the
follow-up in it: so no crash comes between."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from framework.engine.postgres.rows import Key
from framework.model.errors import PayloadTooLarge
from framework.model.fan_in import ENDS, HOWS, NAME, Ended, FanIn
from framework.model.job import Job
from framework.model.outcome import Settlement

if TYPE_CHECKING:
    from framework.engine.postgres.engine import PostgresEngine

End = tuple[str | None, str | None]
NO_END: End = (None, None)
Call = tuple[str, Sequence[Any]]


class PostgresFanIns:
    """The `FanIns` of `framework.engine.fan_in`, on the connection for enqueues."""

    def __init__(self, engine: PostgresEngine) -> None:
        self._engine = engine

    def begin(self, queue: str, follow_up: Job) -> None:
        """Insert the row, with the follow-up as the document for its enqueue."""
        engine, (number, _) = self._engine, self._engine.find_queue(queue)
        most = engine.find_queue(follow_up.queue)[1].max_payload_bytes
        if len(follow_up.payload) > most:
            raise PayloadTooLarge(f"queue {follow_up.queue!r} takes payloads of {most} bytes")
        self._rows(
            "insert into {schema}.fan_in (name, of_queue, touched, follow_up) values (%s, %s, {schema}.clock(), %s) "
            "on conflict do nothing",
            [_checked(follow_up.id), number, engine.store.document([follow_up])],
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
        return self._engine.sending.rows(query.format(schema=self._engine.schema), values)


def _checked(name: str) -> str:
    if not NAME.fullmatch(name):
        raise ValueError(f"{name!r:.60} is no name of a fan-in")
    return name


def end_of(one: Settlement) -> End:
    """Return the member that a settlement ends, as the functions of the schema take it, and how; Nones: it ends none.

    A job that was cancelled meanwhile is not ended here, but by a trigger of the schema.
    """
    member, how = one.lease.job.extras.fan_in, ENDS.get(one.outcome.kind)
    return NO_END if member is None or how is None else (member, how)


def settled(schema: str, call: str, values: Sequence[Any], keys: Sequence[Key], ends: Sequence[End]) -> Call:
    """Return the statement for a call that settles leases and answers their places, and what it takes.

    Where some of them are members of fan-ins, it ends those in the same transaction, if they are among these places.
    """
    if not any(member for member, _ in ends):
        return f"select {schema}.{call}", values
    members = [[place for _, place, _ in keys], *map(list, zip(*ends, strict=True))]
    query = f"select {schema}.settled_1(array(select {schema}.{call}), %s::bigint[], %s::text[], %s::text[])"
    return query, [*values, *members]
