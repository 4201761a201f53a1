"""WorkerApp, the base class of services."""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    contextmanager,
    nullcontext,
)
from dataclasses import dataclass
from typing import Any, ClassVar

from framework.model.errors import DeclarationError
from framework.model.handling import Context as Context
from framework.model.handling import Running
from framework.model.job import Failure
from framework.model.job import Logger as Logger
from framework.service.app.declarations import check_kinds, collect_pools, collect_queues
from framework.service.app.handlers import Handler as Handler
from framework.service.app.handlers import check_concurrency as check_concurrency
from framework.service.app.handlers import collect_handlers, gives_coroutine, location_of, wrapped_by_contextlib
from framework.service.codec.upgrades import takes
from framework.service.queues import Pool, Queue
from framework.service.settings import Settings


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
        cls.worker_handlers = collect_handlers(cls, WorkerApp, cls.worker_queues.values())
        check_kinds(cls.worker_handlers.values())

    @contextmanager
    def lifespan(self, slot: Slot) -> Generator[None, None, None]:
        """Open resources in a worker process before it is ready, and close them after its last job."""
        yield

    @asynccontextmanager
    async def alifespan(self, slot: Slot) -> AsyncGenerator[None, None]:
        """Open and close resources as `lifespan` does, on the event loop of processes with async handlers."""
        yield

    def around(self, job: Running) -> AbstractContextManager[object]:
        """Open what one run needs, and close it after its handler, whatever its end; called for each run.

        Write @contextmanager above it, and enter `super().around(job)` first. What it raises counts as raised by the
        handler. The handler's exception passes through it, also JobInterrupted; one that it does not raise again makes
        the run a success. The timeout counts from before it, and interrupts the handler only.
        """
        return nullcontext()

    def aaround(self, job: Running) -> AbstractAsyncContextManager[object]:
        """Open and close what a run of an async handler needs, inside of `around`.

        Here the handler's timeout is `asyncio.CancelledError`. One that comes in front of the handler or behind it
        cancels what this awaits there.
        """
        return nullcontext()

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

    @classmethod
    def running(cls, settings: Settings | None = None) -> AbstractContextManager[None]:
        """Run this app's workers inside the block, as `worker run` does, in a child of this process.

        The block begins when they are ready, and its end drains them. When this process dies, even by SIGKILL, they
        drain by themselves. For a web server and its workers in one container; each process that enters the block has
        workers of its own.

        Raises:
            UsageError: another process cannot import the app. WorkerError: the workers do not start; they say why.
        """
        return launcher(cls, settings)


def _no_connector(app: type[WorkerApp], settings: Settings | None) -> AbstractContextManager[None]:
    raise RuntimeError("framework/__init__ has not installed a connector")


connector: Callable[[type[WorkerApp], Settings | None], AbstractContextManager[None]] = _no_connector
launcher: Callable[[type[WorkerApp], Settings | None], AbstractContextManager[None]] = _no_connector


def check_hooks(cls: type[WorkerApp]) -> None:
    """Raise DeclarationError for mistakes in hooks, which otherwise show when a worker starts, or a job runs or
    fails."""
    for name in ("lifespan", "around"):
        _check_manager(cls, name, "contextmanager")
        _check_manager(cls, f"a{name}", "asynccontextmanager")
    hook = vars(cls).get("on_failure")
    if inspect.isgeneratorfunction(hook) or inspect.isasyncgenfunction(hook):
        raise DeclarationError(f"{location_of(hook)}: {cls.__name__}.on_failure is a generator: it must not yield")


def _check_manager(cls: type[WorkerApp], name: str, decorator: str) -> None:
    """Raise DeclarationError if a class defines this hook, and its calls would return no context manager."""
    fn = vars(cls).get(name)
    where = f"{getattr(fn, 'location', None) or location_of(fn)}: {cls.__name__}.{name}"
    if name in vars(cls) and not callable(fn):
        raise DeclarationError(f"{where} takes the name of a hook of WorkerApp: rename it")
    if inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn):
        raise DeclarationError(f"{where} yields: write @{decorator} above it")
    if gives_coroutine(fn):
        raise DeclarationError(f"{where} is a coroutine function: let it yield, and write @{decorator} above it")
    inner, is_async = wrapped_by_contextlib(fn), decorator.startswith("async")
    other = name[1:] if is_async else f"a{name}"
    if not is_async and inspect.isasyncgenfunction(inner):
        raise DeclarationError(f"{where} is async: name it {other}, or make it a plain def under @{decorator}")
    if is_async and inspect.isgeneratorfunction(inner):
        raise DeclarationError(f"{where} is not async: name it {other}, or make it async def under @{decorator}")
    if inspect.isfunction(fn) and not takes(fn, 2):
        raise DeclarationError(f"{where} must take (self, {'slot' if 'lifespan' in name else 'job'})")
