"""A handler whose call gives work instead of doing it: awaited, refused, or failed, and never a success."""

from __future__ import annotations

import asyncio
import functools
import warnings
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest

from framework import Queue, RetryPolicy, WorkerApp
from framework.model.errors import DeclarationError
from framework.testing import harness
from tests.unit.helpers import a_lease, an_executor

ran: list[str] = []


def offload(fn: Any) -> Any:
    @functools.wraps(fn)
    async def wrapper(self: Any, number: int) -> None:
        await asyncio.to_thread(fn, self, number)

    return wrapper


def plain(fn: Any) -> Any:
    return functools.wraps(fn)(lambda self, number: fn(self, number))


def lazy(fn: Any) -> Any:
    @functools.wraps(fn)
    def wrapper(self: Any, number: int) -> Generator[None, None, None]:
        yield
        fn(self, number)

    return wrapper


class Bound:
    """A decorator that is an object, as libraries have them."""

    def __init__(self, fn: Any) -> None:
        functools.update_wrapper(self, fn)
        self.fn = fn

    def __get__(self, owner: Any, cls: Any) -> Any:
        return self if owner is None else functools.partial(self, owner)

    async def __call__(self, *arguments: Any) -> None:
        self.fn(*arguments)


class Unbound:
    def __init__(self, fn: Any) -> None:
        functools.update_wrapper(self, fn)

    def __call__(self, *arguments: Any) -> None: ...


class MadeAsync:
    """A decorator whose coroutine function is made when it is looked up."""

    def __init__(self, fn: Any) -> None:
        functools.update_wrapper(self, fn)
        self.fn = fn

    def __get__(self, owner: Any, cls: Any) -> Any:
        @functools.wraps(self.fn)
        async def call(number: int) -> None:
            self.fn(owner, number)

        return call


async def impl(self: Any, extra: str, number: int) -> None:
    ran.append(extra)


class Works(WorkerApp):
    """All of these run."""

    offloaded = Queue[int]("offloaded")
    an_object = Queue[int]("object")
    partial_ = Queue[int]("partial")
    made = Queue[int]("made")
    driven = Queue[int]("driven")
    gives_value = Queue[int]("value")

    @offloaded.handler
    @offload
    def h1(self, number: int) -> None:
        ran.append("offloaded")

    @an_object.handler
    @Bound
    def h2(self, number: int) -> None:
        ran.append("object")

    h3 = partial_.handler(functools.partialmethod(impl, "partial"))  # type: ignore[arg-type, call-overload]

    @made.handler
    @MadeAsync
    def h4(self, number: int) -> None:
        ran.append("made")

    @driven.handler
    @(lambda fn: functools.wraps(fn)(lambda self, number: asyncio.run(fn(self, number))))
    async def h5(self, number: int) -> None:
        ran.append("driven")

    @gives_value.handler
    def h6(self, number: int) -> Any:
        ran.append("value")
        return asyncio.ensure_future  # no work: a function


@pytest.mark.parametrize("name", list(Works.worker_handlers))
def test_what_is_called_decides_how(name: str) -> None:
    ran.clear()
    with harness(Works) as t:
        queue = Works.worker_queues[Works.worker_handlers[name].queue.attribute]
        queue.enqueue(1)
        t.drain()
        assert not t.failures
    assert ran == [name]


def test_the_outermost_decides_which_worker_it_has() -> None:
    kinds = {name: handler.is_async for name, handler in Works.worker_handlers.items()}
    assert kinds == {
        "offloaded": True, "object": True, "partial": True, "made": True, "driven": False, "value": False,
    }  # fmt: skip


class Later(WorkerApp):
    """None of these has done its work when its call returns."""

    a = Queue[int]("coroutine")
    b = Queue[int]("decorated")
    c = Queue[int]("generator")
    d = Queue[int]("started")
    e = Queue[int]("agen")
    f = Queue[int]("inner")
    g = Queue[int]("task")
    h = Queue[int]("custom")
    i = Queue[int]("map")
    j = Queue[int]("future")
    k = Queue[int]("list")

    @a.handler
    def h1(self, number: int) -> Any:
        return self.impl(number)

    async def impl(self, number: int) -> None:
        ran.append("never")

    @b.handler
    @plain
    async def h2(self, number: int) -> None:
        ran.append("never")

    @c.handler
    def h3(self, number: int) -> Any:
        return (ran.append("never") for _ in range(1))

    @d.handler
    def h4(self, number: int) -> Any:
        def gen() -> Generator[None, None, None]:
            try:
                yield
            finally:
                ran.append("closed")

        made = gen()
        next(made)
        return made

    @e.handler
    async def h5(self, number: int) -> Any:
        async def gen() -> AsyncGenerator[None, None]:
            yield

        return gen()

    @f.handler
    async def h6(self, number: int) -> Any:
        return self.impl(number)

    @g.handler
    async def h7(self, number: int) -> Any:
        return asyncio.create_task(self.impl(number))

    @h.handler
    def h8(self, number: int) -> Any:
        class Promise:
            def __await__(self) -> Any:
                yield

        return Promise()

    @i.handler
    def h9(self, number: int) -> Any:
        return map(ran.append, ["never"])

    @j.handler
    def h10(self, number: int) -> Any:
        return Future[None]()  # of an executor that may end first

    @k.handler
    def h11(self, number: int) -> Any:
        return [None, self.impl(number)]


