"""Queues and handlers over the MRO: contracts, mixins, overrides."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from framework import Context, DeadLetter, Queue, WorkerApp
from framework.app import declared_dead_letters
from framework.errors import DeclarationError
from framework.testing import harness
from tests.unit.helpers import FIRST, refusal


class Contract(WorkerApp):
    dead = Queue[DeadLetter]("dead")
    numbers = Queue[int]("numbers", dead_letter=dead)
    texts = Queue[str]("texts")


class Numbers(Contract):
    seen: list[Any]

    @Contract.numbers.handler
    def number(self, number: int) -> None:
        self.seen.append(number)


class Texts:  # no WorkerApp: a plain mixin
    seen: list[Any]

    @Contract.texts.handler
    async def text(self, text: str, ctx: Context) -> None:
        self.seen.append(text)


class Leaf(Numbers, Texts):
    def __init__(self) -> None:
        self.seen = []


def test_a_contract_has_queues_and_no_handlers() -> None:
    assert list(Contract.worker_queues) == ["dead", "numbers", "texts"]
    assert Contract.worker_handlers == {}
    assert WorkerApp.worker_queues == {}


def test_handlers_come_together_in_the_leaf() -> None:
    assert {name: handler.name for name, handler in Leaf.worker_handlers.items()} == {
        "numbers": "number",
        "texts": "text",
    }
    assert (Leaf.worker_handlers["texts"].is_async, Leaf.worker_handlers["texts"].takes_context) == (True, True)
    assert (Leaf.worker_handlers["numbers"].is_async, Leaf.worker_handlers["numbers"].takes_context) == (False, False)
    with harness(Leaf) as t:
        Contract.numbers.enqueue(1)
        Leaf.texts.enqueue("a")
        assert t.drain() == 2
        assert sorted(t.app.seen, key=str) == [1, "a"]


def test_an_override_needs_no_decorator() -> None:
    class Doubled(Leaf):
        def number(self, number: int) -> None:
            super().number(2 * number)

    with harness(Doubled) as t:
        Contract.numbers.enqueue(4)
        t.drain()
        assert t.app.seen == [8]
    assert Doubled.worker_handlers["numbers"].place != Leaf.worker_handlers["numbers"].place


def test_an_override_may_become_async() -> None:
    class Later(Leaf):
        async def number(self, number: int) -> None:  # type: ignore[override]
            self.seen.append(-number)

    assert Later.worker_handlers["numbers"].is_async
    with harness(Later) as t:
        Contract.numbers.enqueue(4)
        t.drain()
        assert t.app.seen == [-4]


def test_an_override_is_checked_like_a_handler() -> None:
    with pytest.raises(DeclarationError, match=r"Wrong\.number takes str, but queue 'numbers' carries int"):

        class Wrong(Leaf):
            def number(self, number: str) -> None: ...  # type: ignore[override]


def test_an_override_that_is_no_method() -> None:
    with pytest.raises(
        DeclarationError, match=r"test_inheritance.py:\d+: Gone\.number, the handler of queue 'numbers'"
    ):

        class Gone(Leaf):
            number = None  # type: ignore[assignment]


def test_two_mixins_with_a_handler_of_one_queue() -> None:
    class Again(Contract):
        @Contract.numbers.handler
        def other_number(self, number: int) -> None: ...

    with pytest.raises(DeclarationError, match=r"queue 'numbers' has two handlers, number .* and other_number"):

        class Both(Leaf, Again): ...


def test_decorated_twice_is_one_handler() -> None:
    class Twice(Leaf):
        @Contract.numbers.handler
        def number(self, number: int) -> None: ...

    assert Twice.worker_handlers["numbers"].name == "number"


def test_one_method_for_two_queues() -> None:
    class Two(WorkerApp):
        a = Queue[int]("a")
        b = Queue[int]("b")

        @a.handler
        @b.handler
        def both(self, number: int) -> None: ...

    assert {name: handler.name for name, handler in Two.worker_handlers.items()} == {"a": "both", "b": "both"}


def test_a_decorator_of_the_service_outside_or_inside() -> None:
    def timed(fn: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(fn)
        def wrapper(*arguments: Any) -> Any:
            return fn(*arguments)

        return wrapper

    class Decorated(WorkerApp):
        a = Queue[int]("a")
        b = Queue[int]("b")

        @timed
        @a.handler
        def outside(self, number: int, ctx: Context) -> None: ...

        @b.handler
        @timed
        def inside(self, number: int) -> None: ...

    assert {name: (h.name, h.takes_context) for name, h in Decorated.worker_handlers.items()} == {
        "a": ("outside", True),
        "b": ("inside", False),
    }


def test_handler_of_a_foreign_queue(tmp_path: Path) -> None:
    text = refusal(
        """
        class One(WorkerApp):
            q = Queue[int]("q")
        class Another(WorkerApp):
            @One.q.handler
            def number(self, number: int) -> None: ...
        """,
        tmp_path / "x.py",
    )
    assert text == (
        f"{tmp_path}/x.py:{FIRST + 3}: Another.number handles queue 'q', which Another neither declares nor inherits"
    )


def test_an_attribute_set_to_none_removes_the_queue() -> None:
    class Less(Contract):
        texts = None  # type: ignore[assignment]

    assert list(Less.worker_queues) == ["dead", "numbers"]


def test_queues_know_their_names() -> None:
    assert (Contract.numbers.attribute, Contract.numbers.owner, Contract.numbers.payload_type) == (
        "numbers",
        "Contract",
        int,
    )
    assert declared_dead_letters(Leaf.worker_queues.values()) == {"dead"}
    assert repr(Contract.numbers) == "<Queue 'numbers'>"


def test_a_queue_may_have_two_attributes() -> None:
    class Alias(Contract):
        same = Contract.numbers

    assert Alias.worker_queues["same"] is Alias.worker_queues["numbers"]


def test_super_hooks_compose() -> None:
    order: list[str] = []

    class Base(WorkerApp):
        q = Queue[int]("q")

        def on_failure(self, failure: Any, ctx: Context) -> None:
            super().on_failure(failure, ctx)
            order.append("base")

    class App(Base):
        def on_failure(self, failure: Any, ctx: Context) -> None:
            super().on_failure(failure, ctx)
            order.append("app")

        @Base.q.handler
        def fail(self, number: int) -> None:
            raise ValueError

    with harness(App) as t:
        App.q.enqueue(1)
        t.drain(raise_errors=False)
    assert order == ["base", "app"] * 11
