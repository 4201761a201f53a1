"""One claim for several queues, and the roles that one process has for all."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from framework.model.errors import WorkerError
from framework.model.job import Lease
from framework.model.options import QueueOptions

from .engines import Engine, Owner
from .helpers import JOBS, assert_counts, ids, pass_time, put, take
from .test_waiting import waiting

OTHERS, THIRD = QueueOptions("others"), QueueOptions("third")
ALL = ["jobs", "others", "third"]


@pytest.fixture
def broker(engine: Engine) -> Owner:
    return engine.open(JOBS, OTHERS, THIRD, QueueOptions("nowhere"))


def test_a_claim_takes_from_every_queue_those_of_each_in_order(engine: Engine, broker: Owner) -> None:
    put(engine, broker, *"ab")
    put(engine, broker, *"cd", queue="third")
    leases = [*broker.claim(ALL, limit=10, wait=0), *broker.claim(ALL, limit=10, wait=0)]
    assert sorted((lease.queue, lease.job.id) for lease in leases) == [
        ("jobs", "a"), ("jobs", "b"), ("third", "c"), ("third", "d"),
    ]  # fmt: skip
    assert [id_ for id_ in ids(leases) if id_ in "ab"] == ["a", "b"]
    assert [id_ for id_ in ids(leases) if id_ in "cd"] == ["c", "d"]


def test_it_takes_no_more_than_the_limit_and_from_no_other_queue(engine: Engine, broker: Owner) -> None:
    put(engine, broker, *"abc")
    put(engine, broker, *"def", queue="others")
    put(engine, broker, "x", queue="third")
    found: list[str] = []
    for _ in range(3):
        leases = broker.claim(["jobs", "others"], limit=2, wait=0)
        assert len(leases) <= 2
        found += ids(leases)
    assert sorted(found) == list("abcdef")
    assert_counts(broker, "third", ready=1)


def test_a_queue_gives_only_where_those_named_before_it_leave_room(engine: Engine, broker: Owner) -> None:
    """So who calls decides whose turn it is."""
    put(engine, broker, *"abcdef")
    put(engine, broker, *"xy", queue="third")
    first = broker.claim(["jobs", "others", "third"], limit=2, wait=0)
    second = broker.claim(["third", "others", "jobs"], limit=2, wait=0)
    third = broker.claim(["third", "others", "jobs"], limit=2, wait=0)
    assert [ids(leases) for leases in (first, second, third)] == [["a", "b"], ["x", "y"], ["c", "d"]]


def test_each_of_forty_queues_shows_its_job(engine: Engine, broker: Owner) -> None:
    names = [f"small-{n}" for n in range(40)]
    broker.open([QueueOptions(name) for name in names])
    assert broker.claim(names, limit=50, wait=0) == []
    put(engine, broker, "late", queue="small-31")
    assert ids(take_of(broker, names, 1)) == ["late"]
    for name in names:
        put(engine, broker, name, queue=name)
    assert sorted(ids(take_of(broker, names, 40))) == sorted(names)


def take_of(broker: Owner, queues: list[str], count: int) -> list[Lease]:
    """Return so many leases, from claims that may find some of them later than others."""
    found: list[Lease] = []
    end = time.monotonic() + 30
    while len(found) < count and time.monotonic() < end:
        found += broker.claim(queues, limit=50, wait=1)
    return found


@pytest.mark.parametrize("queue", ALL)
def test_a_job_on_any_of_them_ends_the_wait(engine: Engine, broker: Owner, queue: str) -> None:
    producer = engine.open()
    assert broker.claim(ALL, limit=5, wait=0) == []
    with ThreadPoolExecutor(1) as pool, waiting(engine.open(), "nowhere") as nothing:
        claim = pool.submit(broker.claim, ALL, limit=5, wait=1)
        put(engine, producer, "a", queue=queue)
        assert ids(claim.result(10)) == ["a"]
        assert not nothing.done()


def test_a_delayed_job_of_any_of_them_is_found(engine: Engine, broker: Owner) -> None:
    put(engine, broker, "a", queue="third", delay=engine.moment)
    assert broker.claim(ALL, limit=5, wait=0) == []
    pass_time(engine, broker, engine.moment + 0.01)
    assert ids(take(broker, 1, "third")) == ["a"]


def test_a_queue_that_was_not_opened_is_named_and_nothing_is_claimed(engine: Engine, broker: Owner) -> None:
    put(engine, broker, "a")
    with pytest.raises(WorkerError, match="unheard"):
        broker.claim(["jobs", "unheard"], limit=5, wait=0)
    assert_counts(broker, ready=1)


def test_a_role_has_one_holder_until_that_closes(engine: Engine) -> None:
    one, other = engine.open(JOBS), engine.open()
    assert one.lead("watch")
    assert one.lead("watch")
    assert not other.lead("watch")
    assert other.lead("another/role")
    one.close()
    assert other.lead("watch")


def test_a_role_is_free_when_its_holder_dies(engine: Engine) -> None:
    engine.die(lambda owner: owner.lead("watch"), JOBS)
    assert engine.open(JOBS).lead("watch")


def test_the_local_directory_is_this_machines(engine: Engine) -> None:
    broker = engine.open(JOBS)
    assert broker.local_dir.is_dir()
    assert broker.local_dir == broker.local_dir
    assert [note for note in broker.notes if "\n" in note] == []
