"""WorkerApp, the base class of services, and the checks of its declarations."""

from __future__ import annotations

import inspect
import typing
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from types import SimpleNamespace, UnionType
from typing import Any, ClassVar

from framework.model.errors import DeclarationError
from framework.model.job import Context as Context
from framework.model.job import Failure
from framework.model.job import Logger as Logger
from framework.service.app.callables import bare, gives_coroutine, wrapped_by_contextlib
from framework.service.app.inheritance import check_method, declared, marks_of, place_of_function, position_of
from framework.service.app.pools import check_kinds, collect_pools
from framework.service.queues import DeadLetter, Pool, Queue
from framework.service.settings import Settings

MOST_THREADS = 256  # in which a process may run the jobs of a sync handler; they share one interpreter


@dataclass(frozen=True)
class Slot:
    """The slot of a worker process, which `lifespan` and `alifespan` get.

    Attributes:
        queue: the queue that the process serves; in a pool the first one.
        index: number of the process among those of its queue or pool.
        pool: the pool; None: the queue has processes of its own.
        queues: all queues that the process serves.
    """

    queue: Queue[Any]
    index: int
    pool: Pool | None = None
    queues: tuple[Queue[Any], ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "queues", self.queues or (self.queue,))


@dataclass(frozen=True, slots=True)
class Handler:
    """A queue's handler as declared: the method's name (a subclass may override it), and its kind of callable."""

    queue: Queue[Any]
    name: str
    is_async: bool
    takes_context: bool
    place: str


class WorkerApp:
    """The base class of a service: queues and pools are class attributes, handlers are methods.

    Hooks of several base classes combine through super(). Mistakes in declarations raise DeclarationError when the
    class is created; the message names file and line.
    """

    worker_queues: ClassVar[dict[str, Queue[Any]]] = {}
    worker_pools: ClassVar[dict[str, Pool]] = {}
    worker_handlers: ClassVar[dict[str, Handler]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        check_hooks(cls)
        cls.worker_queues = collect_queues(cls)
        cls.worker_pools = collect_pools(cls, cls.worker_queues)
        cls.worker_handlers = collect_handlers(cls)
        check_kinds(cls.worker_handlers.values())

    @contextmanager
    def lifespan(self, slot: Slot) -> Generator[None, None, None]:
        """Open resources in a worker process before it is ready, and close them after its last job."""
        yield

    @asynccontextmanager
    async def alifespan(self, slot: Slot) -> AsyncGenerator[None, None]:
        """Open and close resources as `lifespan` does, on the event loop of processes with async handlers."""
        yield

    def on_failure(self, failure: Failure, ctx: Context) -> Awaitable[None] | None:
        """Report a failed attempt; it is called after each of them, and may be a plain or an `async def` method.

        An error in it is logged and changes nothing for the job. `failure.exception` is None if the process died, and
        is freed when the attempt ends.
        """

    @classmethod
    def connect(cls, settings: Settings | None = None) -> AbstractContextManager[None]:
        """Open a producer now, instead of at the first enqueue, and use it for this app's queues inside the block.

        Raises:
            SettingsError: a setting is wrong. EngineError: the engine cannot be used.
        """
        return connector(cls, settings)


def _no_connector(app: type[WorkerApp], settings: Settings | None) -> AbstractContextManager[None]:
    raise RuntimeError("framework/__init__ has not installed a connector")


connector: Callable[[type[WorkerApp], Settings | None], AbstractContextManager[None]] = _no_connector


def check_hooks(cls: type[WorkerApp]) -> None:
    """Raise DeclarationError for mistakes in hooks, which otherwise show when a worker starts or a job fails."""
    for name, decorator in (("lifespan", "contextmanager"), ("alifespan", "asynccontextmanager")):
        fn = vars(cls).get(name)
        where = f"{place_of_function(fn)}: {cls.__name__}.{name}"
        if inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn):
            raise DeclarationError(f"{where} yields: write @{decorator} above it")
        if gives_coroutine(fn):
            raise DeclarationError(f"{where} is a coroutine function: let it yield, and write @{decorator} above it")
        inner = wrapped_by_contextlib(fn)
        if name == "lifespan" and inspect.isasyncgenfunction(inner):
            raise DeclarationError(f"{where} is async: name it alifespan, or make it a plain def under @{decorator}")
        if name == "alifespan" and inspect.isgeneratorfunction(inner):
            raise DeclarationError(f"{where} is not async: name it lifespan, or make it async def under @{decorator}")
    hook = vars(cls).get("on_failure")
    if inspect.isgeneratorfunction(hook) or inspect.isasyncgenfunction(hook):
        raise DeclarationError(
            f"{place_of_function(hook)}: {cls.__name__}.on_failure is a generator: it must not yield"
        )


def collect_queues(cls: type[WorkerApp]) -> dict[str, Queue[Any]]:
    """Return the queues of a class by attribute, base classes first. Raises DeclarationError."""
    queues: dict[str, Queue[Any]] = declared(cls, Queue)
    by_name: dict[str, tuple[str, Queue[Any]]] = {}
    for attribute, queue in queues.items():
        _ = queue.payload_type
        other = by_name.setdefault(queue.name, (attribute, queue))
        if other[1] is not queue:
            raise DeclarationError(
                f"{queue.place}: {cls.__name__}.{attribute} and {cls.__name__}.{other[0]} ({other[1].place}) are both "
                f"named {queue.name!r}: give one another name"
            )
    for attribute, queue in queues.items():
        _check_dead_letter(cls, attribute, queue)
    return queues


