"""Ids that callers choose: while a job of that id exists in any state of its queue, the id enqueues nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from framework.model.errors import QueueFull
from framework.model.options import QueueOptions
from tests.support.settling import ack, retry

from .engines import Engine, Owner
from .helpers import (
    FAR,
    JOBS,
    JOBS_WITH_LETTERS,
    LETTERS,
    a_failure,
    a_job,
    assert_counts,
    bury_one,
    found,
    ids,
    put,
    take,
    take_one,
)
from .states import claimed, letter, letter_in_flight, ready, released, resting, waiting_for_its_retry

ID = "invoice/2024-№7"


def letter_that_failed(broker: Owner) -> None:
    bury_one(broker)
    bury_one(broker, "letters")


def replayed(broker: Owner) -> None:
    resting(broker)
    broker.replay(found(broker, ID, "dead", "letters"))


STATES = [
    ready, claimed, waiting_for_its_retry, released, letter, letter_in_flight, resting, letter_that_failed,
    replayed,
]  # fmt: skip


def count(broker: Owner) -> int:
    """Jobs of any state in both queues, as they are listed."""
    states = ("ready", "delayed", "in_flight", "dead")
    return sum(1 for queue in ("jobs", "letters") for state in states for _ in broker.browse(queue, state))


@pytest.mark.parametrize("bring", STATES)
def test_a_chosen_id_is_taken_in_every_state(engine: Engine, bring: Callable[[Owner], None]) -> None:
    broker = engine.open(JOBS_WITH_LETTERS, LETTERS)
    put(engine, broker, ID, chosen=True, payload=b"first")
    bring(broker)
    put(engine, broker, ID, chosen=True, payload=b"second")
    put(engine, engine.open(), ID, chosen=True, payload=b"third", delay=FAR)
    assert count(broker) == 1


@pytest.mark.parametrize("bring", STATES)
def test_a_duplicate_is_answered_and_not_swallowed(engine: Engine, bring: Callable[[Owner], None]) -> None:
    broker = engine.open(JOBS_WITH_LETTERS, LETTERS)
    (first,) = broker.enqueue([a_job(engine, ID, chosen=True)])
    assert (first, first.duplicate) == (ID, False)
    bring(broker)
    (second,) = engine.open().enqueue([a_job(engine, ID, chosen=True)])
    assert (second, second.duplicate) == (ID, True)


def test_each_job_of_a_call_gets_its_answer(engine: Engine) -> None:
    broker = engine.open(JOBS)
    many = [a_job(engine, f"m{number}") for number in range(40)]  # enough for a batch
    jobs = [a_job(engine, "a"), a_job(engine, ID, chosen=True), *many, a_job(engine, ID, chosen=True)]
    answers = broker.enqueue(jobs)
    assert [(str(answer), answer.duplicate) for answer in answers] == [
        ("a", False),
        (ID, False),
        *((f"m{number}", False) for number in range(40)),
        (ID, True),
    ]


def test_what_was_answered_before_an_error_says_so_too(engine: Engine) -> None:
    broker = engine.open(QueueOptions("jobs", max_length=1))
    chosen = [a_job(engine, ID, chosen=True) for _ in range(2)]
    with pytest.raises(QueueFull) as full:
        broker.enqueue([*chosen, a_job(engine, "one more")])
    assert [(answer, getattr(answer, "duplicate", None)) for answer in full.value.enqueued] == [(ID, False), (ID, True)]


def test_it_is_taken_by_a_job_that_is_not_due(engine: Engine) -> None:
    broker = engine.open(JOBS)
    put(engine, broker, ID, chosen=True, delay=FAR)
    put(engine, broker, ID, chosen=True)
    assert_counts(broker, delayed=1)


def test_it_is_taken_by_a_job_dead_on_its_own_queue(engine: Engine) -> None:
    broker = engine.open(JOBS)
    put(engine, broker, ID, chosen=True)
    bury_one(broker)
    put(engine, broker, ID, chosen=True)
    assert_counts(broker, dead=1)


def test_the_first_one_stays_as_it_was(engine: Engine) -> None:
    broker = engine.open(JOBS)
    (first,) = put(engine, broker, ID, chosen=True, payload=b"first")
    put(engine, broker, ID, chosen=True, payload=b"second")
    lease = take_one(broker)
    assert (lease.job.payload, lease.job.uid, lease.job.chosen_id) == (b"first", first.uid, True)


def free_by_ack(broker: Owner) -> None:
    ack(broker, [take_one(broker)])


def free_by_ack_after_a_retry(broker: Owner) -> None:
    lease = take_one(broker)
    retry(broker, lease, delay=0, failure=a_failure(lease))
    broker.maintain()
    free_by_ack(broker)


def free_by_discarding_a_letter(broker: Owner) -> None:
    bury_one(broker)
    ack(broker, [take_one(broker, "letters")])


def free_by_discarding_what_rests(broker: Owner) -> None:
    resting(broker)
    assert broker.discard(found(broker, ID, "dead", "letters"))


def free_by_discarding_what_is_ready(broker: Owner) -> None:
    assert broker.discard(found(broker, ID, "ready"))


def free_by_ack_after_a_replay(broker: Owner) -> None:
    replayed(broker)
    free_by_ack(broker)


FREED = [
    free_by_ack, free_by_ack_after_a_retry, free_by_discarding_a_letter, free_by_discarding_what_rests,
    free_by_discarding_what_is_ready, free_by_ack_after_a_replay,
]  # fmt: skip


@pytest.mark.parametrize("free", FREED)
def test_it_is_free_again_once_its_job_is_gone(engine: Engine, free: Callable[[Owner], None]) -> None:
    broker = engine.open(JOBS_WITH_LETTERS, LETTERS)
    put(engine, broker, ID, chosen=True, payload=b"first")
    free(broker)
    assert count(broker) == 0
    put(engine, broker, ID, chosen=True, payload=b"second")
    lease = take_one(broker)
    assert (lease.job.payload, lease.attempt, lease.delivery) == (b"second", 1, 1)
    put(engine, broker, ID, chosen=True, payload=b"third")
    assert count(broker) == 1


def test_it_is_taken_within_one_batch(engine: Engine) -> None:
    broker = engine.open(JOBS)
    put(engine, broker, ID, "other", ID, chosen=True)
    assert ids(take(broker, 2)) == [ID, "other"]
    assert_counts(broker, in_flight=2)


def test_each_queue_has_its_own_ids(engine: Engine) -> None:
    broker = engine.open(JOBS, QueueOptions("others"))
    put(engine, broker, ID, chosen=True)
    put(engine, broker, ID, chosen=True, queue="others")
    assert ids(take(broker, 1, "others")) == [ID]
    assert ids(take(broker)) == [ID]


def test_a_duplicate_is_no_reason_to_be_full(engine: Engine) -> None:
    broker = engine.open(QueueOptions("jobs", max_length=1))
    put(engine, broker, ID, chosen=True)
    put(engine, broker, ID, chosen=True)
    with pytest.raises(QueueFull):
        put(engine, broker, "another", chosen=True)


def test_an_id_refused_by_a_full_queue_is_not_taken(engine: Engine) -> None:
    broker = engine.open(QueueOptions("jobs", max_length=1))
    put(engine, broker, "first")
    with pytest.raises(QueueFull):
        put(engine, broker, ID, chosen=True)
    ack(broker, take(broker))
    assert_counts(broker)
    put(engine, broker, ID, chosen=True)
    assert ids(take(broker)) == [ID]


def test_it_is_taken_while_its_owner_is_dead(engine: Engine) -> None:
    broker = engine.open(JOBS)
    put(engine, broker, ID, chosen=True)
    engine.die(claimed)
    put(engine, broker, ID, chosen=True)
    (rescued,) = broker.rescue()
    put(engine, broker, ID, chosen=True)
    ack(broker, [rescued.lease])
    assert_counts(broker)
    put(engine, broker, ID, chosen=True)
    assert_counts(broker, ready=1)


@pytest.mark.parametrize("job_id", ["../../etc/passwd", ".", "a/b", "x" * 1000, "\x00\n", "ключ", " "])
def test_any_text_is_an_id(engine: Engine, job_id: str) -> None:
    broker = engine.open(JOBS)
    put(engine, broker, job_id, chosen=True)
    put(engine, broker, job_id, chosen=True)
    assert_counts(broker, ready=1)
    lease = take_one(broker)
    assert lease.job.id == job_id
    ack(broker, [lease])
    put(engine, broker, job_id, chosen=True)
    assert_counts(broker, ready=1)
