"""The options of each queue, resolved from declarations and settings, and all checks before a start."""

from __future__ import annotations

import _thread
import os
import re
import select
import signal
import subprocess
import time
from collections.abc import Mapping
from typing import Any

from framework.engine.declarations import Declaration, DeclaredQueue
from framework.engine.port import open_engine
from framework.model.errors import DeclarationError, SettingsError, UsageError
from framework.model.options import QueueOptions
from framework.runner.construct import try_constructor
from framework.service.app import WorkerApp, check_concurrency
from framework.service.codec import codec_for
from framework.service.options import all_queues, name_of, takes_dead_letters
from framework.service.options import resolve as resolve_queue
from framework.service.plans import plans_of
from framework.service.queues import Pool, Queue
from framework.service.settings import Settings, check_names, unknown_variables

# A replacement of any of these keeps the supervisor from noticing a death or a deadline.
_WAITING = ((os, "waitpid"), (os, "waitid"), (select, "poll"), (signal, "signal"), (time, "sleep"), (time, "monotonic"))
# Debuggers replace these too, which does no harm.
_STARTING = ((os, "fork"), (subprocess, "Popen"), (_thread, "start_new_thread"))
_OWN = ("posix", "os", "select", "signal", "_signal", "time", "_thread", "builtins")
_GREEN = ("gevent", "eventlet")
_LONGEST_MODEL = 200  # characters of the name of a payload type


def resolve(app: type[WorkerApp], settings: Settings) -> dict[str, QueueOptions]:
    """Return the options of all queues of an app, by name. Raises SettingsError, DeclarationError: which queue, and
    where."""
    check_names(settings, app.worker_queues, app.worker_pools)
    options = {name: resolve_queue(queue, settings, app) for name, queue in all_queues(app).items()}
    for queue in app.worker_queues.values():
        found = options[queue.name]
        if not found.is_dead_letter:
            _check_payload(queue)
        handler = app.worker_handlers.get(queue.name)
        if handler is not None:
            name = f"{app.__name__}.{queue.attribute}"
            check_concurrency(found.concurrency, is_async=handler.is_async, name=name, location=handler.location)
            if found.timeout is None and settings.drain_seconds is not None:
                raise SettingsError(
                    f"{queue.location}: {name} has timeout=None, but a drain ends after {settings.drain_seconds:g} s: "
                    "give it a timeout, or set WORKER_DRAIN=none"
                )
    plans_of(app.worker_queues.values(), options)
    return options


def _check_payload(queue: Queue[Any]) -> None:
    """Raise DeclarationError if the payload type cannot be used, before the first job needs it."""
    try:
        codec_for(queue.payload_type, queue=queue.name)
    except DeclarationError as error:
        raise DeclarationError(f"{queue.location}: {error}") from None


def declaration(app: type[WorkerApp], options: Mapping[str, QueueOptions]) -> Declaration:
    """Return what the store remembers of an app. Raises DeclarationError."""
    queues: dict[str, DeclaredQueue] = {}
    for name, queue in all_queues(app).items():
        queues[name] = DeclaredQueue()
        if not options[name].is_dead_letter:
            model = queue.payload_type
            queues[name] = DeclaredQueue(_model_name(model), codec_for(model, queue=name).fingerprint or "")
    version = next((one.version for one in options.values()), "")
    return Declaration(name_of(app), version, queues)


def _model_name(model: Any) -> str:
    """Return the name of a payload type with its module: the same in every process."""
    if isinstance(model, type) and not hasattr(model, "__args__"):
        return f"{model.__module__}.{model.__qualname__}"[:_LONGEST_MODEL]
    return re.sub(r" at 0x[0-9a-f]+", "", str(model))[:_LONGEST_MODEL]


def check(app: type[WorkerApp], settings: Settings) -> list[str]:
    """Check everything that can be found wrong without running; raise the first error, return the warnings."""
    refuse_patched(app)
    options = resolve(app, settings)
    open_engine(settings.engine_url, incarnation="check")  # checks its scheme and its options
    try_constructor(app, settings.ready_within)
    return remarks(app, options)


def remarks(app: type[WorkerApp], options: Mapping[str, QueueOptions]) -> list[str]:
    """Return warnings about what is not an error but may be a mistake."""
    warnings = [
        f"{queue.location}: queue {queue.name!r} has no handler here: jobs wait for another service"
        for queue in app.worker_queues.values()
        if queue.name not in app.worker_handlers and not takes_dead_letters(queue, app)
    ]
    warnings += [
        f"{pool.location}: pool {pool.name!r} serves nothing: no queue with a handler here has pool={pool.attribute}"
        for pool in app.worker_pools.values()
        if all(handler.queue.pool is not pool for handler in app.worker_handlers.values())
    ]
    kinds = {handler.is_async for handler in app.worker_handlers.values()}
    if kinds == {False} and app.around is WorkerApp.around and app.aaround is not WorkerApp.aaround:
        warnings.append(
            f"{app.__name__}.aaround is never called: no handler here is async; write around, under @contextmanager"
        )
    idle = [handler.queue for handler in app.worker_handlers.values() if not options[handler.queue.name].workers]
    whose = {queue.pool or queue: None for queue in idle}  # each pool once, however many queues it serves
    warnings += [
        f"{one.location}: {_kind(one)} {one.name!r} has workers=0: its jobs wait for another service" for one in whose
    ]
    return warnings + unknown_variables()


def _kind(one: Pool | Queue[Any]) -> str:
    return "pool" if isinstance(one, Pool) else "queue"


def refuse_patched(app: type[WorkerApp]) -> None:
    """Raise UsageError if an import of the service has replaced a call that the supervisor needs."""
    by: dict[str, list[str]] = {}
    for module, name in (*_WAITING, *_STARTING):
        owner = _owner(module, name)
        if owner in _GREEN or (owner not in _OWN and (module, name) in _WAITING):
            by.setdefault(owner, []).append(f"{module.__name__.strip('_')}.{name}")
    if by:
        owner, names = max(by.items(), key=lambda item: len(item[1]))
        raise UsageError(
            f"{app.__name__} is patched by {owner} ({', '.join(names)}): a supervisor needs the system's own, or it "
            "never sees a process die. Import the service without the patch, and use async handlers"
        )


def _owner(module: object, name: str) -> str:
    """Return the top package of what a name refers to. A call that this system lacks counts as the system's own."""
    found = getattr(module, name, os.fork)
    return str(getattr(found, "__module__", None) or type(found).__module__).partition(".")[0]