def _check_dead_letter(cls: type[WorkerApp], attribute: str, queue: Queue[Any]) -> None:
    target = queue.dead_letter
    where = f"{queue.place}: {cls.__name__}.{attribute}"
    if queue.payload_type is DeadLetter and target is not None:
        raise DeclarationError(f"{where} carries dead letters and has a dead_letter of its own: a loop; remove it")
    if target is None:
        return
    if target is queue:
        raise DeclarationError(f"{where} is its own dead_letter: a loop; remove it")
    if target.payload_type is not DeadLetter:
        raise DeclarationError(f'{where}: its dead_letter must be a Queue[DeadLetter]("{target.name}")')


def collect_handlers(cls: type[WorkerApp]) -> dict[str, Handler]:
    """Return the handlers by queue name. Names are resolved along the MRO, so an override in a subclass is the handler.

    Raises DeclarationError.
    """
    marks: dict[str, list[Queue[Any]]] = {}
    for base in cls.__mro__:
        for name, value in vars(base).items():
            _refuse_plain(cls, name, value)
            for queue in marks_of(value):
                if queue not in marks.setdefault(name, []):
                    marks[name].append(queue)
    for name, queues in marks.items():
        check_method(cls, name, queues)
    known = {id(queue) for queue in cls.worker_queues.values()}
    handlers: dict[str, Handler] = {}
    for name, queues in sorted(marks.items(), key=lambda item: position_of(getattr(cls, item[0]))):
        for queue in queues:
            fn = inspect.unwrap(getattr(cls, name))
            place = place_of_function(fn)
            if id(queue) not in known:
                raise DeclarationError(
                    f"{place}: {cls.__name__}.{name} handles queue {queue.name!r}, which {cls.__name__} neither "
                    "declares nor inherits"
                )
            if queue.name in handlers:
                first = handlers[queue.name]
                raise DeclarationError(
                    f"{place}: queue {queue.name!r} has two handlers, "
                    f"{first.name} ({first.place}) and {name}: remove one"
                )
            handlers[queue.name] = _handler(cls, queue, name, fn, place)
    return handlers


def _refuse_plain(cls: type[WorkerApp], name: str, value: object) -> None:
    """Raise DeclarationError for a handler that is a staticmethod or classmethod.

    It would not be found, and its jobs would wait for ever.
    """
    if not isinstance(value, (staticmethod, classmethod)):
        return
    if hasattr(value, "__worker_queues__") or hasattr(value.__func__, "__worker_queues__"):
        kind = type(value).__name__
        place = place_of_function(value.__func__)
        raise DeclarationError(
            f"{place}: {cls.__name__}.{name} is a {kind}: a handler is a plain method, remove @{kind}"
        )


def _handler(cls: type[WorkerApp], queue: Queue[Any], name: str, fn: Any, place: str) -> Handler:
    where = f"{place}: {cls.__name__}.{name}"
    if not inspect.isroutine(fn):
        raise DeclarationError(
            f"{queue.place}: {cls.__name__}.{name}, the handler of queue {queue.name!r}, is no method any more: "
            f"it was overridden by {type(fn).__name__}"
        )
    if hasattr(WorkerApp, name):
        raise DeclarationError(
            f"{where} handles queue {queue.name!r}, but takes the name of WorkerApp.{name}: rename it"
        )
    parameters = _parameters(fn, getattr(cls, name), where)
    is_async = _check_outermost(cls, queue, name, fn, where)
    check_concurrency(queue.options.concurrency, is_async=is_async, name=queue.attribute or queue.name, place=place)
    _check_payload(cls, queue, name, fn, parameters[1], place)
    return Handler(queue, name, is_async, len(parameters) == 3, place)


def _parameters(fn: Any, outermost: Any, where: str) -> list[str]:
    """Return the names of a handler's positional parameters, beneath all decorators. Raises DeclarationError."""
    try:
        found = inspect.signature(fn).parameters.values()
    except (TypeError, ValueError):
        raise DeclarationError(f"{where} is an object of {type(fn).__name__}: a handler is a plain method") from None
    names = [p.name for p in found if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    # A decorator may supply a required keyword-only argument; nothing supplies it to the outermost callable.
    missing = outermost is fn and any(p.kind is p.KEYWORD_ONLY and p.default is p.empty for p in found)
    if len(names) not in (2, 3) or missing:
        raise DeclarationError(f"{where} must take (self, payload) or (self, payload, ctx)")
    return names


def _check_outermost(cls: type[WorkerApp], queue: Queue[Any], name: str, fn: Any, where: str) -> bool:
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


def check_concurrency(concurrency: int, *, is_async: bool, name: str, place: str) -> None:
    """Raise DeclarationError if a sync handler, whose jobs run in a thread each, needs more threads than a process may
    have."""
    if concurrency > MOST_THREADS and not is_async:
        raise DeclarationError(
            f"{place}: {name} is sync and runs each job in a thread: concurrency={concurrency} must be at most "
            f"{MOST_THREADS}; raise workers instead"
        )


def _check_payload(cls: type[WorkerApp], queue: Queue[Any], name: str, fn: Any, parameter: str, place: str) -> None:
    try:
        # Only that parameter: others may name types that are imported for type checkers only.
        annotation = inspect.get_annotations(fn).get(parameter, Any)
        holder = SimpleNamespace(__annotations__={parameter: annotation})
        wanted = typing.get_type_hints(holder, globalns=fn.__globals__)[parameter]
    except Exception:  # a forward reference that is not defined yet: only the type checker can resolve it
        return
    carried = queue.payload_type
    if not _accepts(wanted, carried):
        raise DeclarationError(
            f"{place}: {cls.__name__}.{name} takes {_type_name(wanted)}, "
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
