"""Crews: one set of processes for each pool, and one for each queue without a pool."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from framework.model.options import PoolOptions, QueueOptions
from framework.service.app import Handler, Slot, WorkerApp
from framework.service.options import resolve_pool
from framework.service.queues import Pool, Queue
from framework.service.settings import Settings


@dataclass(frozen=True, slots=True)
class Crew:
    """A set of processes that do the same.

    Attributes:
        options: the number of processes, and what each of them may run at once.
        queues: all queues that they serve, in the order of their handlers.
        pool: the declared pool; None: the only queue has no pool.
    """

    options: PoolOptions
    queues: tuple[Queue[Any], ...]
    pool: Pool | None = None

    def handlers(self, app: type[WorkerApp]) -> list[Handler]:
        """Return the handlers of its queues."""
        return [app.worker_handlers[queue.name] for queue in self.queues]

    def slot(self, number: int) -> Slot:
        """Return what a lifespan gets about one of its processes."""
        return Slot(self.queues[0], number, self.pool, self.queues)


def crews_of(
    app: type[WorkerApp], settings: Settings, options: Mapping[str, QueueOptions], served: Sequence[str]
) -> dict[str, Crew]:
    """Return the crews by their names. Raises SettingsError.

    Args:
        options: options of all queues, by name.
        served: names of the queues to serve; a pool serves those of its queues that are among them.
    """
    members: dict[str, list[Queue[Any]]] = {}
    for name in served:
        queue = app.worker_handlers[name].queue
        members.setdefault(queue.pool.name if queue.pool is not None else name, []).append(queue)
    crews = {}
    for name, queues in members.items():
        pool = queues[0].pool
        found = PoolOptions.own_of(options[name]) if pool is None else resolve_pool(pool, settings)
        crews[name] = Crew(found, tuple(queues), pool)
    return crews
