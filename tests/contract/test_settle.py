"""A lease is settled once: ack, retry or release (bury and rest: test_letters)."""

from __future__ import annotations

import threading

import pytest

from framework.model.errors import LeaseLost
from framework.model.job import Failure, Lease
from framework.model.outcome import SUCCEEDED, Kind, Outcome, Settlement
from tests.support.settling import ack, retry

from .engines import Engine
from .helpers import (
    FAR,
    JOBS,
    JOBS_WITH_LETTERS,
    LETTERS,
    SETTLE,
    a_failure,
    assert_counts,
    assert_nothing_to_claim,
    bury_one,
    fail_once,
    ids,
    listed,
    pass_time,
    put,
    take,
    take_one,
)


def test_acked_jobs_are_gone(engine: Engine) -> None:
    broker = engine.open(JOBS)
    put(engine, broker, *"abc")
    leases = take(broker, 3)
    ack(broker, leases[:2])
    assert_counts(broker, in_flight=1)
    ack(broker, leases[2:])
    assert_counts(broker)
    assert_nothing_to_claim(engine.open())


def test_a_retry_spends_an_attempt(engine: Engine) -> None:
    broker = engine.open(JOBS)
    (job,) = put(engine, broker, "a")
    for attempt in (1, 2, 3):
        lease = fail_once(broker)
        assert (lease.attempt, lease.delivery) == (attempt, attempt)
    lease = take_one(engine.open())
    assert (lease.attempt, lease.delivery, lease.job.id, lease.job.uid) == (4, 4, "a", job.uid)
    assert [(failure.attempt, failure.delivery) for failure in lease.job.history] == [(1, 1), (2, 2), (3, 3)]


def test_a_retry_waits_for_its_delay(engine: Engine) -> None:
    broker = engine.open(JOBS)
    put(engine, broker, "a", "b")
    first, second = take(broker, 2)
    retry(broker, first, delay=FAR, failure=a_failure(first))
    before = engine.now()
    retry(broker, second, delay=engine.moment, failure=a_failure(second))
    after = engine.now()
    assert_counts(broker, delayed=2)
    pass_time(engine, broker, engine.moment + 0.01)
    lease = take_one(broker)
    assert lease.job.id == "b"
    assert before + engine.moment - 0.01 <= lease.eligible_at <= after + engine.moment + 0.01
    assert_nothing_to_claim(broker)
    assert listed(broker, "delayed") == ["a"]


def test_a_retried_job_lets_others_pass(engine: Engine) -> None:
    broker = engine.open(JOBS)
    put(engine, broker, "a", "b")
    lease = take_one(broker)
    retry(broker, lease, delay=FAR, failure=a_failure(lease))
    assert ids(take(broker)) == ["b"]


def test_the_history_keeps_the_first_failure_and_the_last_ten(engine: Engine) -> None:
    broker = engine.open(JOBS)
    put(engine, broker, "a")
    for attempt in range(1, 12):
        fail_once(broker)
        if attempt == 11:
            lease = take_one(broker)
            assert [failure.attempt for failure in lease.job.history] == list(range(1, 12))
            broker.release([lease])
    for _ in range(3):
        fail_once(broker)
    kept = take_one(engine.open()).job.history
    assert [failure.attempt for failure in kept] == [1, *range(5, 15)]
    assert [failure.message for failure in kept] == [f"failed in attempt {n}" for n in [1, *range(5, 15)]]


def test_every_field_of_a_failure_comes_back(engine: Engine) -> None:
    broker = engine.open(JOBS)
    put(engine, broker, "a")
    lease = take_one(broker)
    failure = Failure(
        attempt=1,
        reason="timeout",
        message="läuft ☃ zu lange",
        traceback='Traceback:\n  File "ü.py"\n',
        trace_id="0af7651916cd43dd8448eb211c80319c",
        exception=ValueError("stays in its process"),
        error_type="httpx.ReadTimeout",
        span_id="b7ad6b7169203331",
        queue="jobs",
        delivery=1,
        started_at=1_700_000_000.5,
        ended_at=1_700_000_001.25,
    )
    retry(broker, lease, delay=0, failure=failure)
    broker.maintain()
    (stored,) = take_one(broker).job.history
    assert stored == failure
    assert stored.exception is None


