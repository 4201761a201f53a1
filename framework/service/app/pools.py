"""The pools that a service declares, and the checks that its queues and handlers fit them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from framework.model.errors import DeclarationError
from framework.service.app.inheritance import declared
from framework.service.queues import Pool, Queue


class Handling(Protocol):
    """The facts about a handler that the checks need."""

    @property
    def queue(self) -> Queue[Any]: ...
    @property
    def name(self) -> str: ...
    @property
    def is_async(self) -> bool: ...
    @property
    def place(self) -> str: ...


def collect_pools(cls: type, queues: Mapping[str, Queue[Any]]) -> dict[str, Pool]:
    """Return the pools of a class by attribute, base classes first. Raises DeclarationError.

    Args:
        queues: the queues of the class, by attribute.
    """
    pools = declared(cls, Pool)
    _check_names(cls, pools, queues)
    for attribute, queue in queues.items():
        if queue.pool is not None and all(queue.pool is not pool for pool in pools.values()):
            hiding = pools.get(queue.pool.attribute)
            if hiding is not None:
                raise DeclarationError(
                    f"{hiding.place}: {cls.__name__}.{hiding.attribute} hides the pool ({queue.pool.place}) of "
                    f"{cls.__name__}.{attribute}: give it another name, or change that pool where it is declared"
                )
            raise DeclarationError(
                f"{queue.place}: {cls.__name__}.{attribute}: its pool {queue.pool.name!r} ({queue.pool.place}) is "
                f"neither declared nor inherited by {cls.__name__}: make it a class attribute there"
            )
    return pools


def _check_names(cls: type, pools: Mapping[str, Pool], queues: Mapping[str, Queue[Any]]) -> None:
    """Raise DeclarationError for two equal names: pools and queues without a pool name processes."""
    by_name: dict[str, tuple[str, Pool]] = {}
    queue_named = {queue.name: (attribute, queue) for attribute, queue in queues.items()}
    for attribute, pool in pools.items():
        other = by_name.setdefault(pool.name, (attribute, pool))
        if other[1] is not pool:
            raise DeclarationError(
                f"{pool.place}: {cls.__name__}.{attribute} and {cls.__name__}.{other[0]} ({other[1].place}) are both "
                f"pools named {pool.name!r}: give one another name"
            )
        if pool.name in queue_named:
            its, queue = queue_named[pool.name]
            raise DeclarationError(
                f"{pool.place}: pool {cls.__name__}.{attribute} and queue {cls.__name__}.{its} ({queue.place}) are "
                f"both named {pool.name!r}: give one another name"
            )


def check_kinds(handlers: Iterable[Handling]) -> None:
    """Raise DeclarationError for sync and async handlers in one pool; the message names one handler of each kind.

    A process either runs its jobs on an event loop or does not.
    """
    first: dict[int, Handling] = {}
    for handler in handlers:
        pool = handler.queue.pool
        if pool is None:
            continue
        other = first.setdefault(id(pool), handler)
        if other.is_async != handler.is_async:
            kinds = {True: "async", False: "sync"}
            raise DeclarationError(
                f"{handler.place}: {handler.name}, the handler of queue {handler.queue.name!r}, is "
                f"{kinds[handler.is_async]}, and {other.name} ({other.place}) of queue {other.queue.name!r} is "
                f"{kinds[other.is_async]}: both are in pool {pool.name!r}: make a pool for each kind"
            )
