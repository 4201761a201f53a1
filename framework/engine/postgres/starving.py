"""The priorities of queues that starve, because more urgent jobs keep coming, and the turns that they get."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from framework.engine.port import STARVING_TURN
from framework.model.extras import LEAST_URGENT, USUAL

if TYPE_CHECKING:
    from framework.engine.postgres.engine import PostgresEngine

LEVEL = 56  # the lowest of the bits of a place that are its priority
LEAST_PAUSE = 0.1  # seconds between two looks
Claim = Callable[[Sequence[int], Sequence[int], int], list[tuple[Any, ...]]]  # queues, floors and limit to rows


class Starving:
    """The starving priorities, as one owner knows them.

    A look is one query, made each tenth of `starve_after`, and only where a claim has found all that it asked for, or
    some jobs of a queue whose limits may have kept others back.
    """

    def __init__(self, engine: PostgresEngine) -> None:
        self._engine = engine
        self._look_at: dict[int, float] = {}
        self._found: dict[int, int] = {}  # by queue, the place of the job that has waited longest
        self._claimed: Counter[int] = Counter()

    def take(self, queue: int, limit: int, claim: Claim, *, cut: bool) -> list[tuple[Any, ...]]:
        """Claim what starves, of `limit` jobs one in STARVING_TURN; return its rows.

        Args:
            cut: the queue's limits may leave room for fewer jobs, so `look` counts those that were claimed.
        """
        place = self._found.get(queue)
        if place is None:
            return []
        ahead = 1 if cut else limit
        turns, rest = divmod(self._claimed[queue] + ahead, STARVING_TURN)
        self._claimed[queue] = rest - ahead if cut else rest
        if not turns:
            return []
        del self._found[queue]
        self._look_at[queue] = 0.0
        return claim([queue], [place - 1], min(turns, limit))

    def look(self, queue: int, late: Sequence[Any], rows: Sequence[tuple[Any, ...]], limit: int, *, cut: bool) -> None:
        """Look for what starves, behind a claim that asked for `limit` jobs and got these, besides the late ones."""
        engine, now = self._engine, time.monotonic()
        after = engine.queues[engine.name_of(queue)].starve_after
        mine = [row for row in rows if row[0] == queue]
        if cut and (late or queue in self._found):
            self._claimed[queue] += len(late) + len(mine)
        more = bool(late or mine) if cut else len(mine) >= limit  # more jobs may wait
        if after is None or now < self._look_at.get(queue, 0.0) or not more:
            return
        first = mine[-1][1] >> LEVEL if mine else -USUAL
        behind = [level << LEVEL for level in range(first + 1, LEAST_URGENT - USUAL + 1)]
        query = f"select place, waits from {engine.schema}.firsts_1(%s, %s::bigint[]) where waits >= %s"
        starving = engine.link.rows(query, [queue, behind, after]) if behind else []
        self._look_at[queue] = now + max(LEAST_PAUSE, after / 10, 20 * (time.monotonic() - now))
        if starving:
            self._found[queue] = max(starving, key=lambda row: row[1])[0]
