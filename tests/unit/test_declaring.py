"""Which declarations of other services are in the way of one that starts."""

from __future__ import annotations

from typing import Annotated, Any

import pytest
from pydantic import AfterValidator, BaseModel

from framework import DeadLetter, Queue, WorkerApp
from framework.engine.declarations import LIVES, Declaration, DeclaredQueue
from framework.engine.memory.engine import MemoryEngine, MemoryStore
from framework.maintenance.declaring import Declaring, conflicts
from framework.model.errors import DeclarationError, EngineUnavailable
from framework.runner.resolving import declaration, resolve
from framework.service.settings import load_settings


def service(name: str, silent: float | None = 1.0, **fields: Any) -> Declaration:
    queue = {"model": "shop.Item", "fingerprint": "a" * 12} | fields
    return Declaration(name, "", {"jobs": DeclaredQueue(**queue)}, silent)


MINE = service("shop:Shop")


@pytest.mark.parametrize(
    "other",
    [
        service("shop:Shop", fingerprint="b" * 12),  # another version of the same service
        service("bills:Bills"),  # the same model
        service("bills:Bills", silent=None, fingerprint="b" * 12),  # it has stopped
        service("bills:Bills", silent=LIVES + 1, fingerprint="b" * 12),  # it was killed
        service("bills:Bills", fingerprint=""),  # of a model without a schema
        Declaration("bills:Bills", "", {"others": DeclaredQueue("shop.Item", "b" * 12)}, 1.0),
    ],
)
def test_what_is_not_in_the_way(other: Declaration) -> None:
    assert conflicts(MINE, [other]) == []
    assert conflicts(MINE, []) == []


def test_another_model_is_refused() -> None:
    with pytest.raises(DeclarationError) as refused:
        conflicts(MINE, [service("bills:Bills", model="bills.Bill", fingerprint="b" * 12)])
    text = str(refused.value)
    for part in ("queue 'jobs'", "by shop:Shop (shop.Item)", "by bills:Bills (bills.Bill)", "1 s ago", "rename one"):
        assert part in text
    assert "\n" not in text


def test_another_version_of_the_same_model_is_only_said() -> None:
    """Two services of one repository: refusing one would block the deploy of both."""
    (warning,) = conflicts(MINE, [service("bills:Bills", fingerprint="b" * 12)])
    for part in ("queue 'jobs'", "two versions of shop.Item", "by shop:Shop (aaaaaaaaaaaa)", "by bills:Bills (bbb"):
        assert part in warning


def test_a_refused_service_has_declared_nothing() -> None:
    store = MemoryStore()
    first, second = (MemoryEngine(store, incarnation=name) for name in ("a", "b"))
    assert Declaring(first, MINE).begin() == []
    with pytest.raises(DeclarationError):
        Declaring(second, service("bills:Bills", model="bills.Bill", fingerprint="b" * 12)).begin()
    assert [one.service for one in first.declarations()] == ["shop:Shop"]
    Declaring(first, MINE).end()
    assert Declaring(second, service("bills:Bills", model="bills.Bill", fingerprint="b" * 12)).begin() == []


def test_of_two_that_start_at_once_at_least_one_is_refused() -> None:
    """The other one declares itself between our two looks."""
    store = MemoryStore()
    theirs = service("bills:Bills", model="bills.Bill", fingerprint="b" * 12)

    class Late(MemoryEngine):
        def declare(self, said: Declaration) -> None:
            super().declare(theirs)
            super().declare(said)

    engine = Late(store, incarnation="a")
    with pytest.raises(DeclarationError, match="bills:Bills"):
        Declaring(engine, MINE).begin()
    assert {one.service: one.lives for one in engine.declarations()} == {"shop:Shop": False, "bills:Bills": True}


def test_an_engine_that_remembers_nothing_is_no_mistake() -> None:
    engine: Any = object()
    assert Declaring(engine, MINE).begin() == []
    assert Declaring(engine, MINE).again() > 0
    Declaring(engine, MINE).end()


class Broken(MemoryEngine):
    def declarations(self) -> list[Declaration]:
        raise EngineUnavailable("a bad sector")

    def declare(self, said: Declaration) -> None:
        raise EngineUnavailable("a bad sector")

    withdraw = declare  # type: ignore[assignment]


def test_a_store_that_fails_here_keeps_no_service_from_running(caplog: pytest.LogCaptureFixture) -> None:
    declaring = Declaring(Broken(MemoryStore(), incarnation="a"), MINE)
    assert declaring.begin() == ["whether other services declare the same queues cannot be known: a bad sector"]
    assert declaring.again() == declaring.again() > 0
    declaring.end()
    assert caplog.messages == ["what this service declares cannot be stored: a bad sector"], "once"


class Item(BaseModel):
    number: int


class Shop(WorkerApp):
    dead = Queue[DeadLetter]("dead")
    jobs = Queue[Item]("jobs", dead_letter=dead)
    plain = Queue[dict[str, int]]("plain")
    even = Queue[Annotated[int, AfterValidator(lambda number: number * 2)]]("even")

    @jobs.handler
    def handle(self, item: Item) -> None: ...


def test_a_service_declares_the_names_and_fingerprints_of_its_models() -> None:
    found = declaration(Shop, resolve(Shop, load_settings(version="1.2")))
    assert (found.service, found.version) == (f"{__name__}:Shop", "1.2")
    assert found.queues["dead"] == DeclaredQueue()
    assert found.queues["jobs"].model == f"{__name__}.Item"
    assert found.queues["plain"].model == "dict[str, int]"
    assert " at 0x" not in found.queues["even"].model
    assert len(found.queues["plain"].fingerprint) == 12
