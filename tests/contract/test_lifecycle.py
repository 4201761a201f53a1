"""Open, close, look: what is declared, counted and listed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from framework.engine.port import Inspector
from framework.model.errors import EnqueueFailed, WorkerError
from framework.model.options import QueueOptions
from tests.support.settling import ack, retry

from .engines import Engine
from .helpers import (
    FAR,
    JOBS,
    JOBS_WITH_LETTERS,
    LETTERS,
    a_failure,
    a_job,
    assert_counts,
    assert_nothing_to_claim,
    bury_one,
    eventually,
    fail_once,
    found,
    ids,
    listed,
    normal,
    pass_time,
    put,
    take,
    take_one,
)


def test_the_features_are_declared(engine: Engine) -> None:
    features = engine.open(JOBS).features
    assert features.system
    assert features.durable in ("nothing", "process", "power")
    assert features.settle_delay >= 0
    assert not (features.local and features.settle_delay), "what is local settles each success at once"


def test_it_can_be_inspected(engine: Engine) -> None:
    assert isinstance(engine.open(JOBS), Inspector)


def test_open_twice_keeps_what_is_held_and_adds_what_is_new(engine: Engine) -> None:
    broker = engine.open(JOBS)
    put(engine, broker, "a", "b")
    lease = take_one(broker)
    broker.open([JOBS])
    broker.open([JOBS, QueueOptions("others")])
    ack(broker, [lease])
    put(engine, broker, "c", queue="others")
    assert ids(take(broker) + take(broker, 1, "others")) == ["b", "c"]


def test_open_changes_the_limits(engine: Engine) -> None:
    broker = engine.open(QueueOptions("jobs", max_payload_bytes=1))
    broker.open([QueueOptions("jobs", max_payload_bytes=5)])
    put(engine, broker, "a", payload=b"12345")
    assert ids(take(broker)) == ["a"]


def test_close_twice_is_once(engine: Engine) -> None:
    broker = engine.open(JOBS)
    put(engine, broker, "a")
    take_one(broker)
    broker.close()
    broker.close()
    other = engine.open()
    other.release([one.lease for one in other.rescue()])
    lease = take_one(other)
    assert (lease.attempt, lease.delivery) == (1, 2)


def test_close_without_open(engine: Engine) -> None:
    engine.open(JOBS)
    unopened = engine._connect("never-opened")
    unopened.close()


def test_close_leaves_what_is_held_to_a_rescuer(engine: Engine) -> None:
    """What of it had started only the ledger knows: a worker gives back the rest before."""
    broker, other = engine.open(JOBS), engine.open()
    put(engine, broker, *"abcd")
    leases = take(broker, 3)
    broker.release([leases[2]])
    broker.close()
    assert ids(take(other, 2)) == ["c", "d"]
    assert_nothing_to_claim(other)
    rescued = other.rescue()
    assert sorted(one.lease.job.id for one in rescued) == ["a", "b"]
    other.release([one.lease for one in rescued])
    again = take(other, 2)
    assert ids(again) == ["a", "b"]
    assert [(lease.attempt, lease.delivery) for lease in again] == [(1, 2), (1, 2)]


def test_jobs_outlive_the_broker_that_stored_them(engine: Engine) -> None:
    broker = engine.open(JOBS)
    put(engine, broker, "a")
    broker.close()
    assert ids(take(engine.open())) == ["a"]


def test_an_unknown_queue_is_named(engine: Engine) -> None:
    broker = engine.open(JOBS)
    with pytest.raises(WorkerError, match="nonesuch"):
        broker.claim(["nonesuch"], limit=1, wait=0)
    with pytest.raises(WorkerError, match="nonesuch"):
        broker.stats("nonesuch")
    with pytest.raises(WorkerError, match="nonesuch"):
        list(broker.browse("nonesuch", "ready"))
    with pytest.raises(WorkerError, match="nonesuch"):
        broker.find("nonesuch", "a", "ready")


def test_a_job_for_an_unknown_queue_is_an_enqueue_error_that_names_it(engine: Engine) -> None:
    broker = engine.open(JOBS)
    with pytest.raises(EnqueueFailed, match="nonesuch") as caught:
        broker.enqueue([a_job(engine, "a"), a_job(engine, "b", queue="nonesuch")])
    assert listed(broker, "ready") == list(caught.value.enqueued)


def test_stats_count_every_state(engine: Engine) -> None:
    broker = engine.open(JOBS)
    put(engine, broker, *"abcdefghij")
    put(engine, broker, "k", "l", "m", delay=FAR)
    for _ in range(2):
        bury_one(broker)
    lease = take_one(broker)
    retry(broker, lease, delay=FAR, failure=a_failure(lease))
    take(broker, 3)
    assert_counts(broker, ready=4, delayed=4, in_flight=3, dead=2)
    assert_counts(engine.open(), ready=4, delayed=4, in_flight=3, dead=2)


def test_the_age_is_that_of_the_oldest_ready_job(engine: Engine) -> None:
    broker = engine.open(JOBS)
    assert broker.stats("jobs").oldest_age == 0
    before = engine.now()
    put(engine, broker, "a")
    put(engine, broker, "later", delay=FAR)
    pass_time(engine, broker, engine.moment)
    put(engine, broker, "b")
    eventually(lambda: broker.stats("jobs").ready, 2)
    age = broker.stats("jobs").oldest_age
    assert engine.moment - 0.05 <= age <= engine.now() - before + 0.05


def test_the_age_of_a_delayed_job_counts_from_when_it_was_due(engine: Engine) -> None:
    broker = engine.open(JOBS)
    (job,) = put(engine, broker, "a", delay=engine.moment)
    pass_time(engine, broker, 2 * engine.moment)
    eventually(lambda: broker.stats("jobs").ready, 1)
    assert job.not_before is not None
    assert engine.moment - 0.05 <= broker.stats("jobs").oldest_age <= engine.now() - job.not_before + 0.05


@pytest.mark.parametrize("early", [0.5, 3600.0, 1e9, 6e10])
def test_a_job_meant_for_the_past_waits_since_its_enqueue(engine: Engine, early: float) -> None:
    """Regression: with the spool, run_at of yesterday was a wait of a day, for the age and for the objective."""
    broker = engine.open(JOBS)
    jobs = [a_job(engine, f"n{number}", ttl=2 * FAR) for number in range(2)]
    broker.enqueue([replace(job, not_before=job.enqueued_at - early) for job in jobs])
    engine.advance(engine.moment)
    eventually(lambda: broker.stats("jobs").ready, 2)
    age = broker.stats("jobs").oldest_age
    assert engine.moment - 0.05 <= age <= engine.now() - jobs[0].enqueued_at + 0.05
    lease = take_one(broker)
    assert lease.eligible_at == pytest.approx(lease.job.enqueued_at, abs=0.05)
    retry(broker, lease, delay=0, failure=a_failure(lease))
    broker.release([take_one(broker)])
    for again in take(broker, 2):
        assert again.eligible_at >= again.job.enqueued_at - 0.05


def test_what_is_in_flight_has_no_age(engine: Engine) -> None:
    broker = engine.open(JOBS)
    put(engine, broker, "a")
    engine.advance(engine.moment)
    take_one(broker)
    eventually(lambda: (broker.maintain(), broker.stats("jobs").oldest_age)[1], 0)


def test_browse_lists_each_state_oldest_first(engine: Engine) -> None:
    broker = engine.open(JOBS)
    for name in "abcdefgh":
        put(engine, broker, name)
    put(engine, broker, "i", delay=FAR)
    put(engine, broker, "j", delay=FAR + 1)
    bury_one(broker)
    bury_one(broker)
    take(broker, 2)
    viewer = engine.open()
    assert listed(viewer, "ready") == ["e", "f", "g", "h"]
    assert listed(viewer, "delayed") == ["i", "j"]
    assert listed(viewer, "in_flight") == ["c", "d"]
    assert listed(viewer, "dead") == ["a", "b"]
    assert listed(viewer, "bad") == []


def test_a_view_shows_the_job_whole(engine: Engine) -> None:
    broker = engine.open(JOBS_WITH_LETTERS, LETTERS)
    (job,) = put(engine, broker, "a", payload=b"\x00\xff", headers={"ü": "☃"}, chosen=True, ttl=FAR)
    view = found(broker, "a", "ready")
    assert normal(view.job) == normal(job)
    assert (view.queue, view.state, view.attempt, view.delivery) == ("jobs", "ready", 0, 0)
    fail_once(broker)
    view = found(broker, "a", "ready")
    assert (view.attempt, view.delivery) == (1, 1)
    assert [failure.attempt for failure in view.job.history] == [1]
    take_one(broker)
    assert found(broker, "a", "in_flight").delivery == 2


def test_find_looks_in_one_state_of_one_queue(engine: Engine) -> None:
    broker = engine.open(JOBS, QueueOptions("others"))
    put(engine, broker, "a", "b")
    assert found(broker, "b", "ready").job.id == "b"
    assert broker.find("jobs", "b", "dead") is None
    assert broker.find("others", "b", "ready") is None
    assert broker.find("jobs", "c", "ready") is None


def test_looking_changes_nothing(engine: Engine) -> None:
    broker, viewer = engine.open(JOBS), engine.open()
    put(engine, broker, *"abc")
    list(viewer.browse("jobs", "ready"))
    viewer.find("jobs", "b", "ready")
    viewer.stats("jobs")
    leases = take(broker, 3)
    assert [(lease.job.id, lease.attempt, lease.delivery) for lease in leases] == [
        ("a", 1, 1),
        ("b", 1, 1),
        ("c", 1, 1),
    ]


def test_maintain_may_be_called_by_anybody_as_often_as_one_likes(engine: Engine) -> None:
    broker, other = engine.open(JOBS), engine.open()
    put(engine, broker, *"abc")
    lease = take_one(broker)
    for owner in (broker, other, broker, other):
        owner.maintain()
    assert_counts(broker, ready=2, in_flight=1)
    ack(broker, [lease])
    assert ids(take(other, 2)) == ["b", "c"]
