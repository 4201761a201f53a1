"""The options of queues and pools as they apply: what is declared, changed by settings, with what the app knows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from framework.model.errors import SettingsError
from framework.model.limits import Breaker, Rate
from framework.model.options import PoolOptions, QueueOptions, in_pool, parse_size
from framework.model.retry import RetryPolicy
from framework.service.queues import DeadLetter, Pool, Queue
from framework.service.settings import PREFIX, PoolOverride, Settings

if TYPE_CHECKING:
    from framework.service.app import WorkerApp

Options = TypeVar("Options", QueueOptions, PoolOptions)


def resolve(queue: Queue[Any], settings: Settings | None, app: type[WorkerApp] | None = None) -> QueueOptions:
    """Return a queue's options. Raises SettingsError, which names the variable.

    A process that handles batches has room for a whole one.

    Args:
        settings: the settings that change them; None: they stay as declared.
        app: the service that declares the queue; None: a producer, which does not know whether a handler exists.
    """
    options = _resolved(queue, settings, app)
    handler = None if app is None else app.worker_handlers.get(queue.name)
    if handler is None or handler.batching is None:
        return options
    return replace(options, concurrency=max(options.concurrency, handler.batching.size))


def _resolved(queue: Queue[Any], settings: Settings | None, app: type[WorkerApp] | None) -> QueueOptions:
    options = replace(queue.options, attribute=queue.attribute, is_dead_letter=takes_dead_letters(queue, app))
    if app is not None:
        options = replace(options, handled=queue.name in app.worker_handlers, service=name_of(app))
    if settings is None:
        return options
    options = replace(options, full_errors=settings.payload_errors == "full", version=settings.version)
    if queue.pool is not None:
        options = in_pool(options, resolve_pool(queue.pool, settings))
    wanted = settings.queues.get(queue.attribute.lower())
    if wanted is None:
        return options
    variable = f"{PREFIX}QUEUES__{queue.attribute.upper()}"
    changes = wanted.model_dump(exclude_none=True)
    _check_pooled(variable, changes, queue.pool)
    return _changed(options, changes, variable)


def resolve_pool(pool: Pool, settings: Settings) -> PoolOptions:
    """Return a pool's options. Raises SettingsError, which names the variable."""
    options, wanted = replace(pool.options, attribute=pool.attribute), settings.pools.get(pool.attribute.lower())
    if wanted is None:
        return options
    return _changed(options, wanted.model_dump(exclude_none=True), f"{PREFIX}POOLS__{pool.attribute.upper()}")


def all_queues(app: type[WorkerApp]) -> dict[str, Queue[Any]]:
    """Return an app's queues by name, and dead-letter queues of other services, which only a `dead_letter=` names."""
    found = {queue.name: queue for queue in app.worker_queues.values()}
    for queue in list(found.values()):
        if queue.dead_letter is not None:
            found.setdefault(queue.dead_letter.name, queue.dead_letter)
    return found


def name_of(app: type[WorkerApp]) -> str:
    """Return the name under which a service is known to the store."""
    return f"{app.__module__}:{app.__qualname__}"


def takes_dead_letters(queue: Queue[Any], app: type[WorkerApp] | None) -> bool:
    """Return whether a queue's jobs are dead letters: its payload type says so, or a queue of the app names it."""
    others = app.worker_queues.values() if app is not None else ()
    named = (other.dead_letter.name for other in others if other.dead_letter is not None)
    return queue.payload_type is DeadLetter or queue.name in named


def _changed(options: Options, given: Mapping[str, Any], variable: str) -> Options:
    """Return the options with these values in place of their own. Raises SettingsError."""
    changes: dict[str, Any] = {name: None if value == "none" else value for name, value in given.items()}
    try:
        if "max_memory" in changes:
            changes["max_memory"] = parse_size(changes["max_memory"])
        if isinstance(options, QueueOptions) and "retry" in changes:
            changes["retry"] = _retry(options.retry, changes["retry"])
            changes["breaker"] = _breaker(options.breaker, changes["breaker"])
            if "rate" in changes:
                changes["rate"] = Rate.parse(changes["rate"])
        return replace(options, **changes)
    except ValueError as error:
        # The message begins with the option: `timeout=-1: …`.
        option = str(error).split("=")[0].split(" ")[0].upper()
        raise SettingsError(f"{variable}__{option}: {error}") from None


def _retry(policy: RetryPolicy, changes: Mapping[str, Any]) -> RetryPolicy:
    try:
        return RetryPolicy(**{**vars(policy), **changes})
    except ValueError as error:
        raise ValueError(f"retry__{error}") from None


def _breaker(breaker: Breaker | None, changes: Mapping[str, Any]) -> Breaker | None:
    """Return a breaker with these changes; they also give one to a queue that is declared without."""
    try:
        return breaker if not changes else (breaker or Breaker()).changed(changes)
    except ValueError as error:
        raise ValueError(f"breaker__{error}") from None


def _check_pooled(variable: str, changes: Mapping[str, Any], pool: Pool | None) -> None:
    """Raise SettingsError for an option that belongs to the pool, or that has an effect only in a pool."""
    if pool is None:
        if "weight" in changes:
            raise SettingsError(f"{variable}__WEIGHT: the queue is in no pool, where alone a weight counts")
        return
    for name in PoolOverride.model_fields:
        if name in changes:
            instead = f"{PREFIX}POOLS__{pool.attribute.upper()}__{name.upper()}"
            raise SettingsError(f"{variable}__{name.upper()}: pool {pool.name!r} serves the queue: set {instead}")
