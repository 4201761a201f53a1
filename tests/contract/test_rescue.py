"""What the dead held goes on: nothing is lost. What of it had started stands in the ledger: test_runs."""

from __future__ import annotations

import pytest

from framework.engine.port import Rescued
from tests.support.settling import ack, bury, rest, retry

from .engines import Engine, Owner
from .helpers import (
    FAR,
    JOBS,
    JOBS_WITH_LETTERS,
    LETTERS,
    a_failure,
    assert_counts,
    assert_nothing_to_claim,
    bury_one,
    fail_once,
    ids,
    put,
    take,
    take_one,
)


def by_id(rescued: object) -> dict[str, Rescued]:
    return {one.lease.job.id: one for one in rescued}  # type: ignore[attr-defined]


@pytest.fixture
def broker(engine: Engine) -> Owner:
    return engine.open(JOBS_WITH_LETTERS, LETTERS)


def claim_two(owner: Owner) -> list[int]:
    return [lease.delivery for lease in take(owner, 2)]


def test_nobody_died_nothing_to_rescue(engine: Engine, broker: Owner) -> None:
    put(engine, broker, "a", "b")
    take_one(broker)
    assert list(broker.rescue()) == []


def test_what_the_dead_had_claimed_comes_with_its_owner(engine: Engine, broker: Owner) -> None:
    (first, _) = put(engine, broker, "a", "b")
    dead, _ = engine.die(claim_two)
    rescued = by_id(broker.rescue())
    assert sorted(rescued) == ["a", "b"]
    assert {(one.owner, one.run, one.reported) for one in rescued.values()} == {(dead, None, None)}
    lease = rescued["a"].lease
    assert (lease.queue, lease.attempt, lease.delivery, lease.job.uid) == ("jobs", 1, 1, first.uid)


def test_released_it_is_back_in_its_place_and_uncharged(engine: Engine, broker: Owner) -> None:
    put(engine, broker, *"abc")
    engine.die(claim_two)
    broker.release([one.lease for one in broker.rescue()])
    leases = take(broker, 3)
    assert ids(leases) == ["a", "b", "c"]
    assert [(lease.attempt, lease.delivery) for lease in leases] == [(1, 2), (1, 2), (1, 1)]


def test_charged_it_counts_an_attempt(engine: Engine, broker: Owner) -> None:
    put(engine, broker, "a")
    fail_once(broker)

    engine.die(lambda owner: take_one(owner).delivery)
    (rescued,) = broker.rescue()
    assert (rescued.lease.attempt, rescued.lease.delivery) == (2, 2)
    retry(broker, rescued.lease, delay=0, failure=a_failure(rescued.lease, reason="worker_lost"))
    broker.maintain()
    lease = take_one(broker)
    assert (lease.attempt, lease.delivery) == (3, 3)
    assert [failure.reason for failure in lease.job.history] == ["error", "worker_lost"]


def test_a_rescued_lease_is_settled_like_any_other(engine: Engine, broker: Owner) -> None:
    names = ["ack", "retry", "bury", "release", "release later"]
    put(engine, broker, *names)
    engine.die(lambda owner: len(take(owner, 5)))
    leases = {name: one.lease for name, one in by_id(broker.rescue()).items()}
    assert_counts(broker, in_flight=5)
    ack(broker, [leases["ack"]])
    retry(broker, leases["retry"], delay=FAR, failure=a_failure(leases["retry"]))
    bury(broker, leases["bury"], failure=a_failure(leases["bury"]))
    broker.release([leases["release"]])
    broker.release([leases["release later"]], delay=FAR)
    assert_counts(broker, ready=1, delayed=2)
    assert_counts(broker, "letters", ready=1)
    assert ids(take(broker)) == ["release"]
    assert list(broker.rescue()) == []


def test_a_dead_letter_of_the_dead_is_rescued_as_one(engine: Engine, broker: Owner) -> None:
    put(engine, broker, "a")
    bury_one(broker)
    engine.die(lambda owner: take_one(owner, "letters").delivery)
    (rescued,) = broker.rescue()
    assert (rescued.lease.queue, rescued.lease.is_dead_letter, rescued.lease.job.queue) == ("letters", True, "jobs")
    rest(broker, rescued.lease)
    assert_counts(broker, "letters", dead=1)


