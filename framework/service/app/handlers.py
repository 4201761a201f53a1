"""The handlers of a service: which method handles which queue, and what a handler must be like.

Otherwise a handler of one mixin would silently take the jobs of another's. Authors of mixins do not know each other's
names. Python takes the first definition along the MRO: a class that inherits the other definition overrides it on
purpose, a sibling does not.
"""

from __future__ import annotations

import contextlib
import inspect
import typing
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial, partialmethod
from itertools import combinations
from types import SimpleNamespace, UnionType
from typing import Any

from framework.model import errors
from framework.model.errors import DeclarationError
from framework.service.batching import Batching, Item
from framework.service.queues import Queue

MOST_THREADS = 256  # in which a process may run the jobs of a sync handler; they share one interpreter


@dataclass(frozen=True, slots=True)
class Handler:
    """A queue's handler as declared: the method's name (a subclass may override it), and its kind of callable.

    `batching`: it handles batches of jobs; None: one job at a time.
    """

    queue: Queue[Any]
    name: str
    is_async: bool
    takes_context: bool
    location: str
    batching: Batching | None = None


def collect_handlers(cls: type, base: type, known: Iterable[Queue[Any]]) -> dict[str, Handler]:
    """Return the handlers by queue name. Names are resolved along the MRO, so an override in a subclass is the handler.

    Raises DeclarationError.

    Args:
        base: the base class of services, whose names no handler may take.
        known: the queues of the class.
    """
    marks: dict[str, list[Queue[Any]]] = {}
    for parent in cls.__mro__:
        for name, value in vars(parent).items():
            _refuse_plain(cls, name, value)
            for queue in marks_of(value):
                if queue not in marks.setdefault(name, []):
                    marks[name].append(queue)
    for name, queues in marks.items():
        check_method(cls, name, queues)
    ids = {id(queue) for queue in known}
    handlers: dict[str, Handler] = {}
    for name, queues in sorted(marks.items(), key=lambda item: position_of(getattr(cls, item[0]))):
        for queue in queues:
            fn = inspect.unwrap(getattr(cls, name))
            location = location_of(fn)
            if id(queue) not in ids:
                raise DeclarationError(
                    f"{location}: {cls.__name__}.{name} handles queue {queue.name!r}, which {cls.__name__} neither "
                    "declares nor inherits"
                )
            if queue.name in handlers:
                first = handlers[queue.name]
                raise DeclarationError(
                    f"{location}: queue {queue.name!r} has two handlers, "
                    f"{first.name} ({first.location}) and {name}: remove one"
                )
            handlers[queue.name] = _handler(cls, base, queue, name, fn, location)
    return handlers


def _refuse_plain(cls: type, name: str, value: object) -> None:
    """Raise DeclarationError for a handler that is a staticmethod or classmethod.

    It would not be found, and its jobs would wait for ever.
    """
    if not isinstance(value, (staticmethod, classmethod)):
        return
    if hasattr(value, "__worker_queues__") or hasattr(value.__func__, "__worker_queues__"):
        kind = type(value).__name__
        location = location_of(value.__func__)
        raise DeclarationError(
            f"{location}: {cls.__name__}.{name} is a {kind}: a handler is a plain method, remove @{kind}"
        )


