"""Length, size and lifetime: each at the first enqueue only, and never by silent loss."""

from __future__ import annotations

import pytest

from framework.model.errors import EnqueueError, PayloadTooLarge, QueueFull
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
    assert_nothing_to_claim,
    bury_one,
    fail_once,
    found,
    ids,
    listed,
    pass_time,
    put,
    take,
    take_one,
)

THREE = QueueOptions("jobs", max_length=3)


def test_a_full_queue_says_so_and_stores_nothing(engine: Engine) -> None:
    broker = engine.open(THREE)
    put(engine, broker, *"abc")
    with pytest.raises(QueueFull, match="jobs"):
        put(engine, broker, "d")
    with pytest.raises(QueueFull):
        put(engine, engine.open(), "e", delay=FAR)
    assert_counts(broker, ready=3)
    assert ids(take(broker, 3)) == ["a", "b", "c"]


def test_delayed_jobs_count_and_claimed_ones_do_not(engine: Engine) -> None:
    broker = engine.open(THREE)
    put(engine, broker, "a", "b")
    put(engine, broker, "c", delay=FAR)
    with pytest.raises(QueueFull):
        put(engine, broker, "d")
    take(broker, 2)
    put(engine, broker, "e", "f")
    with pytest.raises(QueueFull):
        put(engine, broker, "g")
    assert_counts(broker, ready=2, delayed=1, in_flight=2)


def test_dead_jobs_do_not_count(engine: Engine) -> None:
    broker = engine.open(THREE)
    put(engine, broker, *"abc")
    for _ in range(3):
        bury_one(broker)
    put(engine, broker, *"def")
    assert_counts(broker, ready=3, dead=3)


def test_there_is_room_again_when_jobs_are_claimed(engine: Engine) -> None:
    broker = engine.open(THREE)
    put(engine, broker, *"abc")
    ack(broker, take(broker, 1))
    put(engine, broker, "d")
    with pytest.raises(QueueFull):
        put(engine, broker, "e")


def test_a_batch_that_does_not_fit_tells_which_jobs_were_stored(engine: Engine) -> None:
    """All of it or a part may be refused; what the error says must be what the queue holds."""
    broker = engine.open(THREE)
    put(engine, broker, "a")
    with pytest.raises(QueueFull) as caught:
        put(engine, broker, *"bcdef")
    stored = list(caught.value.enqueued)
    assert stored == list("bcdef")[: len(stored)]
    assert len(stored) <= 2
    assert listed(broker, "ready") == ["a", *stored]


def full(engine: Engine) -> Owner:
    """Three jobs claimed (a, b, c) and three more behind them."""
    broker = engine.open(THREE)
    put(engine, broker, *"abc")
    return broker


def test_release_is_never_refused(engine: Engine) -> None:
    broker = full(engine)
    leases = take(broker, 3)
    put(engine, broker, *"def")
    broker.release(leases[:1])
    broker.release(leases[1:], delay=FAR)
    assert_counts(broker, ready=4, delayed=2)


def test_retry_is_never_refused(engine: Engine) -> None:
    broker = full(engine)
    first, second, _ = take(broker, 3)
    put(engine, broker, *"def")
    retry(broker, first, delay=FAR, failure=a_failure(first))
    retry(broker, second, delay=0, failure=a_failure(second))
    assert_counts(broker, ready=4, delayed=1, in_flight=1)


def test_replay_is_never_refused(engine: Engine) -> None:
    broker = full(engine)
    bury_one(broker)
    put(engine, broker, "d")
    assert broker.replay(found(broker, "a", "dead")) is True
    assert_counts(broker, ready=4)


def test_a_dead_letter_queue_is_never_full(engine: Engine) -> None:
    broker = engine.open(JOBS_WITH_LETTERS, QueueOptions("letters", is_dead_letter=True, max_length=1))
    put(engine, broker, *"abc")
    for _ in range(3):
        bury_one(broker)
    assert_counts(broker, "letters", ready=3)


def test_a_payload_of_the_largest_size_is_taken_and_one_byte_more_is_not(engine: Engine) -> None:
    broker = engine.open(QueueOptions("jobs", max_payload_bytes=1000))
    put(engine, broker, "a", payload=b"x" * 1000)
    with pytest.raises(PayloadTooLarge, match="1000"):
        put(engine, broker, "b", payload=b"x" * 1001)
    assert_counts(broker, ready=1)


def test_a_batch_with_a_large_payload_tells_which_jobs_were_stored(engine: Engine) -> None:
    broker = engine.open(QueueOptions("jobs", max_payload_bytes=10))
    jobs = [a_job(engine, name, payload=b"x" * size) for name, size in (("a", 1), ("b", 11), ("c", 1))]
    with pytest.raises(PayloadTooLarge) as caught:
        broker.enqueue(jobs)
    assert listed(broker, "ready") == list(caught.value.enqueued)
    assert "b" not in caught.value.enqueued


def test_failures_and_headers_do_not_count_as_payload(engine: Engine) -> None:
    """A job of the largest size stays good through many long failures."""
    broker = engine.open(QueueOptions("jobs", max_payload_bytes=2000))
    put(engine, broker, "a", payload=b"x" * 2000, headers={"h": "y" * 3000})
    for _ in range(12):
        fail_once(broker, message="m" * 1000, traceback="t" * 2000)
    lease = take_one(broker)
    assert (lease.attempt, lease.job.payload, len(lease.job.history)) == (13, b"x" * 2000, 11)


