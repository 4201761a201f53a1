"""Reports of jobs that an engine cannot move now: one event for each, and one more when it moves again."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from framework.engine.answers import checked
from framework.engine.port import Engine
from framework.model.events import EngineFailed, EngineRecovered, Event

EVERY = 1.0  # seconds between two looks
MOST_SAID = 10  # jobs that one look reports one by one; the others are counted


class StuckJobs:
    """A reporter that emits events for what `Engine.stuck` lists.

    Args:
        engine: the open engine.
        emit: takes the events.
        clock: monotonic seconds.
    """

    def __init__(
        self, engine: Engine, emit: Callable[[Event], None], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._engine = engine
        self._emit = emit
        self._clock = clock
        self._since: dict[str, float] = {}
        self._look_at = 0.0

    def tell(self) -> None:
        """Emit events for jobs that are newly stuck, and for those that move again. Looks once a second at most."""
        now = self._clock()
        if now < self._look_at:
            return
        self._look_at = now + EVERY
        found = checked(self._engine, "stuck", self._engine.stuck(), Mapping)
        new = [location for location in found if location not in self._since]
        self._since.update(dict.fromkeys(new, now))
        for location in new[:MOST_SAID]:
            self._emit(EngineFailed("move", f"{location}: {found[location]}: tried again, later and later", EVERY))
        if len(new) > MOST_SAID:
            self._emit(EngineFailed("move", f"{len(new) - MOST_SAID} more jobs: tried again, later and later", EVERY))
        over = [self._since.pop(location) for location in self._since.keys() - found.keys()]
        if over:
            self._emit(EngineRecovered("move", now - min(over)))