def test_the_longest_failure_in_the_widest_script_is_kept_in_part(engine: Engine) -> None:
    """1,000 and 2,000 characters of four bytes: an engine may cut them, at the end and at the beginning."""
    broker = engine.open(JOBS)
    put(engine, broker, "a")
    message, trace = "\U0001f9ea" * 999 + "!", "?" + "\U0001f9ea" * 1999
    fail_once(broker, message=message, traceback=trace, error_type="x" * 300)
    (stored,) = take_one(broker).job.history
    assert stored.message
    assert message.startswith(stored.message)
    assert stored.traceback
    assert trace.endswith(stored.traceback)


def test_a_release_spends_no_attempt(engine: Engine) -> None:
    broker = engine.open(JOBS)
    put(engine, broker, "a")
    fail_once(broker)
    for delivery in (2, 3):
        lease = take_one(broker)
        assert (lease.attempt, lease.delivery) == (2, delivery)
        broker.release([lease])
    lease = take_one(broker)
    assert (lease.attempt, lease.delivery) == (2, 4)
    assert [failure.attempt for failure in lease.job.history] == [1]


def test_released_jobs_are_back_in_their_place(engine: Engine) -> None:
    broker = engine.open(JOBS)
    put(engine, broker, *"abcde")
    leases = take(broker, 3)
    broker.release([leases[2], leases[0]])
    put(engine, broker, "f")
    assert ids(take(broker, 2)) == ["a", "c"]
    broker.release([leases[1]])
    assert ids(take(broker, 4)) == ["b", "d", "e", "f"]


def test_released_jobs_are_in_their_place_for_a_newcomer(engine: Engine) -> None:
    broker = engine.open(JOBS)
    put(engine, broker, *"abc")
    leases = take(broker, 2)
    broker.release([leases[1]])
    broker.release([leases[0]])
    assert ids(take(engine.open(), 3)) == ["a", "b", "c"]


def test_a_release_without_delay_does_not_change_since_when_it_waits(engine: Engine) -> None:
    broker = engine.open(JOBS)
    put(engine, broker, "a")
    lease = take_one(broker)
    engine.advance(engine.moment)
    broker.release([lease])
    assert take_one(broker).eligible_at == pytest.approx(lease.eligible_at, abs=0.01)


def test_a_release_with_a_delay_waits(engine: Engine) -> None:
    broker = engine.open(JOBS)
    put(engine, broker, *"abc")
    leases = take(broker, 3)
    before = engine.now()
    broker.release(leases[:2], delay=engine.moment)
    after = engine.now()
    broker.release(leases[2:], delay=FAR)
    assert_counts(broker, delayed=3)
    pass_time(engine, broker, engine.moment + 0.01)
    again = take(broker, 2)
    assert sorted(ids(again)) == ["a", "b"]
    assert {(lease.attempt, lease.delivery) for lease in again} == {(1, 2)}
    assert all(before + engine.moment - 0.01 <= lease.eligible_at <= after + engine.moment + 0.01 for lease in again)
    assert_nothing_to_claim(broker)


def test_release_from_several_threads_while_others_are_acked(engine: Engine) -> None:
    broker = engine.open(JOBS)
    put(engine, broker, *(f"{n}" for n in range(120)))
    leases = take(broker, 120)
    released, acked = leases[::2], leases[1::2]
    together = threading.Barrier(5)

    def give_back(mine: list[Lease]) -> None:
        together.wait(10)
        for lease in mine:
            broker.release([lease])

    threads = [threading.Thread(target=give_back, args=(released[n::4],)) for n in range(4)]
    for thread in threads:
        thread.start()
    together.wait(10)
    for lease in acked:
        ack(broker, [lease])
    for thread in threads:
        thread.join(60)
    assert sorted(ids(take(broker, 60)), key=int) == ids(released)
    assert_counts(broker, in_flight=60)


