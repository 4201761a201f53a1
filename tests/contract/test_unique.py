"""Unique keys: while a job holds its key, another job of its queue with the key is not stored."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

import pytest

from framework.model.errors import QueueFull
from framework.model.extras import Extras
from framework.model.job import Job, JobId
from framework.model.options import QueueOptions
from tests.support.settling import ack, bury

from .engines import Engine, Owner
from .helpers import (
    FAR,
    JOBS,
    JOBS_WITH_LETTERS,
    LETTERS,
    a_failure,
    a_job,
    assert_counts,
    found,
    ids,
    pass_time,
    take,
    take_one,
)
from .states import claimed, letter, letter_in_flight, ready, released, resting, waiting_for_its_retry

KEY = "user/7 №☃\n"


def with_key(engine: Engine, job_id: str, *, key: str = KEY, until: str = "done", **fields: Any) -> Job:
    return a_job(engine, job_id, extras=Extras(unique_key=key, unique_scope=until), **fields)


def enqueue(engine: Engine, broker: Owner, job_id: str, **fields: Any) -> JobId:
    (answer,) = broker.enqueue([with_key(engine, job_id, **fields)])
    return answer


def snoozed(broker: Owner) -> None:
    broker.release([take_one(broker)], delay=FAR)


def replayed(broker: Owner) -> None:
    resting(broker)
    assert broker.replay(found(broker, "first", "dead", "letters"))


def replayed_and_claimed(broker: Owner) -> None:
    replayed(broker)
    take_one(broker)


def done(broker: Owner) -> None:
    ack(broker, [take_one(broker)])


def discarded(broker: Owner) -> None:
    assert broker.discard(found(broker, "first", "ready"))


WAITS = [ready, waiting_for_its_retry, released, snoozed, replayed]
RUNS = [claimed, replayed_and_claimed]
HOLDS_NOTHING = [letter, letter_in_flight, resting, done, discarded]


@pytest.mark.parametrize(
    ("until", "bring"),
    [*(("done", state) for state in (*WAITS, *RUNS)), *(("started", state) for state in WAITS)],
)
def test_a_key_is_held(engine: Engine, until: str, bring: Callable[[Owner], None]) -> None:
    broker = engine.open(JOBS_WITH_LETTERS, LETTERS)
    first = enqueue(engine, broker, "first", until=until)
    assert (first, first.duplicate) == ("first", False)
    bring(broker)
    for owner, options in ((broker, {}), (engine.open(), {"delay": FAR}), (broker, {"until": "started"})):
        second = enqueue(engine, owner, "second", **{"until": until, **options})
        assert (second, second.duplicate) == ("first", True)
    assert sum(1 for state in ("ready", "delayed", "in_flight") for _ in broker.browse("jobs", state)) == 1


@pytest.mark.parametrize(
    ("until", "bring"),
    [*(("done", state) for state in HOLDS_NOTHING), *(("started", state) for state in (*HOLDS_NOTHING, *RUNS))],
)
def test_a_key_is_free(engine: Engine, until: str, bring: Callable[[Owner], None]) -> None:
    """And the next job holds it at once."""
    broker = engine.open(JOBS_WITH_LETTERS, LETTERS)
    enqueue(engine, broker, "first", until=until)
    bring(broker)
    second = enqueue(engine, engine.open(), "second", until=until)
    assert (second, second.duplicate) == ("second", False)
    third = enqueue(engine, broker, "third", until=until)
    assert (third, third.duplicate) == ("second", True)


def test_a_window_holds_whatever_becomes_of_the_job(engine: Engine) -> None:
    broker = engine.open(JOBS)
    seconds = engine.moment * 3
    until = repr(seconds)
    enqueue(engine, broker, "first", until=until)
    ack(broker, take(broker))
    broker.maintain()
    second = enqueue(engine, broker, "second", until=until)
    assert (second, second.duplicate) == ("first", True)
    pass_time(engine, broker, seconds)
    third = enqueue(engine, broker, "third", until=until)
    assert (third, third.duplicate) == ("third", False)
    fourth = enqueue(engine, broker, "fourth", until=until)
    assert (fourth, fourth.duplicate) == ("third", True)


def test_a_window_ends_while_the_job_waits(engine: Engine) -> None:
    broker = engine.open(JOBS)
    enqueue(engine, broker, "first", until=repr(engine.moment))
    pass_time(engine, broker, engine.moment)
    assert not enqueue(engine, broker, "second").duplicate
    assert ids(take(broker, 2)) == ["first", "second"]


def test_the_first_stays_as_it_was(engine: Engine) -> None:
    broker = engine.open(JOBS)
    enqueue(engine, broker, "first", payload=b"1")
    enqueue(engine, broker, "second", payload=b"2")
    lease = take_one(broker)
    assert (lease.job.id, lease.job.payload, lease.job.extras.unique_key) == ("first", b"1", KEY)


def test_keys_belong_to_their_queue_and_are_no_ids(engine: Engine) -> None:
    broker = engine.open(JOBS, QueueOptions("others"))
    assert not enqueue(engine, broker, "a").duplicate
    assert not enqueue(engine, broker, "b", queue="others").duplicate
    assert not enqueue(engine, broker, "c", key="another").duplicate
    (chosen,) = broker.enqueue([a_job(engine, KEY, chosen=True)])
    assert not chosen.duplicate
    assert enqueue(engine, broker, "d", queue="others").duplicate


def test_duplicates_within_one_call(engine: Engine) -> None:
    broker = engine.open(JOBS)
    many = [a_job(engine, f"m{number}") for number in range(40)]
    answers = broker.enqueue([
        *many[:20], with_key(engine, "a"), with_key(engine, "b", key="other"), *many[20:], with_key(engine, "c"),
    ])  # fmt: skip
    told = [(str(answer), answer.duplicate) for answer in answers]
    assert told[20:22] == [("a", False), ("b", False)]
    assert told[-1] == ("a", True)
    assert_counts(broker, ready=42)


def test_a_duplicate_is_no_reason_to_be_full_and_a_refused_key_is_not_held(engine: Engine) -> None:
    broker = engine.open(QueueOptions("jobs", max_length=1))
    enqueue(engine, broker, "first")
    assert enqueue(engine, broker, "second").duplicate
    with pytest.raises(QueueFull):
        enqueue(engine, broker, "third", key="another")
    ack(broker, take(broker))
    assert_counts(broker)
    assert not enqueue(engine, broker, "fourth", key="another").duplicate


def test_an_expired_job_holds_none(engine: Engine) -> None:
    broker = engine.open(JOBS_WITH_LETTERS, LETTERS)
    enqueue(engine, broker, "first", ttl=engine.moment / 2)
    pass_time(engine, broker, engine.moment)
    assert_counts(broker, "letters", dead=0, ready=1)
    assert not enqueue(engine, broker, "second").duplicate


def test_a_key_is_held_while_the_owner_is_dead(engine: Engine) -> None:
    broker = engine.open(JOBS)
    enqueue(engine, broker, "first")
    engine.die(claimed)
    assert enqueue(engine, broker, "second").duplicate
    (rescued,) = broker.rescue()
    broker.release([rescued.lease])
    assert enqueue(engine, broker, "third").duplicate
    ack(broker, take(broker))
    assert not enqueue(engine, broker, "fourth").duplicate


def test_a_replayed_job_whose_key_is_taken_runs_beside_the_other(engine: Engine) -> None:
    """Both run, and the end of the replayed one leaves the key to the other."""
    broker = engine.open(JOBS_WITH_LETTERS, LETTERS)
    enqueue(engine, broker, "first")
    resting(broker)
    assert not enqueue(engine, broker, "second").duplicate
    assert broker.replay(found(broker, "first", "dead", "letters"))
    assert enqueue(engine, broker, "third") == "second"
    by_id = {lease.job.id: lease for lease in take(broker, 2)}
    assert set(by_id) == {"first", "second"}
    ack(broker, [by_id["first"]])
    assert enqueue(engine, broker, "third") == "second"
    ack(broker, [by_id["second"]])
    assert not enqueue(engine, broker, "fourth").duplicate


def test_a_job_that_waits_again_leaves_the_key_to_the_next_one(engine: Engine) -> None:
    """Its key was taken while it ran."""
    broker = engine.open(JOBS)
    enqueue(engine, broker, "first", until="started")
    lease = take_one(broker)
    assert not enqueue(engine, broker, "second", until="started").duplicate
    broker.release([lease])
    assert enqueue(engine, broker, "third", until="started") == "second"
    by_id = {lease.job.id: lease for lease in take(broker, 2)}
    ack(broker, [by_id["first"]])
    broker.release([by_id["second"]])
    assert enqueue(engine, broker, "third", until="started") == "second"


def test_a_dead_letter_goes_without_the_key_of_another(engine: Engine) -> None:
    broker = engine.open(JOBS)
    enqueue(engine, broker, "first", until="started")
    lease = take_one(broker)
    enqueue(engine, broker, "second", until="started")
    bury(broker, lease, failure=a_failure(lease))
    assert enqueue(engine, broker, "third", until="started") == "second"
    assert broker.discard(found(broker, "first", "dead"))
    assert enqueue(engine, broker, "third", until="started") == "second"


def test_one_of_many_threads_wins(engine: Engine) -> None:
    broker = engine.open(JOBS)
    start, answers = threading.Barrier(8), list[JobId]()

    def race(number: int) -> None:
        jobs = [with_key(engine, f"{number}-{at}", key=f"k{at}") for at in range(5)]
        start.wait()
        for at, job in enumerate(jobs if number % 2 else reversed(jobs)):
            answers.extend(broker.enqueue([job] if at else [job, with_key(engine, f"{number}-again", key=KEY)]))

    threads = [threading.Thread(target=race, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stored = [str(answer) for answer in answers if not answer.duplicate]
    assert len(stored) == 6
    assert {str(answer) for answer in answers} == set(stored), "a duplicate has the id of the job that was stored"
    assert_counts(broker, ready=6)


def test_one_of_many_processes_wins(engine: Engine) -> None:
    """Each enqueues the keys in another order, one by one and in one call."""
    broker = engine.open(JOBS)
    if broker.features.durable == "nothing":
        pytest.skip("the engine in memory has one process")
    keys, (gate, start), (read, write) = [f"k{at}" for at in range(6)], os.pipe(), os.pipe()
    children = []
    for number in range(4):
        children.append(os.fork())
        if children[-1] == 0:
            try:
                os.close(start)
                mine, order = engine.open(), keys[number:] + keys[:number]
                os.read(gate, 1)  # ends once the parent has closed the other end
                for some in ([order[0]], [order[1]], order):
                    for told in mine.enqueue([with_key(engine, f"{number}-{key}", key=key) for key in some]):
                        os.write(write, f"{told} {told.duplicate}\n".encode())
            finally:
                os._exit(0)
    for end in (start, gate, write):
        os.close(end)
    with open(read) as pipe:
        answers = [line.split() for line in pipe]
    for child in children:
        os.waitpid(child, 0)
    stored = sorted(job_id for job_id, duplicate in answers if duplicate == "False")
    assert sorted(job_id.partition("-")[2] for job_id in stored) == keys
    assert len(answers) == 4 * 8
    assert {job_id for job_id, _ in answers} == set(stored)
    assert_counts(broker, ready=6)


@pytest.mark.parametrize("until", ["done", "started", "60"])
def test_any_key_within_the_limits(engine: Engine, until: str) -> None:
    broker = engine.open(JOBS)
    for key in ("../../etc/passwd", ".", "x" * 255, "\x00", "\\", "%s", "a,i", "'"):
        assert not enqueue(engine, broker, "", key=key, until=until).duplicate, key
        assert enqueue(engine, broker, "", key=key, until=until).duplicate, key
    leases = take(broker, 8)
    assert {lease.job.extras.unique_scope for lease in leases} == {until}


def test_a_scope_that_no_version_knows_is_that_of_a_living_job(engine: Engine) -> None:
    broker = engine.open(JOBS)
    for scope in ("forever", "nan", "inf", "-1"):
        enqueue(engine, broker, scope, key=scope, until=scope)
        assert enqueue(engine, broker, "", key=scope).duplicate
    leases = take(broker, 4)
    assert enqueue(engine, broker, "", key="nan").duplicate
    ack(broker, leases)
    assert not enqueue(engine, broker, "", key="nan").duplicate
