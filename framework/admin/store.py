"""An opened store, as people look at it: with a service that declares queues, or without one."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Container, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

from framework.engine.port import Engine, Inspector, QueueStats, State, open_engine, shown
from framework.model.errors import EngineError, SettingsError, UsageError
from framework.model.options import QueueOptions, QueueSpec
from framework.service.app import WorkerApp
from framework.service.options import all_queues, resolve
from framework.service.queues import Queue
from framework.service.settings import Settings

T = TypeVar("T")
# Seconds for which a queue counts as served after a report: an idle one has its turn about once a minute, and services
# are restarted.
KEPT = 150.0
WAITING: tuple[State, ...] = ("ready", "in_flight", "delayed")


class OpenedEngine(Engine, Inspector, Protocol):
    """An engine that people can look into; every engine so far is one."""


@dataclass(frozen=True)
class Declared:
    """The declarations of a service.

    Attributes:
        app: the service's class.
        options: of all its queues, by name, dead-letter queues of other services included.
        queues: the declarations, by name.
        handlers: name of the handler of each queue that has one.
    """

    app: type[WorkerApp]
    options: Mapping[str, QueueOptions]
    queues: Mapping[str, Queue[Any]]
    handlers: Mapping[str, str]

    @classmethod
    def of(cls, app: type[WorkerApp], settings: Settings) -> Declared:
        """Return what an app declares, changed by settings. Raises SettingsError."""
        queues = all_queues(app)
        options = {name: resolve(queue, settings, app) for name, queue in queues.items()}
        return cls(app, options, queues, {name: one.name for name, one in app.worker_handlers.items()})

    def only(self, stored: Container[str]) -> Declared:
        """Return the declarations of those queues, which make, when they are opened, no declaration in the store."""
        options = {
            name: replace(one, service="", handled=one.handled and not one.is_dead_letter)
            for name, one in self.options.items()
            if name in stored
        }
        return replace(self, options=options)


class Store:
    """An opened engine of which parts may be damaged or belong to another user: the rest can still be read.

    Attributes:
        engine: the engine.
        declared: what the service declares; None: the store is looked at without a service.
        refused: the errors of queues that cannot be opened, by name.
        failed: the errors of all failed reads, these included.
        notes: what a person should know of this store, one line each.
        roles: whether a queue is a dead-letter queue, where its first job has told.
    """

    def __init__(
        self, engine: OpenedEngine, declared: Declared | None = None, refused: Mapping[str, EngineError] | None = None
    ) -> None:
        self.engine = engine
        self.declared = declared
        self.refused = dict(refused or {})
        self.failed = list(self.refused.values())
        self.notes: list[str] = []
        self.roles: dict[str, bool] = {}
        self._others: list[str] | None = None

    def read(self, call: Callable[[], T], instead: T) -> T:
        """Return the result of a read, or `instead` if it fails."""
        try:
            return call()
        except EngineError as error:
            self.failed.append(error)
            return instead

    def each(self, items: Iterable[T]) -> Iterator[T]:
        """Yield the items of a read until it fails."""
        try:
            yield from items
        except EngineError as error:
            self.failed.append(error)

    # --- queues -----------------------------------------------------------------------------------------------------

    @property
    def own(self) -> list[str]:
        """Return the queues that the service declares and that could be opened, in the order of its declarations."""
        return [] if self.declared is None else [name for name in self.declared.options if name not in self.refused]

    def others(self) -> list[str]:
        """Return the other queues of the store, opened so that they can be read. Failures are noted in `failed`.

        With a service, those that another running service declares are left out: they are its own.
        """
        if self._others is None:
            self._others = self.undeclared(without=self._is_anothers)
        return self._others

    def undeclared(self, without: Callable[[str], bool] = lambda name: False) -> list[str]:
        """Return the queues of the store that the service does not declare, opened so that they can be read."""
        stored: Sequence[str] = self.read(lambda: list(self.engine.stored_queues()), [])
        known = () if self.declared is None else self.declared.options
        others = (name for name in stored if name not in known and not without(name))
        return [name for name in others if self.roles.get(name) or self._open(QueueOptions(name))]

    def _is_anothers(self, queue: str) -> bool:
        if self.declared is None:
            return False
        seen = self.read(partial(self.engine.last_seen, queue), None)
        return seen is not None and time.time() - seen < KEPT

    def names(self) -> list[str]:
        """Return the service's queues, then the others."""
        return [*self.own, *self.others()]

    def name(self, wanted: str) -> str:
        """Return the name of a queue of the store. Raises UsageError, with the nearest names: there is none."""
        if wanted not in self.names():
            if wanted in self.refused:
                raise self.refused[wanted]
            some = ", ".join(self.names()[:20]) or "none"
            raise UsageError(f"there is no queue {wanted[:100]!r} in the store: it has {some}")
        return wanted

    def holds_dead_letters(self, queue: str) -> bool:
        """Return whether a queue is a dead-letter queue: the service says so, or else its first job is a dead letter.

        Then it is opened as one, so that the engine shows its jobs as dead where no service handles them.
        """
        if self.declared is not None and queue in self.declared.options:
            return self.declared.options[queue].is_dead_letter
        if queue in self.roles:
            return self.roles[queue]
        first = (next(self.each(self.engine.browse(queue, state)), None) for state in WAITING)
        view = next((view for view in first if view is not None), None)
        if view is None:
            return False
        if not view.is_dead_letter or not view.job.history:  # without a history: a directory was renamed by hand
            self.roles[queue] = False
            return False
        self.roles[queue] = True
        return self._open(QueueOptions(queue, is_dead_letter=True, handled=False))

    def stats(self, queue: str) -> QueueStats:
        """Return the counts of a queue; all None where they cannot be read."""
        if queue in self.refused:
            return QueueStats()
        self.holds_dead_letters(queue)
        return self.read(lambda: self.engine.stats(queue), QueueStats())

    def _open(self, options: QueueSpec) -> bool:
        try:
            self.engine.open([options])
        except EngineError as error:
            self.refused[options.name] = error
            self.failed.append(error)
            return False
        return True


