"""The queues and pools of a service by attribute, and the checks of their names.

Two base classes may use one name for different queues or pools: then one would silently hide the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from framework.model.errors import DeclarationError
from framework.service.app.handlers import Handler
from framework.service.queues import DeadLetter, Pool, Queue

D = TypeVar("D", Queue[Any], Pool)


def collect_queues(cls: type) -> dict[str, Queue[Any]]:
    """Return the queues of a class by attribute, base classes first. Raises DeclarationError."""
    queues: dict[str, Queue[Any]] = _declared(cls, Queue)
    for attribute, queue in queues.items():
        _check_dead_letter(cls, attribute, queue)
    return queues


def _check_dead_letter(cls: type, attribute: str, queue: Queue[Any]) -> None:
    target = queue.dead_letter
    where = f"{queue.location}: {cls.__name__}.{attribute}"
    if queue.payload_type is DeadLetter and target is not None:
        raise DeclarationError(f"{where} carries dead letters and has a dead_letter of its own: a loop; remove it")
    if queue.payload_type is DeadLetter and queue.group is not None:
        raise DeclarationError(f"{where} carries dead letters, which come by themselves: remove group")
    if target is None:
        return
    if target is queue:
        raise DeclarationError(f"{where} is its own dead_letter: a loop; remove it")
    if target.payload_type is not DeadLetter:
        raise DeclarationError(f'{where}: its dead_letter must be a Queue[DeadLetter]("{target.name}")')


def collect_pools(cls: type, queues: Mapping[str, Queue[Any]]) -> dict[str, Pool]:
    """Return the pools of a class by attribute, base classes first. Raises DeclarationError.

    Args:
        queues: the queues of the class, by attribute.
    """
    pools: dict[str, Pool] = _declared(cls, Pool)
    queue_named = {queue.name: (attribute, queue) for attribute, queue in queues.items()}
    for attribute, pool in pools.items():  # both name processes
        if pool.name in queue_named:
            its, queue = queue_named[pool.name]
            raise DeclarationError(
                f"{pool.location}: pool {cls.__name__}.{attribute} and queue {cls.__name__}.{its} ({queue.location}) "
                f"are both named {pool.name!r}: give one another name"
            )
    for attribute, queue in queues.items():
        if queue.pool is not None and all(queue.pool is not pool for pool in pools.values()):
            hiding = pools.get(queue.pool.attribute)
            if hiding is not None:
                raise DeclarationError(
                    f"{hiding.location}: {cls.__name__}.{hiding.attribute} hides the pool ({queue.pool.location}) of "
                    f"{cls.__name__}.{attribute}: give it another name, or change that pool where it is declared"
                )
            raise DeclarationError(
                f"{queue.location}: {cls.__name__}.{attribute}: its pool {queue.pool.name!r} ({queue.pool.location}) "
                f"is neither declared nor inherited by {cls.__name__}: make it a class attribute there"
            )
    return pools


def check_kinds(handlers: Iterable[Handler]) -> None:
    """Raise DeclarationError for sync and async handlers in one pool; the message names one handler of each kind.

    A process either runs its jobs on an event loop or does not.
    """
    first: dict[int, Handler] = {}
    for handler in handlers:
        pool = handler.queue.pool
        if pool is None:
            continue
        other = first.setdefault(id(pool), handler)
        if other.is_async != handler.is_async:
            kinds = {True: "async", False: "sync"}
            raise DeclarationError(
                f"{handler.location}: {handler.name}, the handler of queue {handler.queue.name!r}, is "
                f"{kinds[handler.is_async]}, and {other.name} ({other.location}) of queue {other.queue.name!r} is "
                f"{kinds[other.is_async]}: both are in pool {pool.name!r}: make a pool for each kind"
            )


def _declared(cls: type, kind: type[D]) -> dict[str, D]:
    """Return the class attributes of one kind, Queue or Pool, base classes first. Raises DeclarationError."""
    found: dict[str, D] = {}
    for base in reversed(cls.__mro__):
        for attribute, value in vars(base).items():
            if isinstance(value, kind):
                _check_attribute(cls, attribute)
                found[attribute] = value
            elif attribute in found:
                del found[attribute]
    by_name: dict[str, tuple[str, D]] = {}
    for attribute, one in found.items():
        if isinstance(one, Queue):
            _ = one.payload_type  # raises if there is none
        other = by_name.setdefault(one.name, (attribute, one))
        if other[1] is not one:
            pools = "pools " if isinstance(one, Pool) else ""
            raise DeclarationError(
                f"{one.location}: {cls.__name__}.{attribute} and {cls.__name__}.{other[0]} ({other[1].location}) are "
                f"both {pools}named {one.name!r}: give one another name"
            )
    return found


def _check_attribute(cls: type, attribute: str) -> None:
    """Raise DeclarationError if two sibling classes use one attribute for different queues or pools."""
    first, *others = (base for base in cls.__mro__ if attribute in vars(base))
    value = vars(first)[attribute]
    for other in others:
        found = vars(other)[attribute]
        if isinstance(found, (Queue, Pool)) and found is not value and not issubclass(first, other):
            what = f"{_what(value)} ({value.location})" if isinstance(value, (Queue, Pool)) else type(value).__name__
            raise DeclarationError(
                f"{found.location}: {cls.__name__}.{attribute} is both {first.__name__}.{attribute}, {what}, and "
                f"{other.__name__}.{attribute}, {_what(found)}: the second would be out of reach: rename one"
            )


def _what(declared: Queue[Any] | Pool) -> str:
    return f"{'queue' if isinstance(declared, Queue) else 'pool'} {declared.name!r}"
