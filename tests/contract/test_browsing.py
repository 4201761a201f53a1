"""Lists that go on from any position, and one job by its id, in every state."""

from __future__ import annotations

import time
from itertools import islice

import pytest

from framework.engine.port import State
from framework.model.errors import EngineError, UsageError
from framework.model.options import QueueOptions
from framework.service.request import new_ids
from tests.support.settling import rest

from .engines import Engine, Owner
from .helpers import (
    FAR,
    JOBS,
    JOBS_WITH_LETTERS,
    LETTERS,
    a_job,
    bury_one,
    eventually,
    fail_once,
    found,
    put,
    take,
    take_one,
)

STATES: tuple[State, ...] = ("ready", "delayed", "in_flight", "dead")


def paged(viewer: Owner, state: State, queue: str = "jobs", *, size: int = 3) -> list[list[str]]:
    """The ids of a state, page by page, each from the cursor of the one before."""
    pages, after = [], ""
    while page := list(islice(viewer.browse(queue, state, after=after), size)):
        pages.append([view.job.id for view in page])
        after = page[-1].cursor
    return pages


def test_a_delayed_job_says_when_it_is_due(engine: Engine) -> None:
    """Also one that was put back, and only while it is delayed."""
    broker = engine.open(JOBS)
    put(engine, broker, "later", delay=FAR)
    put(engine, broker, "now")
    first = found(broker, "later", "delayed")
    assert first.due == pytest.approx(first.job.not_before, abs=1e-3)
    lease = take_one(broker)
    assert found(broker, "now", "in_flight").due is None
    broker.release([lease], delay=FAR)
    back = found(broker, "now", "delayed")
    assert back.due is not None
    assert back.due - back.since == pytest.approx(FAR, abs=30)


def test_pages_are_the_list_in_pieces(engine: Engine) -> None:
    broker = engine.open(JOBS)
    broker.enqueue([a_job(engine, f"j{number:02}") for number in range(8)])
    put(engine, broker, "k")
    put(engine, broker, *(f"later {number}" for number in range(4)), delay=FAR)
    viewer = engine.open()
    assert paged(viewer, "ready") == [["j00", "j01", "j02"], ["j03", "j04", "j05"], ["j06", "j07", "k"]]
    assert paged(viewer, "delayed") == [["later 0", "later 1", "later 2"], ["later 3"]]
    for _ in range(3):
        bury_one(broker)
    take(broker, 2)
    assert paged(viewer, "dead", size=2) == [["j00", "j01"], ["j02"]]
    assert paged(viewer, "in_flight", size=1) == [["j03"], ["j04"]]
    assert paged(viewer, "ready", size=9) == [["j05", "j06", "j07", "k"]]
    assert paged(viewer, "bad") == []


def test_a_page_goes_on_behind_a_job_that_is_gone(engine: Engine) -> None:
    broker = engine.open(JOBS)
    put(engine, broker, *"abcd")
    after = [view.cursor for view in islice(broker.browse("jobs", "ready"), 2)][-1]
    take(broker, 2)
    put(engine, broker, "e")
    assert [view.job.id for view in broker.browse("jobs", "ready", after=after)] == ["c", "d", "e"]


def test_pages_mix_priorities_in_the_order_of_enqueue(engine: Engine) -> None:
    from framework.model.extras import Extras

    broker = engine.open(JOBS)
    for name, priority in (("a", 5), ("b", 0), ("c", 9), ("d", 5), ("e", 1)):
        put(engine, broker, name, extras=Extras(priority=priority))
    assert paged(broker, "ready", size=2) == [["a", "b"], ["c", "d"], ["e"]]


def test_dead_letters_of_an_unhandled_queue_are_paged_from_all_states(engine: Engine) -> None:
    letters = QueueOptions("letters", is_dead_letter=True, handled=False)
    broker = engine.open(JOBS_WITH_LETTERS, letters)
    put(engine, broker, *"abcde")
    for _ in range(5):
        bury_one(broker)
    assert paged(broker, "dead", "letters", size=2) == [["a", "b"], ["c", "d"], ["e"]]
    assert [(view.queue, view.state) for view in broker.get(["jobs", "letters"], "c")] == [("letters", "dead")]