def _handler(cls: type, base: type, queue: Queue[Any], name: str, fn: Any, location: str) -> Handler:
    where = f"{location}: {cls.__name__}.{name}"
    if not inspect.isroutine(fn):
        raise DeclarationError(
            f"{queue.location}: {cls.__name__}.{name}, the handler of queue {queue.name!r}, is no method any more: "
            f"it was overridden by {type(fn).__name__}"
        )
    if hasattr(base, name):
        raise DeclarationError(
            f"{where} handles queue {queue.name!r}, but takes the name of {base.__name__}.{name}: rename it"
        )
    batching = _batching(cls, queue, name)
    parameters = _parameters(fn, getattr(cls, name), where, batching)
    is_async = _check_outermost(cls, queue, name, fn, where)
    if batching is not None and queue.pool is not None:
        raise DeclarationError(f"{where} handles batches of queue {queue.name!r}, which is in a pool: remove its pool=")
    if batching is not None and queue.options.timeout is not None and batching.wait >= queue.options.timeout:
        timeout = queue.options.timeout
        raise DeclarationError(
            f"{where} waits {batching.wait:g} s for a batch: must be below its timeout of {timeout:g} s"
        )
    concurrency = max(queue.options.concurrency, batching.size if batching is not None else 1)
    check_concurrency(concurrency, is_async=is_async, name=queue.attribute or queue.name, location=location)
    _check_payload(cls, queue, name, fn, parameters[1], location, batching)
    return Handler(queue, name, is_async, batching is not None or len(parameters) == 3, location, batching)


def _batching(cls: type, queue: Queue[Any], name: str) -> Batching | None:
    """Return how a method batches the jobs of a queue; an override without decorator does it as the overridden one."""
    marked = (vars(base).get(name) for base in cls.__mro__)
    found: list[dict[int, Batching | None]] = [getattr(value, "__worker_batches__", {}) for value in marked]
    return next((batches[id(queue)] for batches in found if id(queue) in batches), None)


