"""`Tracked` is a plain await with a mark: the same values, errors, cancellations and closings."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine, Generator
from contextlib import suppress
from types import coroutine
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from framework.worker.interrupts.blocking import Tracked


class Row:
    """Stands in for the board: whether the code is said to run."""

    def __init__(self) -> None:
        self.running = False
        self.marks = 0

    def on_cpu(self, running: bool) -> None:
        self.running = running
        self.marks += running


class Nudge(Exception):
    pass


Wrap = tuple[Row, bool]


def wrapped(awaitable: Awaitable[Any], row: Row, tracked: bool) -> Awaitable[Any]:
    return Tracked(awaitable, row) if tracked else awaitable  # type: ignore[arg-type]


class Script:
    """An awaitable that yields `steps` times and does as it is told with what is thrown into it."""

    def __init__(self, steps: int, reaction: str, row: Row, log: list[Any]) -> None:
        self.steps, self.reaction, self.row, self.log = steps, reaction, row, log

    def __await__(self) -> Generator[Any, Any, Any]:
        try:
            for step in range(self.steps):
                try:
                    self.log.append(("got", (yield step)))
                except Nudge as nudge:
                    self.log.append(("nudged", nudge.args, self.reaction))
                    if self.reaction == "return":
                        return "returned early"
                    if self.reaction == "raise":
                        raise ValueError("from inside") from nudge
                    if self.reaction == "reraise":
                        raise
            if self.reaction == "fail":
                raise KeyError("at the end")
            return "done"
        finally:
            self.log.append("left")


@coroutine
def pause(value: Any) -> Generator[Any, Any, Any]:
    return (yield value)


async def as_coroutine(script: Script) -> Any:
    await pause("before")
    return await script


def drive(steps: int, reaction: str, kind: str, operations: list[tuple[str, Any]], tracked: bool) -> list[Any]:
    """Everything that is seen from outside and inside, in order."""
    row, log = Row(), list[Any]()
    script = Script(steps, reaction, row, log)

    async def outer() -> Any:
        inner = as_coroutine(script) if kind == "coroutine" else script
        try:
            return await wrapped(inner, row, tracked)
        except ValueError as error:
            log.append(("outer", error.args, type(error.__cause__)))
            raise

    running: Coroutine[Any, Any, Any] = outer()
    for number, (operation, value) in enumerate([("send", None), *operations]):
        try:
            if operation == "send":
                log.append(("yielded", running.send(None if number == 0 else value)))
            elif operation == "throw":
                log.append(("yielded", running.throw(value)))
            else:
                running.close()
                log.append("closed")
                break
        except StopIteration as stop:
            log.append(("result", stop.value))
            break
        except BaseException as error:
            log.append(("error", type(error), error.args))
            break
        assert not row.running
    with suppress(RuntimeError):
        running.close()
    assert not row.running
    return log


operations = st.lists(
    st.tuples(st.just("send"), st.sampled_from([None, 0, "value"]))
    | st.tuples(
        st.just("throw"), st.sampled_from([Nudge("n"), Nudge(), KeyboardInterrupt("k"), asyncio.CancelledError()])
    )
    | st.just(("close", None)),
    max_size=6,
)


@given(
    st.integers(0, 4),
    st.sampled_from(["go on", "return", "raise", "reraise", "fail"]),
    st.sampled_from(["awaitable", "coroutine"]),
    operations,
)
@settings(max_examples=300, deadline=None)
def test_the_same_as_a_plain_await(steps: int, reaction: str, kind: str, ops: list[tuple[str, Any]]) -> None:
    assert drive(steps, reaction, kind, ops, tracked=True) == drive(steps, reaction, kind, ops, tracked=False)


async def run_both(make: Any) -> list[Any]:
    """What `make(wrap)` ends with, tracked and plain."""
    results = []
    for tracked in (True, False):
        row = Row()
        try:
            results.append(await make(lambda awaitable, row=row, tracked=tracked: wrapped(awaitable, row, tracked)))
        except BaseException as error:
            results.append((type(error), str(error)))
        assert not row.running
        assert row.marks > 0 or not tracked
    return results


async def test_cancel_is_seen_inside_once() -> None:
    async def make(wrap: Any) -> Any:
        seen = []

        async def handler() -> str:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                seen.append("cancelled")
                await asyncio.sleep(0)
                return "cleaned up"
            return "?"

        async def outer() -> Any:
            return await wrap(handler())

        task = asyncio.create_task(outer())
        await asyncio.sleep(0)
        task.cancel()
        return await task, seen

    plain, tracked = await run_both(make)
    assert plain == tracked == ("cleaned up", ["cancelled"])


@pytest.mark.parametrize("how", ["wait_for", "timeout", "group", "gather", "shield", "future", "task"])
async def test_asyncio_inside(how: str) -> None:
    async def make(wrap: Any) -> Any:
        async def handler() -> Any:
            loop = asyncio.get_running_loop()
            if how == "wait_for":
                await asyncio.wait_for(asyncio.Event().wait(), 0.001)
            elif how == "timeout":
                async with asyncio.timeout(0.001):
                    await asyncio.Event().wait()
            elif how == "group":
                async with asyncio.TaskGroup() as group:
                    group.create_task(asyncio.sleep(0))
                    group.create_task(asyncio.wait_for(asyncio.Event().wait(), 0.001))
            elif how == "gather":
                return await asyncio.gather(asyncio.sleep(0, 1), asyncio.sleep(0.001, 2))
            elif how == "shield":
                return await asyncio.shield(asyncio.sleep(0.001, 3))
            elif how == "future":
                future: asyncio.Future[int] = loop.create_future()
                loop.call_soon(future.set_result, 4)
                return await future
            return await asyncio.create_task(asyncio.sleep(0, 5))

        return await wrap(handler())

    tracked, plain = await run_both(make)
    assert tracked == plain


async def test_the_mark_stands_exactly_while_the_code_runs() -> None:
    row, other_saw, inside_saw = Row(), [], []

    async def handler() -> None:
        for _ in range(3):
            inside_saw.append(row.running)
            await asyncio.sleep(0)
        inside_saw.append(row.running)

    async def neighbour() -> None:
        for _ in range(3):
            other_saw.append(row.running)
            await asyncio.sleep(0)

    async def outer() -> None:
        await Tracked(handler(), row)  # type: ignore[arg-type]

    await asyncio.gather(outer(), neighbour())
    assert inside_saw == [True] * 4
    assert other_saw == [False] * 3
    assert not row.running


async def test_an_error_keeps_its_traceback() -> None:
    async def handler() -> None:
        await asyncio.sleep(0)
        raise ValueError("x")

    with pytest.raises(ValueError, match="x") as error:
        await Tracked(handler(), Row())  # type: ignore[arg-type]
    assert error.traceback[-1].name == "handler"
