"""The queues of a store as people see them: counts, limits, who takes their jobs, and when a service last reported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from framework.admin.store import Store
from framework.engine.port import JobView, QueueStats
from framework.model.options import QueueOptions


@dataclass(frozen=True, slots=True)
class QueueView:
    """A queue.

    Attributes:
        stats: its counts; None in them: it cannot be known.
        declared: the service declares it; None: no service was asked.
        handler: name of its handler in the service; empty: it has none; None: no service was asked.
        dead_letters: it is a dead-letter queue.
        options: as the service declares them, settings included; None: no service was asked, or it does not declare it.
        seen: when a running service that declares it last did its housekeeping, in seconds since the epoch; None: none
            ever did, or the engine does not know.
        newer: jobs that only a newer version of the framework can read, among the oldest.
        error: why the queue cannot be read; empty: it can.
    """

    name: str
    stats: QueueStats
    declared: bool | None
    handler: str | None
    dead_letters: bool
    options: QueueOptions | None
    seen: float | None
    newer: Sequence[JobView] = field(default=())
    error: str = ""

    @property
    def is_stranded(self) -> bool:
        """Return whether jobs wait here that no handler of the service takes, and that are no dead letters."""
        waits = self.stats.jobs_at_rest - (self.stats.dead or 0) > 0
        return waits and not self.dead_letters and self.handler == ""


def views(store: Store, *, empty: bool = False, newer: bool = True) -> list[QueueView]:
    """Return the service's queues, then the other queues of the store.

    Args:
        empty: also those that the service does not declare and that have no jobs and are not paused.
        newer: look for jobs of a newer version, which costs the most.
    """
    own = [] if store.declared is None else list(store.declared.options)
    found = [view(store, name, newer=newer) for name in own]
    others = [view(store, name, newer=newer) for name in store.others()]
    return found + [one for one in others if empty or one.stats.jobs or one.stats.paused or one.error or one.newer]


def view(store: Store, name: str, *, newer: bool = True) -> QueueView:
    """Return one queue of `store.names()`, or one that the store has refused."""
    declared, refused = store.declared, store.refused.get(name)
    own = declared is not None and name in declared.options
    handler = None if declared is None else declared.handlers.get(name, "")
    options = declared.options[name] if declared is not None and own else None
    if refused is not None:
        dead_letters = options is not None and options.is_dead_letter
        return QueueView(name, QueueStats(), own, handler, dead_letters, options, None, error=str(refused))
    return QueueView(
        name,
        store.stats(name),
        None if declared is None else own,
        handler,
        store.holds_dead_letters(name),
        options,
        store.read(lambda: store.engine.last_seen(name), None),
        list(store.each(store.engine.newer(name))) if newer else (),
    )


def last_seen(queues: Sequence[QueueView]) -> float | None:
    """Return when any service last reported on these queues; None: none ever did, or the engine does not know."""
    return max((one.seen for one in queues if one.seen is not None), default=None)