WHAT = {
    "coroutine": "a coroutine", "decorated": "a coroutine", "generator": "a generator", "started": "a generator",
    "agen": "an async generator", "inner": "a coroutine", "task": "an awaitable Task",
    "custom": "an awaitable Later.h8.<locals>.Promise", "map": "a map", "future": "a Future",
    "list": "a list with a coroutine",
}  # fmt: skip


@pytest.mark.parametrize("name", list(Later.worker_handlers))
def test_an_attempt_that_gives_work_instead_of_doing_it_fails(name: str) -> None:
    ran.clear()
    handler = Later.worker_handlers[name]
    executor = an_executor(Later(), queue=name, retry=RetryPolicy(max_retries=0))

    async def call(made: Awaitable[Any]) -> Any:
        return await made

    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a coroutine that was never awaited
        attempt = executor.attempt(a_lease(b"1", queue=name))
        outcome = asyncio.run(executor.run_async(attempt, call=call)) if handler.is_async else executor.run(attempt)
    assert outcome.failure is not None
    assert outcome.kind.value == "dead_lettered"
    text = outcome.failure.message
    assert text.startswith(f"{handler.location}: Later.{handler.name} returned {WHAT[name]}, which nothing ")
    assert "\n" not in text
    assert ran == (["closed"] if name == "started" else [])


def test_an_async_handler_that_an_instance_has_replaced_by_a_plain_one_is_told_so() -> None:
    class Replaced(WorkerApp):
        q = Queue[int]("q")

        def __init__(self) -> None:
            self.work = lambda number: None

        @q.handler
        async def work(self, number: int) -> None: ...  # type: ignore[misc]

    async def call(made: Awaitable[Any]) -> Any:
        return await made

    executor = an_executor(Replaced(), queue="q")
    outcome = asyncio.run(executor.run_async(executor.attempt(a_lease(b"1", queue="q")), call=call))
    assert outcome.failure is not None
    assert "is declared async, but its call returned NoneType" in outcome.failure.message


def declare(decorator: Any, body: Any, **options: Any) -> None:
    queue = Queue[int]("q", **options)
    type("Odd", (WorkerApp,), {"q": queue, "work": queue.handler(decorator(body))})


def sync_body(self: Any, number: int) -> None: ...
async def async_body(self: Any, number: int) -> None: ...


@pytest.mark.parametrize(
    ("decorator", "body", "options", "text"),
    [
        (lazy, sync_body, {}, "is a generator"),
        (lambda fn: functools.partialmethod(lazy(fn)), sync_body, {}, "is a generator"),
        (Unbound, sync_body, {}, "is an object of Unbound, to which Python passes no self"),
        (plain, async_body, {"concurrency": 5}, "is async def, but a decorator around it is not"),
        (plain, sync_body, {"concurrency": 500}, "is sync and runs each job in a thread"),
    ],
)
def test_what_cannot_work_is_refused_when_the_class_is_made(
    decorator: Any, body: Any, options: dict[str, Any], text: str
) -> None:
    with pytest.raises(DeclarationError, match=text) as refused:
        declare(decorator, body, **options)
    assert "test_unfinished.py:" in str(refused.value)


def test_a_decorator_that_runs_a_generator_itself_is_fine() -> None:
    def whole(fn: Any) -> Any:
        return functools.wraps(fn)(lambda self, number: list(fn(self, number)) and None)

    def body(self: Any, number: int) -> Generator[None, None, None]:
        yield

    declare(whole, body)


async def coroutine(self: Any, slot: Any) -> None: ...
async def async_gen(self: Any, slot: Any) -> AsyncGenerator[None, None]:
    yield


def sync_gen(self: Any, slot: Any) -> Generator[None, None, None]:
    yield


@pytest.mark.parametrize(
    ("name", "hook", "text"),
    [
        ("lifespan", coroutine, "lifespan is a coroutine function"),
        ("lifespan", asynccontextmanager(async_gen), "lifespan is async: name it alifespan"),
        ("lifespan", contextmanager(async_gen), "lifespan is async"),  # type: ignore[arg-type]
        ("alifespan", coroutine, "alifespan is a coroutine function"),
        ("alifespan", contextmanager(sync_gen), "alifespan is not async: name it lifespan"),
        ("alifespan", asynccontextmanager(sync_gen), "alifespan is not async"),  # type: ignore[arg-type]
        ("on_failure", sync_gen, "on_failure is a generator"),
        ("on_failure", async_gen, "on_failure is a generator"),
    ],
)
def test_a_hook_of_the_wrong_kind_is_refused(name: str, hook: Callable[..., Any], text: str) -> None:
    with pytest.raises(DeclarationError, match=text):
        type("Odd", (WorkerApp,), {name: hook})


def test_hooks_of_the_right_kind_are_taken() -> None:
    class Fine(WorkerApp):
        lifespan = contextmanager(sync_gen)
        alifespan = asynccontextmanager(async_gen)

        async def on_failure(self, failure: Any, ctx: Any) -> None: ...

    assert Fine
