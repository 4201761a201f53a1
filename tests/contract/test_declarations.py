"""What services have declared, as the store remembers it: on every engine, for all owners."""

from __future__ import annotations

from pathlib import Path

import pytest

from framework.admin.compatibility import groups, missing
from framework.admin.store import Declared, Store
from framework.engine.declarations import LIVES, Declaration, Declarations, DeclaredQueue, read
from framework.model.extras import Extras
from framework.model.options import QueueOptions
from framework.service.app import WorkerApp
from framework.service.queues import Queue
from framework.service.settings import Settings

from .engines import Engine, SpoolEngine
from .helpers import FAR, a_job, bury_one, take_one

SHOP = Declaration("shop:Shop", "1.2", {"jobs": DeclaredQueue("shop.Item", "0123456789ab")})
BILLS = Declaration("bills:Bills", "", {"jobs": DeclaredQueue("bills.Bill", "ba9876543210"), "dead": DeclaredQueue()})
JOBS = QueueOptions("jobs", service="shop:Shop")


def speaking(owner: object) -> Declarations:
    """The owner, if its engine remembers declarations; the engine that tests call slow is another one's wrapper."""
    found = getattr(owner, "inner", owner)
    assert isinstance(found, Declarations)
    return found


def test_each_service_is_remembered_with_what_it_said_last(engine: Engine) -> None:
    mine, other = speaking(engine.open(JOBS)), speaking(engine.open(JOBS))
    assert mine.declarations() == []
    mine.declare(Declaration("shop:Shop", "1.1", {}))
    other.declare(BILLS)
    mine.declare(SHOP)
    bills, shop = other.declarations()
    assert (shop.service, shop.version, shop.queues) == (SHOP.service, SHOP.version, SHOP.queues)
    assert bills.queues == BILLS.queues
    assert bills.lives
    assert shop.lives


def test_a_service_that_stops_is_remembered_and_does_not_live(engine: Engine) -> None:
    owner = speaking(engine.open(JOBS))
    owner.withdraw("shop:Shop")  # it never said anything
    owner.declare(SHOP)
    owner.withdraw("shop:Shop")
    (found,) = owner.declarations()
    assert found.queues == SHOP.queues
    assert not found.lives
    owner.declare(SHOP)
    assert [one.lives for one in owner.declarations()] == [True]


def test_a_service_that_was_killed_lives_no_longer_after_a_while(engine: Engine) -> None:
    if isinstance(engine, SpoolEngine) and engine.moment < 1:
        pytest.skip("its time is real: test_a_time_far_away_is_no_sign_of_life")
    engine.die(lambda dying: speaking(dying).declare(SHOP), JOBS)
    owner = speaking(engine.open(JOBS))
    assert [one.lives for one in owner.declarations()] == [True]
    engine.advance(LIVES + 1)
    assert [one.lives for one in owner.declarations()] == [False]


@pytest.mark.parametrize("silent", [None, LIVES + 1, -LIVES - 1])
def test_a_time_far_away_is_no_sign_of_life(silent: float | None) -> None:
    assert not Declaration("shop:Shop", "", {}, silent).lives


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "7", "[]", "{}", '{"service": 1}', '{"service":"a","version":"","queues":[]}',
        '{"service":"a","version":"","queues":{"q":7}}', "[" * 100_000,
    ],
)  # fmt: skip
def test_a_damaged_declaration_says_nothing(text: str) -> None:
    assert read(text, 0.0) is None


def test_a_later_version_may_say_more() -> None:
    found = read('{"service":"a","version":"","queues":{"q":["M","f","more"]},"other":1}', 0.0)
    assert found is not None
    assert found.queues == {"q": DeclaredQueue("M", "f")}


@pytest.mark.parametrize("planted", [b"", b"\xff\xfe", b"12\n{", b"nan\n" + SHOP.text().encode()])
def test_what_lies_in_the_place_of_a_file_does_no_harm(tmp_path: Path, planted: bytes) -> None:
    engine = SpoolEngine(tmp_path)
    owner = speaking(engine.open(JOBS))
    root = tmp_path / "spool"
    (root / "declared.shop%3AShop").write_bytes(planted)
    (root / "declared.shop%3AShop.new").write_bytes(b"left by a process that was killed")
    (root / "declared.link").symlink_to("/etc/passwd")
    (root / "declared.directory").mkdir()
    assert all(not one.lives for one in owner.declarations())
    owner.withdraw("shop:Shop")
    owner.declare(SHOP)
    assert [one.service for one in owner.declarations() if one.lives] == ["shop:Shop"]
    engine.close()


# --- which stored payloads a service can read ------------------------------------------------------------------------


class Shop(WorkerApp):
    jobs = Queue[int]("jobs")


def test_payloads_are_found_in_every_state(engine: Engine) -> None:
    """Ready, delayed, claimed and dead; of a queue that the service does not declare the jobs are counted."""
    owner = engine.open(JOBS, QueueOptions("retired"))
    speaking(owner).declare(Declaration("tests.contract.test_declarations:Shop", "1", {"retired": DeclaredQueue()}))

    def put(job_id: str, payload: bytes, version: str, queue: str = "jobs", delay: float = 0) -> None:
        extras = Extras(fingerprint="0123456789ab", version=version)
        owner.enqueue([a_job(engine, job_id, queue=queue, payload=payload, extras=extras, delay=delay)])

    put("dead", b'"secret"', "1")
    bury_one(owner)
    put("claimed", b'"secret"', "1")
    take_one(owner)
    put("ready", b"7", "1")
    put("later", b"[]", "2", delay=FAR)
    put("lost", b"1", "1", queue="retired")
    store = Store(getattr(owner, "inner", owner), Declared.of(Shop, Settings()))
    first, second = groups(store, 100)
    assert (first.version, first.jobs, first.tried, first.unreadable) == ("1", 3, 3, 2)
    assert first.causes == {"payload: int_parsing": 2}
    assert (second.version, second.jobs, second.causes) == ("2", 1, {"payload: int_type": 1})
    assert [(one.jobs, one.tried) for one in groups(store, 1)] == [(3, 1), (1, 1)]
    (gone,) = missing(store)
    assert (gone.queue, gone.stats.jobs, gone.dropped) == ("retired", 1, True)
    assert store.failed == []