def test_what_is_no_cursor_is_refused(engine: Engine) -> None:
    broker = engine.open(JOBS)
    put(engine, broker, "a")
    for nonsense in ("nonsense", "../x", "-1", "\N{SUPERSCRIPT TWO}"):
        with pytest.raises(UsageError, match="is no position"):
            list(broker.browse("jobs", "ready", after=nonsense))


@pytest.mark.parametrize("chosen", [True, False])
def test_a_job_is_found_by_its_id_in_every_state(engine: Engine, chosen: bool) -> None:
    broker, viewer = engine.open(JOBS_WITH_LETTERS, LETTERS), engine.open()
    wanted = "order/7 \N{SNOWMAN}" if chosen else new_ids()[0]
    put(engine, broker, "before")
    put(engine, broker, wanted, chosen=chosen)
    put(engine, broker, "behind")
    take_one(broker)

    def seen() -> list[tuple[str, State, str]]:
        return [(view.queue, view.state, view.job.id) for view in viewer.get(["jobs", "letters"], wanted)]

    assert seen() == [("jobs", "ready", wanted)]
    lease = take_one(broker)
    assert seen() == [("jobs", "in_flight", wanted)]
    broker.release([lease], delay=FAR)
    assert seen() == [("jobs", "delayed", wanted)]
    assert list(viewer.get(["letters"], wanted)) == []


@pytest.mark.parametrize("chosen", [True, False])
def test_a_dead_letter_and_a_replayed_one_are_found_by_their_id(engine: Engine, chosen: bool) -> None:
    broker, viewer = engine.open(JOBS_WITH_LETTERS, LETTERS), engine.open()
    wanted = "order-7" if chosen else new_ids()[0]
    put(engine, broker, wanted, chosen=chosen)
    fail_once(broker)
    bury_one(broker)
    rest(broker, take_one(broker, "letters"))
    (view,) = viewer.get(["jobs", "letters"], wanted)
    assert (view.queue, view.state, view.is_dead_letter) == ("letters", "dead", True)
    assert [failure.attempt for failure in view.job.history] == [1, 2]
    assert viewer.replay(view)
    (view,) = viewer.get(["letters", "jobs"], wanted)
    assert (view.queue, view.state, view.attempt, view.is_dead_letter) == ("jobs", "ready", 0, False)
    assert viewer.discard(view)
    assert list(viewer.get(["letters", "jobs"], wanted)) == []


def test_any_other_id_is_found_too_and_one_on_several_queues_is_named_with_each(engine: Engine) -> None:
    broker = engine.open(JOBS, QueueOptions("others"))
    for text in ("plain", 'quoted " \\ \n', "\N{SNOWMAN}"):
        broker.enqueue([a_job(engine, text), a_job(engine, text, queue="others")])
        assert sorted(view.queue for view in broker.get(["jobs", "others"], text)) == ["jobs", "others"]
        assert [view.queue for view in broker.get(["others"], text)] == ["others"]
    assert list(broker.get(["jobs", "others"], "plai")) == []
    with pytest.raises(EngineError, match="nonesuch"):
        list(broker.get(["nonesuch"], "plain"))


def test_all_queues_of_the_store_are_named_and_can_be_read_undeclared(engine: Engine) -> None:
    broker = engine.open(JOBS_WITH_LETTERS, LETTERS, QueueOptions("others"))
    put(engine, broker, "a")
    viewer = engine.open()
    assert viewer.stored_queues() == ["jobs", "letters", "others"]
    assert found(viewer, "a", "ready").job.id == "a"


def test_the_store_tells_when_a_service_reported(engine: Engine) -> None:
    broker = engine.open(QueueOptions("jobs", service="Shop"))
    if engine.__class__.__name__ in ("MemoryEngine", "SlowEngine"):
        assert broker.last_seen("jobs") is None
        return
    began = time.time()

    def look() -> bool:
        broker.maintain()
        return (broker.last_seen("jobs") or 0.0) > began - 5

    eventually(look, True)
    assert (engine.open().last_seen("jobs") or 0.0) <= time.time() + 5
