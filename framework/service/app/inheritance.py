"""Checks for names that two base classes of a service use for different queues, pools or handlers.

Otherwise one would silently take the other's jobs. Authors of mixins do not know each other's names. Python takes the
first definition along the MRO: a class that inherits the other definition overrides it on purpose, a sibling does not.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from itertools import combinations
from typing import Any, TypeVar

from framework.model.errors import DeclarationError, location
from framework.service.app.callables import bare
from framework.service.queues import Pool, Queue

D = TypeVar("D", Queue[Any], Pool)


def marks_of(value: object) -> Sequence[Queue[Any]]:
    """Return the queues whose handler the method is declared to be."""
    found: Sequence[Queue[Any]] = getattr(value, "__worker_queues__", ())
    return found


def place_of_function(fn: Any) -> str:
    """Return `file.py:line` of a function."""
    return location(*position_of(fn))


def position_of(fn: Any) -> tuple[str, int]:
    """Return file and line of a function, also behind decorators."""
    fn = bare(fn)
    code = getattr(inspect.unwrap(fn) if callable(fn) else fn, "__code__", None)
    return (code.co_filename, code.co_firstlineno) if code else ("?", 0)


def declared(cls: type, kind: type[D]) -> dict[str, D]:
    """Return the class attributes of one kind, Queue or Pool, base classes first. Raises DeclarationError."""
    found: dict[str, D] = {}
    for base in reversed(cls.__mro__):
        for attribute, value in vars(base).items():
            if isinstance(value, kind):
                _check_attribute(cls, attribute)
                found[attribute] = value
            elif attribute in found:
                del found[attribute]
    return found


def _check_attribute(cls: type, attribute: str) -> None:
    """Raise DeclarationError if two sibling classes use one attribute for different queues or pools."""
    first, *others = (base for base in cls.__mro__ if attribute in vars(base))
    value = vars(first)[attribute]
    for other in others:
        found = vars(other)[attribute]
        if isinstance(found, (Queue, Pool)) and found is not value and not issubclass(first, other):
            what = f"{_what(value)} ({value.place})" if isinstance(value, (Queue, Pool)) else type(value).__name__
            raise DeclarationError(
                f"{found.place}: {cls.__name__}.{attribute} is both {first.__name__}.{attribute}, {what}, and "
                f"{other.__name__}.{attribute}, {_what(found)}: the second would be out of reach: rename one"
            )


def _what(declared: Queue[Any] | Pool) -> str:
    return f"{'queue' if isinstance(declared, Queue) else 'pool'} {declared.name!r}"


def check_method(cls: type, name: str, queues: Sequence[Queue[Any]]) -> None:
    """Raise DeclarationError if sibling classes handle different queues under one method name.

    An override without decorator handles the queues of the overridden method. One with decorators must name all of its
    queues.

    Args:
        queues: all queues whose handler has this name anywhere along the MRO.
    """
    classes = [base for base in cls.__mro__ if name in vars(base)]
    marked = [base for base in classes if marks_of(vars(base)[name])]
    for owner in marked:
        complete = set(map(id, queues)) <= set(map(id, marks_of(vars(owner)[name])))
        if complete and issubclass(classes[0], owner) and all(_related(owner, other) for other in marked):
            return
    one, other = next(pair for pair in combinations(dict.fromkeys((classes[0], *marked)), 2) if _conflict(*pair, name))
    place = place_of_function(vars(one)[name])
    if place.startswith("?"):  # not a function
        place = queues[0].place
    raise DeclarationError(
        f"{place}: {cls.__name__}.{name} is both {one.__name__}.{name}, {_role(one, name)}, and "
        f"{other.__name__}.{name} ({place_of_function(vars(other)[name])}), {_role(other, name)}: "
        "the first would take the jobs of the second: rename one"
    )


def _related(one: type, other: type) -> bool:
    return issubclass(one, other) or issubclass(other, one)


def _conflict(one: type, other: type, name: str) -> bool:
    """Return whether `one`, the first in the MRO, hides a method of `other` that it was not meant to override."""
    if not issubclass(one, other):
        return True
    mine, theirs = marks_of(vars(one)[name]), marks_of(vars(other)[name])
    return bool(mine) and not set(map(id, theirs)) <= set(map(id, mine))


def _role(owner: type, name: str) -> str:
    queues = marks_of(vars(owner)[name])
    return f"the handler of queue {', '.join(repr(queue.name) for queue in queues)}" if queues else "no handler"