def refuse_memory(url: str) -> None:
    """Raise UsageError if the engine exists in one process only: this process would see none of its jobs."""
    if url.partition(":")[0] == "memory":
        raise UsageError(
            f"WORKER_ENGINE_URL={shown(url)} lives in one process, no other command or worker would "
            "see its jobs: set it to spool:DIR"
        )


def root_of(url: str) -> Path | None:
    """Return the directory of the files of trees on this engine, without creating it; None: there is none to read.

    Raises SettingsError: there is no such engine.
    """
    engine = open_engine(url, incarnation="look")
    return None if engine.features.durable == "nothing" else engine.local_dir


def is_missing(url: str, root: Path | None) -> bool:
    """Return whether a local engine's directory does not exist. Raises EngineError: this process cannot tell."""
    if root is None or not open_engine(url, incarnation="look").features.local:
        return False
    try:
        return not root.exists()
    except OSError as error:
        why = f"{error.strerror} for uid {os.geteuid()}"
        raise EngineError(f"spool {root}: {why}: run this as the workers' user, or set WORKER_ENGINE_URL") from error


def is_missing_at(url: str) -> bool:
    """Return whether a URL names a directory that does not exist; False also where it is wrong in another way."""
    try:
        return is_missing(url, root_of(url))
    except (SettingsError, EngineError):
        return False


@contextmanager
def opened(
    settings: Settings, app: type[WorkerApp] | None = None, *, url: str = "", create: bool = False, runs: bool = True
) -> Generator[Store, None, None]:
    """Open a store inside the block, for reading it and for the acts of people.

    A directory that does not exist is not created and counts as empty: a command under `sudo` in the wrong place would
    leave a spool there that no other user may use.

    Args:
        app: the service; None: only what lies in the store counts.
        url: of the store, instead of that of the settings.
        create: make a directory that does not exist.
        runs: this version of the service runs on the store, or did; False: the store does not hear of it.

    Raises:
        UsageError: the engine exists in one process only, or cannot be inspected. EngineError: it cannot be used.
        SettingsError: there is no such engine.
    """
    given, url = bool(url), url or settings.engine_url
    refuse_memory(url)
    root, missing = root_of(url), ""
    if not create and is_missing(url, root):
        where = "give the worker's own URL" if given else "set WORKER_ENGINE_URL as in the worker"
        missing = f"{root} does not exist yet: no job was ever enqueued there; {where}"
        url = "memory:"
    declared = None if app is None else Declared.of(app, settings)
    engine = open_engine(
        url,
        incarnation=f"c{secrets.token_hex(8)}",
        durability=settings.durability,
        network_file_system=settings.network_file_system,
    )
    try:
        if not isinstance(engine, Inspector):
            raise UsageError(f"WORKER_ENGINE_URL={shown(url)}: this engine cannot be looked into from the command line")
        store = _store_on(cast("OpenedEngine", engine), declared, runs)
        store.notes += [missing] * bool(missing)
        yield store
    finally:
        engine.close()


def _store_on(engine: OpenedEngine, declared: Declared | None, runs: bool) -> Store:
    """Open the queues of a service; return the store. Raises EngineError: none can be opened."""
    if declared is not None and not runs:
        engine.open([])
        declared = declared.only(engine.stored_queues())
    return Store(engine, declared, _open(engine, [] if declared is None else list(declared.options.values())))


def _open(engine: Engine, options: Sequence[QueueOptions]) -> dict[str, EngineError]:
    """Open the queues that can be opened; return the errors of the others, by name. Raises EngineError: none can."""
    try:
        engine.open(options)
        return {}
    except EngineError as error:
        refused: dict[str, EngineError] = {}
        for one in options:
            try:
                engine.open([one])
            except EngineError as reason:
                refused[one.name] = reason
        if len(refused) == len(options):
            raise error
        return refused
