"""Queues and handlers over the MRO: contracts, mixins, overrides."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from framework import Context, DeadLetter, Queue, WorkerApp
from framework.model.errors import DeclarationError
from framework.service.options import all_queues, takes_dead_letters
from framework.testing import harness
from tests.unit.helpers import FIRST, load_service, refusal


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
    assert Doubled.worker_handlers["numbers"].location != Leaf.worker_handlers["numbers"].location


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
    assert {name for name, queue in all_queues(Leaf).items() if takes_dead_letters(queue, Leaf)} == {"dead"}
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


# --- names that two classes give to different things ----------------------------------------------------------------

MIXINS = """
class Payments(WorkerApp):
    pay_dead = Queue[DeadLetter]("pay.dead")
    pay = Queue[int]("pay")
    @pay_dead.handler
    def on_dead(self, letter: DeadLetter) -> None: ...
    @pay.handler
    def charge(self, job: int) -> None: ...
class Mails(WorkerApp):
    mail_dead = Queue[DeadLetter]("mail.dead")
    mail = Queue[int]("mail")
    @mail_dead.handler
    def on_letter(self, letter: DeadLetter) -> None: ...
    @mail.handler
    def send(self, job: int) -> None: ...
class Helper:
    def charge(self, job: int) -> None: ...
class Number:
    charge = 5
    pay = 7
"""


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        (  # both take dead letters
            """
class Other(WorkerApp):
    dead = Queue[DeadLetter]("other.dead")
    @dead.handler
    async def on_dead(self, letter: DeadLetter) -> None: ...
class Shop(Other, Payments): ...
""",
            "Shop.on_dead is both Other.on_dead, the handler of queue 'other.dead', and Payments.on_dead (x.py:N), the",
        ),
        (  # of one contract
            """
class One(Payments):
    def charge(self, job: int) -> None: ...
class Two:
    @Payments.pay.handler
    def charge(self, job: int) -> None: ...
class Shop(One, Two): ...
""",
            "Shop.charge is both One.charge, no handler, and Two.charge (x.py:N), the handler of queue 'pay'",
        ),
        (  # the leaf overrides both and says nothing
            """
class Other(WorkerApp):
    other = Queue[int]("other")
    @other.handler
    def charge(self, job: int) -> None: ...
class Shop(Other, Payments):
    def charge(self, job: int) -> None: ...
""",
            "Other.charge, the handler of queue 'other', and Payments.charge (x.py:N",
        ),
        (  # an override that handles another queue
            """
class Shop(Payments):
    other = Queue[int]("other")
    @other.handler
    def charge(self, job: int) -> None: ...
""",
            "x.py:N: Shop.charge is both Shop.charge, the handler of queue 'other', and Payments.charge (x.py:N",
        ),
        (
            "class Shop(Helper, Payments): ...",
            "Shop.charge is both Helper.charge, no handler, and Payments.charge (x.py:N",
        ),
        (
            "class Shop(Number, Payments): pay = Payments.pay",
            "Shop.charge is both Number.charge, no handler, and Payments.charge (x.py:N",
        ),
        (
            "class Shop(Number, Payments): charge = Payments.charge",
            "Shop.pay is both Number.pay, int, and Payments.pay, queue 'pay': the second would be out of reach",
        ),
        (
            """
class Other(WorkerApp):
    pay = Queue[int]("other.pay")
class Shop(Other, Payments): ...
""",
            "Shop.pay is both Other.pay, queue 'other.pay' (x.py:N), and Payments.pay, queue 'pay'",
        ),
    ],
)
def test_siblings_that_give_one_name_to_two_things(body: str, complaint: str, tmp_path: Path) -> None:
    text = refusal(MIXINS + body.strip("\n"), tmp_path / "x.py")
    assert re.match(r"\S+x\.py:\d+: Shop\.", text)
    assert complaint in re.sub(r"\S+x\.py:\d+", "x.py:N", text.replace("(", "( ")).replace("( ", "(")


@pytest.mark.parametrize(
    ("body", "handlers"),
    [
        ("class Shop(Payments, Mails): ...", "pay.dead:on_dead pay:charge mail.dead:on_letter mail:send"),
        (  # an override says all its queues
            """
class Other(WorkerApp):
    other = Queue[int]("other")
    @other.handler
    def charge(self, job: int) -> None: ...
class Shop(Other, Payments):
    @Other.other.handler
    @Payments.pay.handler
    def charge(self, job: int) -> None: ...
class Leaf(Shop):
    def charge(self, job: int) -> None: ...
""",
            "pay.dead:on_dead pay:charge other:charge",
        ),
        (  # two overrides of one handler: the order of the bases says which comes first, as ever
            """
class One(Payments):
    def charge(self, job: int) -> None: super().charge(job)
class Two(Payments):
    @Payments.pay.handler
    def charge(self, job: int) -> None: ...
class Shop(One, Two): ...
""",
            "pay.dead:on_dead pay:charge",
        ),
        ("class Shop(Payments, Helper): ...", "pay.dead:on_dead pay:charge"),
    ],
)
def test_names_that_fit_together(body: str, handlers: str, tmp_path: Path) -> None:
    module = load_service(MIXINS + body.strip("\n"), tmp_path / "x.py")
    app = getattr(module, "Leaf", module.Shop)
    assert {f"{name}:{handler.name}" for name, handler in app.worker_handlers.items()} == set(handlers.split())
