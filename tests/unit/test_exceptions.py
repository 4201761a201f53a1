"""Exceptions whose classes lie, raise and never end: they are described all the same, and let go of."""

from __future__ import annotations

import gc
import traceback
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from framework.model.text.exceptions import clear_locals, describe, error_type, release


class Raises(Exception):
    def __str__(self) -> str:
        raise KeyboardInterrupt("from str")


class Exits(Exception):
    def __str__(self) -> str:
        raise SystemExit(3)

    __repr__ = __str__


class NoText(Exception):
    def __str__(self) -> str:
        return 5  # type: ignore[return-value]


class Text(str):
    def __getitem__(self, key: Any) -> str:
        raise RuntimeError("getitem")

    def encode(self, *_: Any) -> bytes:
        raise RuntimeError("encode")

    def __bool__(self) -> bool:
        raise RuntimeError("bool")


class OddText(Exception):
    def __str__(self) -> str:
        return Text("odd text")


class Unequal(Exception):
    def __eq__(self, other: object) -> bool:
        raise RuntimeError("eq")

    def __hash__(self) -> int:
        raise RuntimeError("hash")


class Linked(Exception):
    @property
    def __cause__(self) -> BaseException:  # type: ignore[override]
        return Linked()  # another each time: following it would never end

    @property
    def __notes__(self) -> list[str]:
        raise SystemExit("notes")


class Elsewhere(Exception):
    @property
    def __class__(self) -> Any:
        raise RuntimeError("class")


class Named(type):
    def __getattribute__(cls, name: str) -> Any:
        raise RuntimeError(name)


class Meta(Exception, metaclass=Named):
    pass


class NoModule(Exception):
    pass


class Surrogate(Exception):
    pass


NoModule.__module__ = None  # type: ignore[assignment]
Surrogate.__qualname__ = "Sur\udcffr" * 100


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:
        return caught


def doubled() -> BaseException:
    """A group whose formatting repeats its member 2 ** 60 times."""
    error: Exception = ValueError("x")
    for _ in range(60):
        error = ExceptionGroup("g", [error, error])
    return error


def nested() -> BaseException:
    error: Exception = ValueError("x")
    for _ in range(5000):
        error = ExceptionGroup("g", [error])
    return error


def chained(circular: bool = False) -> BaseException:
    first = error = ValueError(0)
    for number in range(5000):
        following = ValueError(number)
        following.__cause__ = error
        error = following
    if circular:
        first.__cause__ = error
    return error


ODD: list[tuple[Callable[[], BaseException], str]] = [
    (Raises, "Raises (its __str__ failed)"),
    (Exits, "Exits (its __str__ failed)"),
    (NoText, "NoText (its __str__ failed)"),
    (OddText, "odd text"),
    (lambda: Unequal("e"), "e"),
    (lambda: Linked("l"), "l"),
    (lambda: Elsewhere("c"), "c"),
    (lambda: Meta("m"), "m"),
    (lambda: NoModule("m"), "m"),
    (lambda: Surrogate("m"), "m"),
    (lambda: ValueError("x" * 50_000_000), "x" * 1000),
    (doubled, "g (2 sub-exceptions)"),
    (nested, "g (1 sub-exception)"),
    (chained, "4999"),
    (lambda: chained(circular=True), "4999"),
]


@pytest.mark.parametrize(("make", "message"), ODD)
def test_whatever_it_is_it_has_a_message_a_trace_and_a_type_that_can_be_sent(
    make: Callable[[], BaseException], message: str
) -> None:
    error = raised(make())
    found, trace = describe(error)
    assert found == message
    assert "in raised" in trace
    assert len(trace) <= 2000
    for text in (found, trace, error_type(error)):
        assert type(text) is str
        text.encode()
    assert 0 < len(error_type(error)) <= 200
    release(error)
    assert vars(BaseException)["__traceback__"].__get__(error) is None


def test_a_group_and_a_cause_show_in_the_trace() -> None:
    try:
        try:
            raise KeyError("inner")
        except KeyError as error:
            raise ExceptionGroup("several", [error, ValueError("other")]) from error
    except ExceptionGroup as error:
        _, trace = describe(error, limit=8000)
        assert "KeyError: 'inner'" in trace
        assert "ValueError: other" in trace
        assert "direct cause" in trace


class Held:
    """What a handler has in a variable."""


HELD: weakref.WeakSet[Held] = weakref.WeakSet()


def hold() -> Held:
    held = Held()
    HELD.add(held)
    return held


def plain() -> None:
    held = hold()
    raise ValueError(held is None)


def keeps_itself() -> None:
    held = hold()
    error = ValueError(held is None)
    raise error


def chains() -> None:
    held = hold()
    try:
        keeps_itself()
    except ValueError as error:
        raise KeyError(held is None) from error


def groups() -> None:
    held = hold()
    errors = [raised_by(keeps_itself), raised_by(chains)]
    raise ExceptionGroup(str(held is None), errors)


def circles() -> None:
    error = ValueError(hold())  # in its arguments
    error.__context__ = other = KeyError()
    other.__context__ = error
    raise error


def raised_by(call: Callable[[], None]) -> Exception:
    try:
        call()
    except Exception as error:
        return error
    raise AssertionError


@pytest.fixture
def uncollected() -> Iterator[None]:
    gc.collect()
    HELD.clear()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("uncollected")
@pytest.mark.parametrize("call", [plain, keeps_itself, chains, groups, circles])
def test_what_frames_held_is_free_without_a_collection(call: Callable[[], None]) -> None:
    error: Any = raised_by(call)
    assert HELD
    release(error)
    error = None
    assert not HELD


@pytest.mark.usefixtures("uncollected")
@pytest.mark.parametrize("call", [plain, keeps_itself, chains, groups])
def test_locals_alone_can_be_freed_and_the_lines_stay(call: Callable[[], None]) -> None:
    error = raised_by(call)
    clear_locals(error)
    assert not HELD
    assert f"in {call.__name__}" in "".join(traceback.format_exception(error))


def test_a_generator_that_only_passed_an_error_on_lives() -> None:
    def passing() -> Iterator[BaseException]:
        while True:
            try:
                plain()
            except ValueError as error:
                yield error

    living = passing()
    clear_locals(next(living))
    release(next(living))
    assert isinstance(next(living), ValueError)


def test_the_tail_of_a_traceback_begins_with_a_whole_line() -> None:
    def deeper(depth: int) -> None:
        if not depth:
            raise ValueError("y" * 300)
        (deeper if depth % 2 else lambda rest: deeper(rest))(depth - 1)

    whole = describe(caught := made(deeper, 12), limit=100_000)[1]
    for limit in range(700, 1200):
        tail = describe(caught, limit=limit)[1]
        assert whole.endswith(tail)
        assert len(tail) <= limit
        assert whole[: -len(tail)].endswith("\n")
    assert describe(caught, limit=50)[1] == "y" * 49 + "\n", "a line that is longer than the room"


def made(call: Callable[[int], None], depth: int) -> BaseException:
    try:
        call(depth)
    except ValueError as error:
        return error
    raise AssertionError("it raised nothing")
