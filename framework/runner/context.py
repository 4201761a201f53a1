"""The context of a tree, known to all its processes: app, settings, crews, engine, and where the tree keeps its files.

A crew is one set of processes: there is one for each pool, and one for each queue without a pool.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from framework.engine.declarations import NOTHING, Declaration
from framework.engine.ledger import LEDGERS, Ledger
from framework.engine.port import Engine, open_engine, shown
from framework.model.black_box import BlackBox
from framework.model.errors import EngineError, UsageError
from framework.model.job import Lease
from framework.model.options import PoolOptions, QueueOptions
from framework.process.blackbox import Pages, Store
from framework.process.blackbox.recorder import box_of
from framework.process.scoreboard import KillReason, Scoreboard
from framework.process.supervisor import Instance, Reserve
from framework.runner.lost import LostAttempts
from framework.service.app import Handler, Slot, WorkerApp
from framework.service.options import resolve_pool
from framework.service.queues import Pool, Queue
from framework.service.settings import Settings

MORE_SLOTS = 3  # further slots of a ledger, for jobs that have ended and are not settled yet
BURIAL = 0.3  # seconds within which the supervisor writes how a child died


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


@dataclass(slots=True)
class TreeContext:
    """The context of one tree.

    Attributes:
        options: options of all queues of the app, by name.
        served: names of the queues on which this tree works.
        system: the engine's `messaging.system.name`.
        instance: the number of this supervisor among those on the same store, with its lock.
        reserve: the room reserved for a start on a full disk; only the supervisor has it.
        target: MODULE or MODULE:NAME, as given on the command line.
        here: the working directory at that moment.
        rings: the rings of telemetry; None: unsent telemetry is lost with its process.
        lost: takes lost attempts to the hooks process; None: the service has no `on_failure`.
        stacks: descriptors of the files for the stacks of the processes, by slot.
        pages: what of the jobs of each slot outlives its process. boxes: what the supervisor keeps of dead processes.
        burst: the tree ends once nothing is waiting, running or due.
        declaration: what the service declares; without a service the store is not told.
        waited_for: incarnations whose end the supervisor has had time to write.
    """

    app: type[WorkerApp]
    settings: Settings
    options: dict[str, QueueOptions]
    served: list[str]
    system: str
    instance: Instance
    target: str
    here: str
    reserve: Reserve | None = None
    rings: Any = None
    lost: LostAttempts | None = None
    stacks: Sequence[int] = ()
    pages: Pages | None = None
    boxes: Store | None = None
    burst: bool = False
    declaration: Declaration = NOTHING
    waited_for: set[str] = field(default_factory=set)

    @property
    def workers(self) -> list[tuple[str, Crew, int]]:
        """Return (name of the slot, its crew, number within the crew) for every worker."""
        crews = crews_of(self.app, self.settings, self.options, self.served).items()
        return [(f"{name}/{at}", crew, at) for name, crew in crews for at in range(crew.options.workers)]

    @property
    def ledgers(self) -> Path:
        """Return the directory with the ledgers of all trees on this store that run on this machine."""
        return self.instance.board_path.parent.parent / LEDGERS

    def kill_reason(self, board: Scoreboard, incarnation: str) -> KillReason | None:
        """Return why an incarnation ended, from our own board or from the board of another tree on this store."""
        found = board.kill_reason(incarnation) or self._written_soon(board, incarnation)
        if found is not None:
            return found
        for path in self.other_boards():
            try:
                found = Scoreboard.open(path).kill_reason(incarnation)
            except (OSError, ValueError):
                continue
            if found is not None:
                return found
        return None

    def _written_soon(self, board: Scoreboard, incarnation: str) -> KillReason | None:
        """Return how an incarnation of this tree ended whose end the supervisor is still writing.

        The locks of a dead process are free before its parent has reaped it. Without this wait, a death by the
        supervisor's own SIGTERM would sometimes be charged.
        """
        slot = next((slot for slot in board.all_slots() if slot.incarnation == incarnation), None)
        if slot is None:
            return None
        end = time.monotonic() + (0.0 if incarnation in self.waited_for else BURIAL)
        self.waited_for.add(incarnation)
        while board.slot(slot.index).incarnation == incarnation:
            found = board.ruin(slot.index) or board.kill_reason(incarnation)
            if found is not None or time.monotonic() >= end or not board.supervised():
                return found
            time.sleep(0.005)
        return board.kill_reason(incarnation)

    def black_box(self, board: Scoreboard, incarnation: str, lease: Lease) -> BlackBox | None:
        """Return what is known of a job whose process was killed; None: nothing is."""
        if self.boxes is None:
            return None
        entry = self.boxes.find(incarnation)
        slot = next((slot for slot in board.all_slots() if slot.incarnation == incarnation), None)
        if slot is not None and board.supervised():
            end = time.monotonic() + BURIAL
            # The supervisor completes it when it reaps the process, and only then starts the next one.
            while entry is None or not entry["final"]:
                over = time.monotonic() >= end or board.slot(slot.index).incarnation != incarnation
                entry = self.boxes.find(incarnation)
                if over:
                    break
                time.sleep(0.002)
        entry = entry or self.boxes.find_elsewhere(incarnation)
        return box_of(entry, lease.job.id, lease.delivery) if entry is not None else None

    def other_boards(self) -> list[Path]:
        """Return the boards of the other trees on this store, including earlier ones."""
        own = self.instance.board_path
        try:
            entries = os.listdir(own.parent)
        except OSError:  # the directory of a running service was moved or removed; the service stops
            return []
        boards = (entry for entry in entries if ".board" in entry and not entry.startswith("."))
        return [own.parent / entry for entry in sorted(boards) if entry != own.name]


def own_engine(context: TreeContext, incarnation: str) -> Engine:
    """Open a child's engine, in the directory where its tree was started. Raises UsageError, EngineError."""
    if lost := context.instance.lost():
        raise EngineError(lost)
    return engine_for(context.settings, context.options, incarnation)


def own_ledger(context: TreeContext, incarnation: str, concurrency: int, about: bytes) -> Ledger:
    """Create the ledger of a worker. Raises EngineError: without a ledger it must not start a job.

    Args:
        about: what telemetry says of this process.
    """
    if lost := context.instance.lost():
        raise EngineError(lost)
    try:
        return Ledger(context.ledgers, incarnation, slots=slots_for(concurrency), about=about)
    except OSError as error:
        raise EngineError(
            f"{context.ledgers} cannot take the ledger of its runs, without which no job may start: "
            f"{error.strerror or error}"
        ) from error


def slots_for(concurrency: int) -> int:
    """Return how many slots the ledger of a worker has at first."""
    return concurrency + MORE_SLOTS


def engine_for(settings: Settings, options: dict[str, QueueOptions], incarnation: str) -> Engine:
    """Open an engine that workers can share, with these queues. Raises UsageError, EngineError."""
    engine = unopened(settings, incarnation)
    engine.open(list(options.values()))
    return engine


def unopened(settings: Settings, incarnation: str) -> Engine:
    """Return an engine that workers can share, not opened yet. Raises UsageError."""
    engine = open_engine(
        settings.engine_url,
        incarnation=incarnation,
        durability=settings.durability,
        network_file_system=settings.network_file_system,
    )
    if engine.features.durable == "nothing":
        raise UsageError(
            f"WORKER_ENGINE_URL={shown(settings.engine_url)}: that engine lives in one process and cannot "
            "serve workers: use spool:DIR or postgresql://..."
        )
    return engine
