"""`Job.on_conflict`: what an enqueue does to the waiting job that holds its unique key."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.support.settling import ack

from .engines import Engine, Owner
from .helpers import FAR, JOBS, a_job, assert_counts, ids, pass_time, take, take_one
from .test_unique import claimed, enqueue, released, waiting_for_its_retry, with_key


@pytest.mark.parametrize("delay", [0, FAR])
@pytest.mark.parametrize("until", ["done", "started", "3600"])
def test_replace_gives_the_payload_to_the_job_that_waits(engine: Engine, until: str, delay: float) -> None:
    """It keeps its id, uid, place and time."""
    broker = engine.open(JOBS)
    first = with_key(engine, "first", until=until, payload=b"1", headers={"a": "1"}, delay=delay)
    broker.enqueue([first, a_job(engine, "other", delay=delay)])
    for number in (b"2", b"3"):
        told = enqueue(
            engine, engine.open(), "next", until=until, payload=number, headers={"b": "2"}, on_conflict="replace"
        )
        assert (told, told.duplicate) == ("first", True)
    state: Any = "delayed" if delay else "ready"
    view, other = broker.browse("jobs", state)
    assert (view.job.id, view.job.payload, view.job.headers) == ("first", b"3", {"b": "2"})
    assert (view.job.uid, view.job.not_before, other.job.id) == (first.uid, first.not_before, "other")
    if not delay:
        assert ids(take(broker, 2)) == ["first", "other"]


def test_postpone_moves_the_job_that_waits(engine: Engine) -> None:
    broker = engine.open(JOBS)
    enqueue(engine, broker, "first", payload=b"1", until="started")
    for number in (b"2", b"3"):
        told = enqueue(engine, broker, "n", payload=number, until="started", delay=FAR, on_conflict="postpone")
        assert (told, told.duplicate) == ("first", True)
        assert_counts(broker, delayed=1)
    (view,) = broker.browse("jobs", "delayed")
    assert view.job.payload == b"3"
    assert view.job.not_before is not None
    assert view.job.not_before >= engine.now() + FAR - 60
    told = enqueue(engine, broker, "n", payload=b"4", until="started", delay=engine.moment, on_conflict="postpone")
    assert told == "first"
    pass_time(engine, broker, engine.moment)
    lease = take_one(broker)
    assert (lease.job.id, lease.job.payload, lease.attempt) == ("first", b"4", 1)
    ack(broker, [lease])
    assert not enqueue(engine, broker, "next", until="started", on_conflict="postpone").duplicate


def test_postpone_without_a_delay_lets_a_delayed_job_run_now(engine: Engine) -> None:
    broker = engine.open(JOBS)
    enqueue(engine, broker, "first", payload=b"1", delay=FAR)
    enqueue(engine, broker, "second", payload=b"2", on_conflict="postpone")
    broker.maintain()
    assert take_one(broker).job.payload == b"2"


def test_a_postponed_job_has_its_time_to_live_again(engine: Engine) -> None:
    broker = engine.open(JOBS)
    enqueue(engine, broker, "first", ttl=engine.moment)
    enqueue(engine, broker, "second", ttl=engine.moment * 4, delay=engine.moment, on_conflict="postpone")
    pass_time(engine, broker, engine.moment)
    assert ids(take(broker)) == ["first"]


@pytest.mark.parametrize("how", ["replace", "postpone"])
@pytest.mark.parametrize("bring", [claimed, waiting_for_its_retry, released])
def test_a_job_that_was_claimed_is_not_changed(engine: Engine, how: str, bring: Callable[[Owner], None]) -> None:
    broker = engine.open(JOBS)
    enqueue(engine, broker, "first", payload=b"1")
    bring(broker)
    told = enqueue(engine, broker, "second", payload=b"2", on_conflict=how)
    assert (told, told.duplicate) == ("first", True)
    states: tuple[Any, ...] = ("ready", "delayed", "in_flight")
    assert [view.job.payload for state in states for view in broker.browse("jobs", state)] == [b"1"]


@pytest.mark.parametrize("how", ["replace", "postpone"])
def test_a_free_key_is_stored_whatever_is_asked_for(engine: Engine, how: str) -> None:
    broker = engine.open(JOBS)
    enqueue(engine, broker, "first", payload=b"1", until="started")
    take_one(broker)
    assert not enqueue(engine, broker, "second", payload=b"2", until="started", on_conflict=how).duplicate
    assert take_one(broker).job.payload == b"2"


def test_what_is_gone_is_not_changed(engine: Engine) -> None:
    broker = engine.open(JOBS)
    enqueue(engine, broker, "first", until="3600")
    ack(broker, take(broker))
    assert enqueue(engine, broker, "second", until="3600", on_conflict="replace") == "first"
    assert_counts(broker)


def test_the_last_of_many_within_one_call_replaces(engine: Engine) -> None:
    broker = engine.open(JOBS)
    answers = broker.enqueue([
        with_key(engine, f"n{number}", payload=b"%d" % number, on_conflict="replace") for number in range(5)
    ])  # fmt: skip
    assert {str(answer) for answer in answers} == {"n0"}
    assert take_one(broker).job.payload == b"4"
    assert_counts(broker, in_flight=1)
