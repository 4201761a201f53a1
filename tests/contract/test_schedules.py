"""The ticks of schedules: each is handled once, whoever tries it, and its job is stored with it or not at all."""

from __future__ import annotations

import pytest

from framework.engine.port import Tick
from framework.model.errors import QueueFull
from framework.model.options import QueueOptions

from .engines import Engine
from .helpers import JOBS, a_job, assert_counts, assert_nothing_to_claim, ids, put, take, take_one

KEY = "weekly, in Zürich: 0 6 * * mon"


def test_a_tick_is_handled_once_by_whoever_is_first(engine: Engine) -> None:
    first, second = engine.open(JOBS), engine.open()
    assert first.ticks("jobs", [KEY])[1] == {}
    assert first.fire("jobs", KEY, None, 100.5)
    assert not second.fire("jobs", KEY, None, 100.5)
    assert second.fire("jobs", KEY, 100.5, 200.0, a_job(engine, "a"), missed=2)
    assert not first.fire("jobs", KEY, 100.5, 200.0, a_job(engine, "b"))
    assert not first.fire("jobs", KEY, None, 300.0, a_job(engine, "c"), missed=1)
    assert first.fire("jobs", KEY, 200.0, 300.0, None, missed=3)
    for broker in (first, second):
        assert broker.ticks("jobs", ["another", KEY])[1] == {KEY: Tick(300.0, 5)}
    assert ids(take(first, 1)) == ["a"]
    assert_nothing_to_claim(second)


def test_schedules_of_one_key_on_two_queues_are_two(engine: Engine) -> None:
    broker = engine.open(JOBS, QueueOptions("others"))
    assert broker.fire("jobs", KEY, None, 100.0)
    assert broker.fire("others", KEY, None, 200.0, a_job(engine, "a", queue="others"))
    assert broker.ticks("jobs", [KEY])[1] == {KEY: Tick(100.0)}
    assert broker.ticks("others", [KEY])[1] == {KEY: Tick(200.0)}
    assert ids(take(broker, 1, "others")) == ["a"]


def test_the_job_of_a_tick_is_like_any_other(engine: Engine) -> None:
    broker = engine.open(JOBS)
    put(engine, broker, "before")
    job = a_job(engine, "a", payload=b'{"report": 1}', headers={"content-type": "application/json"}, scheduled_for=99.5)
    assert broker.fire("jobs", KEY, None, 99.5, job)
    put(engine, broker, "after")
    assert_counts(broker, ready=3)
    assert take_one(broker).job.id == "before"
    lease = take_one(broker)
    assert (lease.job.id, lease.job.payload, lease.job.scheduled_for) == ("a", b'{"report": 1}', 99.5)
    assert (lease.job.uid, lease.attempt, lease.delivery) == (job.uid, 1, 1)
    broker.release([lease])
    assert ids(take(broker, 2)) == ["a", "after"]


def test_a_full_queue_refuses_a_tick_which_can_be_tried_again(engine: Engine) -> None:
    broker = engine.open(QueueOptions("jobs", max_length=1))
    put(engine, broker, "a")
    assert broker.fire("jobs", KEY, None, 100.0)
    with pytest.raises(QueueFull, match="jobs"):
        broker.fire("jobs", KEY, 100.0, 200.0, a_job(engine, "b"), missed=1)
    assert broker.ticks("jobs", [KEY])[1] == {KEY: Tick(100.0)}
    take_one(broker)
    assert broker.fire("jobs", KEY, 100.0, 200.0, a_job(engine, "b"), missed=1)
    assert ids(take(broker, 1)) == ["b"]


def test_the_store_tells_its_time(engine: Engine) -> None:
    broker = engine.open(JOBS)
    assert abs(broker.ticks("jobs", [])[0] - engine.now()) < 60


def test_a_tick_outlives_its_owner(engine: Engine) -> None:
    engine.open(JOBS)

    def work(owner: object) -> None:
        assert owner.fire("jobs", KEY, None, 100.0, a_job(engine, "a"))  # type: ignore[attr-defined]

    engine.die(work)
    broker = engine.open()
    assert broker.ticks("jobs", [KEY])[1] == {KEY: Tick(100.0)}
    assert ids(take(broker, 1)) == ["a"]