def _parameters(fn: Any, outermost: Any, where: str, batching: Batching | None) -> list[str]:
    """Return the names of a handler's positional parameters, beneath all decorators. Raises DeclarationError."""
    try:
        found = inspect.signature(fn).parameters.values()
    except (TypeError, ValueError):
        raise DeclarationError(f"{where} is an object of {type(fn).__name__}: a handler is a plain method") from None
    names = [p.name for p in found if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    # A decorator may supply a required keyword-only argument; nothing supplies it to the outermost callable.
    missing = outermost is fn and any(p.kind is p.KEYWORD_ONLY and p.default is p.empty for p in found)
    if batching is not None and (len(names) != 2 or missing):
        raise DeclarationError(f"{where} handles batches: it must take (self, items)")
    if len(names) not in (2, 3) or missing:
        raise DeclarationError(f"{where} must take (self, payload) or (self, payload, ctx)")
    return names


def _check_outermost(cls: type, queue: Queue[Any], name: str, fn: Any, where: str) -> bool:
    """Return whether calling the handler returns a coroutine; the outermost decorator decides, whatever it wraps.

    Raises DeclarationError.
    """
    raw, seen = inspect.getattr_static(cls, name), getattr(cls, name)
    if not hasattr(type(raw), "__get__"):
        raise DeclarationError(
            f"{where} is an object of {type(raw).__name__}, to which Python passes no self: let the decorator return a "
            "function, or give its class a __get__"
        )
    if any(inspect.isgeneratorfunction(each) or inspect.isasyncgenfunction(each) for each in (bare(raw), bare(seen))):
        raise DeclarationError(f"{where} is a generator: a handler returns, it does not yield")
    is_async = gives_coroutine(raw) or gives_coroutine(seen)
    if not is_async and inspect.iscoroutinefunction(fn) and queue.options.concurrency > 1:
        raise DeclarationError(
            f"{where} is async def, but a decorator around it is not: make the decorator's function an async def that "
            "awaits it, or remove concurrency"
        )
    return is_async


def check_concurrency(concurrency: int, *, is_async: bool, name: str, location: str) -> None:
    """Raise DeclarationError if a sync handler, whose jobs run in a thread each, needs more threads than a process may
    have."""
    if concurrency > MOST_THREADS and not is_async:
        raise DeclarationError(
            f"{location}: {name} is sync and runs each job in a thread: concurrency={concurrency} must be at most "
            f"{MOST_THREADS}; raise workers instead"
        )


def _check_payload(
    cls: type, queue: Queue[Any], name: str, fn: Any, parameter: str, location: str, batching: Batching | None
) -> None:
    try:
        # Only that parameter: others may name types that are imported for type checkers only.
        annotation = inspect.get_annotations(fn).get(parameter, Any)
        holder = SimpleNamespace(__annotations__={parameter: annotation})
        wanted = typing.get_type_hints(holder, globalns=fn.__globals__)[parameter]
    except Exception:  # a forward reference that is not defined yet: only the type checker can resolve it
        return
    carried = queue.payload_type if batching is None else Sequence[Item[queue.payload_type]]  # type: ignore[name-defined]
    if not _accepts(wanted, carried):
        raise DeclarationError(
            f"{location}: {cls.__name__}.{name} takes {_type_name(wanted)}, "
            f"but queue {queue.name!r} carries {_type_name(carried)}"
        )


def _accepts(wanted: Any, carried: Any) -> bool:
    """Return whether a parameter of type `wanted` accepts a `carried`; True in doubt: the type checker is stricter."""
    wanted, carried = _bare(wanted), _bare(carried)
    if carried is Any or wanted in (Any, object, carried):
        return True
    options, parts = _members(wanted), _members(carried)
    if len(options) > 1 or len(parts) > 1:
        return all(any(_accepts(option, part) for option in options) for part in parts)
    base, given = (typing.get_origin(hint) or hint for hint in (wanted, carried))
    if not (isinstance(base, type) and isinstance(given, type)):
        return True
    try:
        return issubclass(given, base) or (base is float and given is int)
    except TypeError:  # a protocol that isinstance() cannot check
        return True


def _bare(hint: Any) -> Any:
    """Return the type behind Annotated and NewType."""
    while True:
        if typing.get_origin(hint) is typing.Annotated:
            hint = typing.get_args(hint)[0]
        elif isinstance(hint, typing.NewType):
            hint = hint.__supertype__
        else:
            return hint


def _members(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, UnionType) else (hint,)


def _type_name(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint)


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
    location = location_of(vars(one)[name])
    if location.startswith("?"):  # not a function
        location = queues[0].location
    raise DeclarationError(
        f"{location}: {cls.__name__}.{name} is both {one.__name__}.{name}, {_role(one, name)}, and "
        f"{other.__name__}.{name} ({location_of(vars(other)[name])}), {_role(other, name)}: "
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


def marks_of(value: object) -> Sequence[Queue[Any]]:
    """Return the queues whose handler the method is declared to be."""
    found: Sequence[Queue[Any]] = getattr(value, "__worker_queues__", ())
    return found


def location_of(fn: Any) -> str:
    """Return `file.py:line` of a function."""
    return errors.location(*position_of(fn))


def position_of(fn: Any) -> tuple[str, int]:
    """Return file and line of a function, also behind decorators."""
    fn = bare(fn)
    code = getattr(inspect.unwrap(fn) if callable(fn) else fn, "__code__", None)
    return (code.co_filename, code.co_firstlineno) if code else ("?", 0)


def bare(fn: Any) -> Any:
    """Return the function behind partials and partialmethods."""
    while True:
        if isinstance(fn, (partial, partialmethod)):
            fn = fn.func
        elif (method := getattr(fn, "_partialmethod", None) or getattr(fn, "__partialmethod__", None)) is not None:
            fn = method  # a partialmethod that was looked up in its class
        else:
            return fn


def gives_coroutine(fn: Any) -> bool:
    """Return whether calling it returns a coroutine, by its own code and not by what it wraps."""
    fn = bare(fn)
    if any(getattr(fn, mark, None) is not None for mark in ("_is_coroutine", "_is_coroutine_mark")):
        return True
    called = getattr(type(fn), "__call__", None)  # noqa: B004 - of an object; a function has none of its own
    return inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(called)


def wrapped_by_contextlib(fn: Any) -> Any:
    """Return the generator function under @contextmanager or @asynccontextmanager; None if there is none."""
    code = getattr(fn, "__code__", None)
    made = code is not None and code.co_filename == contextlib.__file__
    return getattr(fn, "__wrapped__", None) if made else None
