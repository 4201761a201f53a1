"""The parts of a service that commands use: its app, settings, queues and engine."""

from __future__ import annotations

import difflib
import os
import secrets
import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

from framework.cli.output import hear_warnings, warn
from framework.engine.port import Engine, Inspector, JobView, QueueStats, open_engine, shown
from framework.model.errors import EngineError, EngineUnavailable, UsageError
from framework.model.options import QueueOptions
from framework.service.app import WorkerApp
from framework.service.loading import load_app
from framework.service.options import all_queues, resolve
from framework.service.queues import Queue
from framework.service.settings import Settings, check_names, load_settings
from framework.telemetry import environment

MODULE_HELP = "MODULE is the service's module, or module:Name. It may be left out where WORKER_MODULE is set."

T = TypeVar("T")


class OpenedEngine(Engine, Inspector, Protocol):
    """An engine that commands can inspect; every engine so far is one."""


@dataclass(frozen=True)
class Service:
    """An app with the settings of this process."""

    app: type[WorkerApp]
    settings: Settings

    @property
    def queues(self) -> list[Queue[Any]]:
        """Return the app's queues, and dead-letter queues that only a `dead_letter=` of one of them names."""
        return list(all_queues(self.app).values())

    def queue(self, wanted: str) -> Queue[Any]:
        """Return the queue of this name or attribute. Raises UsageError, with the nearest name and the list."""
        for queue in self.queues:
            if wanted == queue.name:
                return queue
        for queue in self.queues:
            if wanted == queue.attribute:
                return queue
        for pool in self.app.worker_pools.values():
            if wanted in (pool.name, pool.attribute):
                its = ", ".join(queue.name for queue in self.queues if queue.pool is pool)
                raise UsageError(f"{pool.name!r} is a pool, not a queue: name its queues ({its or 'it has none'})")
        names = [queue.name for queue in self.queues]
        near = difflib.get_close_matches(wanted[:100].lower(), names, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        has = f"it has {', '.join(names)}" if names else "it declares none"
        raise UsageError(f"{self.app.__name__} has no queue {_shortened(wanted)}{hint} ({has})")

    def options(self) -> list[QueueOptions]:
        """Return the options of all queues. Raises SettingsError."""
        return [resolve(queue, self.settings, self.app) for queue in self.queues]


class Look:
    """An opened engine for a command that reads a store of which parts may be damaged or belong to another user.

    The rest is still shown.

    Attributes:
        refused: the errors of queues that cannot be opened, by name.
        failed: the errors of all failed reads, these included.
    """

    def __init__(self, service: Service, engine: OpenedEngine, refused: Mapping[str, EngineError]) -> None:
        self.service, self.engine, self.refused = service, engine, refused
        self.failed = list(refused.values())

    @property
    def queues(self) -> list[Queue[Any]]:
        """Return the service's queues that the engine has opened."""
        return [queue for queue in self.service.queues if queue.name not in self.refused]

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

    def undeclared(self) -> dict[str, QueueStats]:
        """Open the queues in the store that no running service declares, so that they can be read; return them."""
        found = dict(self.engine.undeclared())
        self.engine.open([QueueOptions(name) for name in found])
        return found

    def change(
        self, views: Iterable[JobView], verb: Callable[[JobView], str], *, name: Callable[[JobView], str]
    ) -> int:
        """Move or delete each of these, and warn of each that stays, by its name. Return how many are done.

        Args:
            verb: returns why it stays; empty: it is done.
        """
        count = 0
        for view in views:
            try:
                why = verb(view)
            except EngineUnavailable as error:  # for this one only: the others may succeed; a command tries once
                why = f"stays: {str(error).removesuffix(': tried again')}"
            if why:
                warn(f"{name(view)} {why}")
            count += not why
        return count

    def say(self) -> int:
        """Warn of each failure once; return the command's exit code."""
        for text in dict.fromkeys(str(error).removesuffix(": tried again") for error in self.failed):
            warn(text)
        return 1 if self.failed else 0


def load_service(module: str) -> Service:
    """Import the service. Raises WorkerError: it is not found or broken, or its settings are wrong."""
    settings = load_settings()
    environment.settle()  # the service may import code that reads an impossible variable
    try:
        app = load_app(module)
    except SystemExit as error:
        raise UsageError(f"{module} cannot be imported: it calls sys.exit({error.code!r})") from error
    check_names(settings, app.worker_queues, app.worker_pools)
    return Service(app, settings)


def take(given: Sequence[str], *wanted: str) -> list[str]:
    """Return MODULE and the wanted arguments; a missing MODULE comes from WORKER_MODULE. Raises UsageError."""
    module = os.environ.get("WORKER_MODULE", "")
    if len(given) == len(wanted) + 1:
        return list(given)
    if len(given) == len(wanted) and module:
        return [module, *given]
    expected = " ".join(("MODULE", *wanted))
    hint = "" if module or len(given) > len(wanted) else "; MODULE comes first, or set WORKER_MODULE"
    raise UsageError(f"expected {expected}, got {len(given) or 'no'} argument{'s' * (len(given) != 1)}{hint}")


def take_some(given: Sequence[str]) -> tuple[str, list[str]]:
    """Return MODULE and any number of other arguments. Raises UsageError.

    With WORKER_MODULE set, the first argument is MODULE only if there is such a module.
    """
    module = os.environ.get("WORKER_MODULE", "")
    if given and (not module or given[0] == module or _is_module(given[0])):
        return given[0], list(given[1:])
    if not module:
        raise UsageError("MODULE is missing: name it first, or set WORKER_MODULE")
    return module, list(given)


def _is_module(text: str) -> bool:
    name = text.partition(":")[0]
    if not all(part.isidentifier() for part in name.split(".")):
        return False
    return PathFinder.find_spec(name.split(".")[0], [os.getcwd(), *sys.path]) is not None


def _shortened(text: str) -> str:
    return repr(text if len(text) <= 100 else text[:100] + "…")


def refuse_memory(settings: Settings) -> None:
    """Raise UsageError if the engine exists in one process only: its jobs would end with this command."""
    if settings.engine_url.partition(":")[0] == "memory":
        raise UsageError(
            f"WORKER_ENGINE_URL={shown(settings.engine_url)} lives in one process, no other command or worker would "
            "see its jobs: set it to spool:DIR"
        )


def root_of(settings: Settings) -> Path | None:
    """Return the directory of the files of trees on this engine, without creating it; None: there is none to read.

    Raises SettingsError: there is no such engine.
    """
    engine = open_engine(settings.engine_url, incarnation="look")
    return None if engine.features.durable == "nothing" else engine.local_dir


def is_missing(settings: Settings, root: Path | None) -> bool:
    """Return whether a local engine's directory does not exist. Raises EngineError: this process cannot tell."""
    if root is None or not open_engine(settings.engine_url, incarnation="look").features.local:
        return False
    try:
        return not root.exists()
    except OSError as error:
        why = f"{error.strerror} for uid {os.geteuid()}"
        raise EngineError(f"spool {root}: {why}: run this as the workers' user, or set WORKER_ENGINE_URL") from error


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


@contextmanager
def opened(service: Service, *, create: bool = False) -> Generator[Look, None, None]:
    """Open the engine inside the block, for reading it and for work on dead letters.

    A directory that does not exist is not created and counts as empty: a command under `sudo` in the wrong place would
    leave a spool there that no other user may use.

    Args:
        create: make a directory that does not exist.

    Raises:
        UsageError: the engine exists in one process only, or cannot be inspected. EngineError: it cannot be used.
    """
    refuse_memory(service.settings)
    hear_warnings()
    url, root = service.settings.engine_url, root_of(service.settings)
    if not create and is_missing(service.settings, root):
        warn(f"{root} does not exist yet: no job was ever enqueued there; set WORKER_ENGINE_URL as in the worker")
        url = "memory:"
    engine = open_engine(
        url,
        incarnation=f"c{secrets.token_hex(8)}",
        durability=service.settings.durability,
        network_file_system=service.settings.network_file_system,
    )
    try:
        refused = _open(engine, service.options())
        if not isinstance(engine, Inspector):
            raise UsageError(f"WORKER_ENGINE_URL={shown(url)}: this engine cannot be looked into from the command line")
        yield Look(service, cast("OpenedEngine", engine), refused)
    finally:
        engine.close()