def test_a_job_past_its_ttl_is_a_dead_letter_and_not_claimed(engine: Engine) -> None:
    broker = engine.open(JOBS)
    put(engine, broker, "a", ttl=engine.moment)
    put(engine, broker, "b", ttl=FAR)
    engine.advance(engine.moment + 0.05)
    assert ids(take(broker)) == ["b"]
    assert_nothing_to_claim(broker)
    view = found(broker, "a", "dead")
    (failure,) = view.job.history
    assert (failure.reason, failure.attempt, failure.queue) == ("expired", 0, "jobs")
    assert failure.message


def test_maintenance_expires_what_nobody_claims(engine: Engine) -> None:
    broker = engine.open(JOBS)
    put(engine, broker, "a", ttl=engine.moment)
    pass_time(engine, broker, engine.moment + 0.05)
    assert_counts(broker, dead=1)
    assert found(broker, "a", "dead").job.history[-1].reason == "expired"


def test_before_its_ttl_it_is_claimed(engine: Engine) -> None:
    broker = engine.open(JOBS)
    put(engine, broker, "a", ttl=FAR)
    pass_time(engine, broker, engine.moment)
    assert ids(take(broker)) == ["a"]


def test_ttl_counts_from_the_first_eligibility(engine: Engine) -> None:
    """A delayed job does not expire while it is not due, nor at the moment when it is."""
    broker = engine.open(JOBS)
    put(engine, broker, "a", delay=4 * engine.moment, ttl=3 * engine.moment)
    pass_time(engine, broker, 3.5 * engine.moment)
    assert_counts(broker, delayed=1)
    pass_time(engine, broker, engine.moment)
    assert ids(take(broker)) == ["a"]


def test_a_job_that_waits_for_its_retry_expires_too(engine: Engine) -> None:
    broker = engine.open(JOBS)
    put(engine, broker, "a", ttl=2 * engine.moment)
    lease = take_one(broker)
    retry(broker, lease, delay=engine.moment, failure=a_failure(lease))
    pass_time(engine, broker, 2 * engine.moment + 0.05)
    assert_nothing_to_claim(broker)
    first, second = found(broker, "a", "dead").job.history
    assert (first.reason, second.reason) == ("error", "expired")


def test_a_job_in_flight_does_not_expire(engine: Engine) -> None:
    broker = engine.open(JOBS)
    put(engine, broker, "a", ttl=engine.moment)
    lease = take_one(broker)
    pass_time(engine, broker, engine.moment + 0.05)
    assert_counts(broker, in_flight=1)
    ack(broker, [lease])
    assert_counts(broker)


def test_an_expired_job_goes_to_the_dead_letter_queue_and_does_not_expire_there(engine: Engine) -> None:
    broker = engine.open(JOBS_WITH_LETTERS, LETTERS)
    (job,) = put(engine, broker, "a", ttl=engine.moment)
    engine.advance(engine.moment + 0.05)
    assert_nothing_to_claim(broker)
    broker.maintain()
    letter = take_one(broker, "letters")
    assert (letter.job.id, letter.job.uid, letter.job.queue, letter.attempt) == ("a", job.uid, "jobs", 1)
    assert [failure.reason for failure in letter.job.history] == ["expired"]


def test_what_expired_is_told_once_by_queue(engine: Engine) -> None:
    broker = engine.open(JOBS_WITH_LETTERS, LETTERS)
    put(engine, broker, "a", "b", ttl=engine.moment)
    put(engine, broker, "c")
    engine.advance(engine.moment + 0.05)
    take_one(broker)
    broker.maintain()
    assert broker.expired() == {"jobs": 2}
    assert broker.expired() == {}


def test_a_replayed_job_has_its_ttl_anew(engine: Engine) -> None:
    """Otherwise what has expired could never be replayed."""
    broker = engine.open(JOBS)
    put(engine, broker, "a", ttl=3 * engine.moment)
    pass_time(engine, broker, 3 * engine.moment + 0.05)
    assert broker.replay(found(broker, "a", "dead"))
    broker.maintain()
    lease = take_one(broker)
    assert lease.job.id == "a"
    broker.release([lease])
    pass_time(engine, broker, 3 * engine.moment + 0.05)
    assert_counts(broker, dead=1)


@pytest.mark.parametrize("payload", [b"xx", b"x"], ids=["too large", "full"])
def test_a_refusal_is_an_enqueue_error_that_lists_nothing(engine: Engine, payload: bytes) -> None:
    broker = engine.open(QueueOptions("jobs", max_length=1, max_payload_bytes=1))
    put(engine, broker, "a", payload=b"x")
    with pytest.raises(EnqueueError) as caught:
        put(engine, broker, "b", payload=payload)
    assert list(caught.value.enqueued) == []
    assert_counts(broker, ready=1)


def test_maintenance_in_parts_does_all_in_the_end(engine: Engine) -> None:
    """An engine may stop when its time is over, and says so."""
    broker = engine.open(JOBS_WITH_LETTERS, LETTERS)
    put(engine, broker, *(f"e{n}" for n in range(20)), ttl=engine.moment)
    put(engine, broker, *(f"d{n}" for n in range(20)), delay=engine.moment)
    engine.advance(engine.moment + 0.05)
    for _ in range(1000):
        if broker.maintain(seconds=0.0):
            break
    else:
        raise AssertionError("it never says that all is done")
    stats = broker.stats("jobs")
    assert (stats.ready, stats.delayed) == (20, 0)
    assert broker.stuck() == {}
