"""The parts of a service that commands use: its app, settings, queues and engine."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.machinery import PathFinder
from typing import Any

from framework.admin import store
from framework.admin.store import Store
from framework.cli.output import hear_warnings, warn
from framework.engine.port import JobView
from framework.model.errors import SettingsError, UsageError
from framework.model.options import QueueOptions
from framework.service.app import WorkerApp
from framework.service.loading import load_app
from framework.service.options import all_queues, resolve
from framework.service.queues import Queue
from framework.service.settings import Settings, check_names, load_settings
from framework.telemetry import environment

MODULE_HELP = "MODULE is the service's module, or module:Name. It may be left out where WORKER_MODULE is set."

_VARIABLE = "WORKER_ENGINE_URL"  # how an error of the URL begins


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
    """An opened store for a command, which prints what cannot be read of it and shows the rest."""

    def __init__(self, service: Service | None, store: Store) -> None:
        self.store = store
        self.engine, self.refused, self.failed = store.engine, store.refused, store.failed
        self.read, self.each = store.read, store.each
        self.service = service

    @property
    def queues(self) -> list[Queue[Any]]:
        """Return the service's queues that the engine has opened."""
        found = [] if self.service is None else self.service.queues
        return [queue for queue in found if queue.name not in self.refused]

    def change(
        self, views: Iterable[JobView], verb: Callable[[JobView], str], *, name: Callable[[JobView], str]
    ) -> int:
        """Move or delete each of these, and warn of each that stays, by its name. Return how many are done.

        Args:
            verb: returns why it stays; empty: it is done.
        """
        count = 0
        for view in views:
            if why := verb(view):
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


def is_module_name(text: str) -> bool:
    """Return whether a text could name a module, or module:Name."""
    return all(part.isidentifier() for part in text.partition(":")[0].split("."))


def is_module(text: str) -> bool:
    """Return whether a text names a module that is there, as far as its first part tells."""
    if not is_module_name(text):
        return False
    name = text.partition(":")[0]
    return PathFinder.find_spec(name.split(".")[0], [os.getcwd(), *sys.path]) is not None


def _shortened(text: str) -> str:
    return repr(text if len(text) <= 100 else text[:100] + "…")


def refuse_memory(settings: Settings) -> None:
    """Raise UsageError if the engine exists in one process only: its jobs would end with this command."""
    store.refuse_memory(settings.engine_url)


@contextmanager
def opened(service: Service, *, create: bool = False) -> Generator[Look, None, None]:
    """Open the service's store inside the block, to read it and to act on jobs. See `admin.store.opened`."""
    hear_warnings()
    with store.opened(service.settings, service.app, create=create) as found:
        for note in found.notes:
            warn(note)
        yield Look(service, found)


@contextmanager
def opened_at(
    url: str, service: Service | None = None, *, runs: bool = True, option: str = "--url"
) -> Generator[Look, None, None]:
    """Open the store at a URL inside the block, or that of the settings, with a service or without one.

    See `admin.store.opened`. An error of the URL names the option that it comes from.
    """
    settings = load_settings() if service is None else service.settings
    hear_warnings()
    try:
        with store.opened(settings, None if service is None else service.app, url=url, runs=runs) as found:
            for note in found.notes:
                warn(note)
            yield Look(service, found)
    except (SettingsError, UsageError) as error:
        if not url or not str(error).startswith(_VARIABLE):
            raise
        raise UsageError(option + str(error).removeprefix(_VARIABLE)) from error
