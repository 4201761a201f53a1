"""The options of each queue, resolved from declarations and settings, and all checks before a start."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from framework.engine.port import open_engine
from framework.model.errors import DeclarationError, SettingsError
from framework.model.options import QueueOptions
from framework.runner.construct import try_constructor
from framework.runner.patched import refuse_patched
from framework.service.app import WorkerApp, check_concurrency
from framework.service.codec import codec_for
from framework.service.options import all_queues, takes_dead_letters
from framework.service.options import resolve as resolve_queue
from framework.service.plans import plans_of
from framework.service.queues import Pool, Queue
from framework.service.settings import Settings, check_names, unknown_variables


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
    idle = [handler.queue for handler in app.worker_handlers.values() if not options[handler.queue.name].workers]
    whose = {queue.pool or queue: None for queue in idle}  # each pool once, however many queues it serves
    warnings += [
        f"{one.location}: {_kind(one)} {one.name!r} has workers=0: its jobs wait for another service" for one in whose
    ]
    return warnings + unknown_variables()


def _kind(one: Pool | Queue[Any]) -> str:
    return "pool" if isinstance(one, Pool) else "queue"