@pytest.mark.parametrize("verb", SETTLE)
def test_a_settled_lease_is_lost(engine: Engine, verb: str) -> None:
    broker = engine.open(JOBS)
    put(engine, broker, "a")
    stale = take_one(broker)
    broker.release([stale])
    with pytest.raises(LeaseLost, match="a") as caught:
        SETTLE[verb](broker, stale)
    assert list(caught.value.job_ids) == ["a"]
    assert_counts(broker, ready=1)
    lease = take_one(broker)
    assert (lease.attempt, lease.delivery, list(lease.job.history)) == (1, 2, [])


@pytest.mark.parametrize("verb", SETTLE)
def test_a_lease_that_somebody_else_holds_by_now_is_lost_and_stays_his(engine: Engine, verb: str) -> None:
    broker, other = engine.open(JOBS), engine.open()
    put(engine, broker, "a")
    stale = take_one(broker)
    broker.release([stale])
    lease = take_one(other)
    with pytest.raises(LeaseLost):
        SETTLE[verb](broker, stale)
    assert_counts(other, in_flight=1)
    ack(other, [lease])
    assert_counts(other)


def test_an_older_claim_of_what_one_holds_again_is_lost(engine: Engine) -> None:
    broker = engine.open(JOBS)
    put(engine, broker, "a")
    stale = take_one(broker)
    broker.release([stale])
    lease = take_one(broker)
    with pytest.raises(LeaseLost):
        ack(broker, [stale])
    ack(broker, [lease])
    assert_counts(broker)


@pytest.mark.parametrize("outcome", [SUCCEEDED, Outcome(Kind.RELEASED)])
def test_a_lost_lease_does_not_keep_the_others_from_being_settled(engine: Engine, outcome: Outcome) -> None:
    broker = engine.open(JOBS)
    put(engine, broker, *"abc")
    first, second, third = take(broker, 3)
    ack(broker, [second])
    done = [Settlement(lease, outcome) for lease in (first, second, third)]
    with pytest.raises(LeaseLost) as caught:
        broker.settle(done)
    assert (list(caught.value.job_ids), list(caught.value.leases)) == (["b"], [second])
    assert ids(broker.claim(["jobs"], limit=9, wait=0)) == ([] if outcome is SUCCEEDED else ["a", "c"])


def test_one_call_settles_every_kind(engine: Engine) -> None:
    broker = engine.open(JOBS_WITH_LETTERS, LETTERS)
    put(engine, broker, "archived")
    bury_one(broker)
    kinds = [kind for kind in Kind if kind not in (Kind.ARCHIVED, Kind.LEASE_LOST)]
    put(engine, broker, *(kind.value for kind in kinds), "dead_lettered too")
    leases = [*take(broker, len(kinds) + 1), take_one(broker, "letters")]
    done = []
    for lease in leases:
        kind = Kind(lease.job.id.removesuffix(" too"))
        failure = a_failure(lease) if kind in (Kind.RETRIED, Kind.DEAD_LETTERED) else None
        done.append(Settlement(lease, Outcome(kind, delay=FAR, failure=failure)))
    broker.settle(done)
    assert_counts(broker, delayed=2)
    assert sorted(listed(broker, "delayed")) == ["released", "retried"]
    assert_counts(broker, "letters", ready=2, dead=1)
    assert sorted(ids(take(broker, 2, "letters"))) == ["dead_lettered", "dead_lettered too"]


def test_nothing_to_settle(engine: Engine) -> None:
    broker = engine.open(JOBS)
    broker.settle([])
    broker.release([])
