"""Observation of queues for all services that share the store: depth, age, bad files, and undeclared queues."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import islice

from framework.engine.answers import checked
from framework.engine.port import Engine, Inspector, Pause, QueueStats
from framework.model.events import Event, FileBad, QueueObserved, QueuePaused, QueueResumed, QueueUndeclared

MOST_LOOKED, MOST_SAID = 1000, 20  # bad files of a queue that one observation reads, and reports with a line each


class Observation:
    """The observer of queues; it emits events.

    Attributes:
        changed: something differs from the observation before.
    """

    def __init__(self, engine: Engine, emit: Callable[[Event], None]) -> None:
        self._engine = engine
        self._emit = emit
        self._bad: dict[str, set[str]] = {}  # reported files by queue
        self._undeclared: set[str] = set()
        self._seen: dict[str, QueueStats] = {}
        self.changed = False

    def queue(self, name: str) -> bool:
        """Observe one queue that the service declares. Return True: nothing is left to do. Raises EngineUnavailable."""
        found = checked(self._engine, "stats", self._engine.stats(name), QueueStats)
        seen, self._seen[name] = self._seen.get(name), found
        self.changed = self.changed or found != seen  # the age of waiting jobs always changes
        self._emit(
            QueueObserved(
                queue=name,
                ready=found.ready,
                delayed=found.delayed,
                in_flight=found.in_flight,
                dead=found.dead,
                bad=found.bad,
                oldest_age=found.oldest_age,
                paused=found.paused,
                held=found.held,
            )
        )
        self._tell_paused(name, found, seen)
        self._tell_bad(name, found.bad or 0)
        return True

    def _tell_paused(self, queue: str, found: QueueStats, seen: QueueStats | None) -> None:
        """Report a pause or its end. A pause that was there before this process is reported, too: it is in force."""
        if found.paused == (seen is not None and seen.paused) or not isinstance(self._engine, Inspector):
            return
        known = self._engine.paused(queue)
        if known is None or known.paused != found.paused:
            known = Pause(found.paused, "", 0.0)
        self._emit((QueuePaused if found.paused else QueueResumed)(queue, known.by, known.since))

    def undeclared(self) -> bool:
        """Look for queues that no service declares. Return True. Raises EngineUnavailable."""
        found = checked(self._engine, "undeclared", self._engine.undeclared(), Mapping)
        for name, stats in found.items():
            self._emit(QueueUndeclared(name, stats.jobs, first=name not in self._undeclared))
        self._undeclared = set(found)
        return True

    def _tell_bad(self, queue: str, count: int) -> None:
        said = self._bad.setdefault(queue, set())
        many = count > MOST_SAID  # then a different file at the same count may wait until the count changes
        if not count or (many and count == len(said)) or not isinstance(self._engine, Inspector):
            return
        here = {view.job.id: view for view in islice(self._engine.browse(queue, "bad"), MOST_LOOKED)}
        said.intersection_update(here)
        for file in [file for file in here if file not in said][:MOST_SAID]:
            said.add(file)
            self._emit(FileBad(queue, file, here[file].flaw, here[file].place))