def test_the_living_keep_what_they_hold(engine: Engine, broker: Owner) -> None:
    living = engine.open()
    put(engine, broker, *"abcd")
    mine, theirs = take_one(broker), take_one(living)
    engine.die(claim_two)
    assert sorted(by_id(broker.rescue())) == ["c", "d"]
    assert list(living.rescue()) == []
    ack(broker, [mine])
    ack(living, [theirs])
    assert_counts(broker, in_flight=2)


def test_a_rescue_takes_each_lease_once(engine: Engine, broker: Owner) -> None:
    other = engine.open()
    put(engine, broker, "a", "b")
    engine.die(claim_two)
    assert len(broker.rescue()) == 2
    assert list(broker.rescue()) == []
    assert list(other.rescue()) == []


def test_two_deaths_are_told_apart(engine: Engine, broker: Owner) -> None:
    put(engine, broker, "a", "b")
    first, _ = engine.die(lambda owner: take_one(owner).delivery)
    second, _ = engine.die(lambda owner: take_one(owner).delivery)
    assert first != second
    assert {name: one.owner for name, one in by_id(broker.rescue()).items()} == {"a": first, "b": second}


def test_when_the_rescuer_dies_the_next_one_goes_on(engine: Engine, broker: Owner) -> None:
    put(engine, broker, *"abc")

    def half_a_rescue(owner: Owner) -> int:
        rescued = by_id(owner.rescue())
        ack(owner, [rescued["b"].lease])
        return len(rescued)

    dead, _ = engine.die(lambda owner: len(take(owner, 3)))
    _, seen = engine.die(half_a_rescue)
    assert seen == 3
    rescued = by_id(broker.rescue())
    assert sorted(rescued) == ["a", "c"]
    assert {one.owner for one in rescued.values()} == {dead}


def test_a_rescuer_that_closes_gives_its_rescue_to_the_next(engine: Engine, broker: Owner) -> None:
    put(engine, broker, "a")
    dead, _ = engine.die(lambda owner: take_one(owner).delivery)
    first = engine.open()
    assert len(first.rescue()) == 1
    first.close()
    (rescued,) = broker.rescue()
    assert rescued.owner == dead


def test_an_owner_that_held_nothing_leaves_nothing(engine: Engine, broker: Owner) -> None:
    put(engine, broker, "a")

    def work(owner: Owner) -> None:
        ack(owner, take(owner))

    engine.die(work)
    assert list(broker.rescue()) == []
    assert_nothing_to_claim(broker)


def test_what_the_dead_had_enqueued_is_there(engine: Engine, broker: Owner) -> None:
    engine.die(lambda owner: len(put(engine, owner, "a", "b")))
    assert ids(take(broker, 2)) == ["a", "b"]


def test_a_rescue_of_jobs_without_a_dead_letter_queue(engine: Engine) -> None:
    broker = engine.open(JOBS)
    put(engine, broker, "a")
    engine.die(lambda owner: take_one(owner).delivery)
    (rescued,) = broker.rescue()
    bury(broker, rescued.lease, failure=a_failure(rescued.lease, reason="worker_lost"))
    assert_counts(broker, dead=1)


def test_deliveries_that_nothing_accounts_for_are_counted_and_those_in_good_order_taken_off(
    engine: Engine, broker: Owner
) -> None:
    put(engine, broker, "a")

    def die_and_count(*, again: bool = False) -> int:
        engine.die(lambda owner: take_one(owner).delivery)
        (rescued,) = broker.rescue()
        count = broker.unaccounted(rescued.lease)
        assert not again or broker.unaccounted(rescued.lease) == count, "a delivery is counted once"
        broker.release([rescued.lease])
        return count

    assert [die_and_count(again=True) for _ in range(3)] == [1, 2, 3]
    broker.release([take_one(broker)])
    assert die_and_count() == 3
    for _ in range(5):
        broker.release([take_one(broker)])
    assert die_and_count() == 1
