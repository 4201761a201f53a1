"""What the dead held goes on: nothing is lost, and only what had started is told apart."""

from __future__ import annotations

from contextlib import suppress

import pytest

from framework.broker import Rescued
from framework.errors import LeaseLost
from framework.job import Lease, RunRecord
from framework.outcome import Kind, Outcome, Settlement
from tests.settling import ack, bury, rest, retry

from .engines import Engine, Owner
from .helpers import (
    FAR,
    JOBS,
    JOBS_WITH_LETTERS,
    LETTERS,
    a_failure,
    a_run,
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


def test_a_claim_that_had_not_started_has_no_run_record(engine: Engine, broker: Owner) -> None:
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


def test_what_had_started_comes_with_its_run_record(engine: Engine, broker: Owner) -> None:
    put(engine, broker, *"abc")
    run = RunRecord(
        row=1, delivery=1, attempt=1, started_at=1_700_000_000.125, trace_id="ab" * 16, span_id="cd" * 8, sampled=True
    )

    def work(owner: Owner) -> None:
        first, second, _ = take(owner, 3)
        owner.start(first, a_run(first, 0))
        owner.start(second, run)

    dead, _ = engine.die(work)
    rescued = by_id(broker.rescue())
    assert rescued["a"].run == a_run(rescued["a"].lease, 0)
    assert rescued["b"].run == run
    assert rescued["c"].run is None
    assert {one.owner for one in rescued.values()} == {dead}


def test_charged_it_counts_an_attempt(engine: Engine, broker: Owner) -> None:
    put(engine, broker, "a")
    fail_once(broker)

    def work(owner: Owner) -> None:
        lease = take_one(owner)
        owner.start(lease, a_run(lease))

    engine.die(work)
    (rescued,) = broker.rescue()
    assert (rescued.lease.attempt, rescued.lease.delivery) == (2, 2)
    retry(broker, rescued.lease, delay=0, failure=a_failure(rescued.lease, reason="worker_lost"))
    broker.maintain()
    lease = take_one(broker)
    assert (lease.attempt, lease.delivery) == (3, 3)
    assert [failure.reason for failure in lease.job.history] == ["error", "worker_lost"]


def test_a_row_holds_the_last_start_only(engine: Engine, broker: Owner) -> None:
    put(engine, broker, "a", "b")

    def work(owner: Owner) -> None:
        first, second = take(owner, 2)
        owner.start(first, a_run(first, 0))
        owner.release([first])
        owner.start(second, a_run(second, 0))
        take_one(owner)

    engine.die(work)
    rescued = by_id(broker.rescue())
    assert sorted(rescued) == ["a", "b"]
    assert rescued["a"].run is None
    assert rescued["b"].run == a_run(rescued["b"].lease, 0)


def test_a_row_holds_the_last_start_only_even_if_its_job_is_still_held(engine: Engine, broker: Owner) -> None:
    """A worker that could not settle a job goes on with the next; neither close nor a rescue takes it as unstarted
    for granted, but its record is gone."""
    put(engine, broker, "a", "b", "c")

    def start_two(owner: Owner) -> None:
        first, second, _ = take(owner, 3)
        owner.start(first, a_run(first, 0))
        owner.start(second, a_run(second, 0))

    def leave(owner: Owner) -> None:
        start_two(owner)
        owner.close()

    engine.die(start_two)
    rescued = by_id(broker.rescue())
    assert sorted(rescued) == ["a", "b", "c"]
    assert (rescued["a"].run, rescued["c"].run) == (None, None)
    assert rescued["b"].run == a_run(rescued["b"].lease, 0)
    broker.release([one.lease for one in rescued.values()])
    engine.die(leave)
    assert ids(take(broker)) == ["c"]
    assert sorted(by_id(broker.rescue())) == ["a", "b"]


def test_a_job_that_starts_again_in_another_row_keeps_that_record(engine: Engine, broker: Owner) -> None:
    put(engine, broker, "a", "b")

    def work(owner: Owner) -> None:
        first = take_one(owner)
        owner.start(first, a_run(first, 0))
        owner.release([first])
        first, second = take(owner, 2)
        owner.start(first, a_run(first, 1))
        owner.start(second, a_run(second, 0))

    engine.die(work)
    rescued = by_id(broker.rescue())
    assert rescued["a"].run == a_run(rescued["a"].lease, 1)
    assert rescued["b"].run == a_run(rescued["b"].lease, 0)


def test_a_record_of_an_earlier_delivery_does_not_count(engine: Engine, broker: Owner) -> None:
    put(engine, broker, "a")

    def work(owner: Owner) -> None:
        lease = take_one(owner)
        owner.start(lease, a_run(lease))
        owner.release([lease])
        take_one(owner)

    engine.die(work)
    (rescued,) = broker.rescue()
    assert (rescued.run, rescued.lease.delivery) == (None, 2)


def test_who_lost_a_lease_cannot_mark_it_as_started(engine: Engine, broker: Owner) -> None:
    put(engine, broker, "a")
    stale = take_one(broker)
    broker.release([stale])
    engine.die(lambda owner: take_one(owner).delivery)
    with suppress(LeaseLost):  # an engine may notice
        broker.start(stale, a_run(stale))
        broker.reported(stale, Outcome(Kind.SUCCEEDED))
    (rescued,) = broker.rescue()
    assert (rescued.run, rescued.reported, rescued.lease.delivery) == (None, None, 2)


@pytest.mark.parametrize("kind", [Kind.SUCCEEDED, Kind.RETRIED, Kind.DEAD_LETTERED, Kind.RELEASED, Kind.DISCARDED])
def test_a_reported_outcome_comes_whole(engine: Engine, broker: Owner, kind: Kind) -> None:
    put(engine, broker, "a", "b")

    def outcome_of(lease: Lease) -> Outcome:
        failed = kind in (Kind.RETRIED, Kind.DEAD_LETTERED)
        delay = 12.5 if kind in (Kind.RETRIED, Kind.RELEASED) else 0.0
        return Outcome(kind, delay=delay, failure=a_failure(lease) if failed else None)

    def work(owner: Owner) -> None:
        for row, lease in enumerate(take(owner, 2)):
            owner.start(lease, a_run(lease, row))
            if lease.job.id == "b":
                owner.reported(lease, outcome_of(lease))

    engine.die(work)
    rescued = by_id(broker.rescue())
    assert rescued["b"].reported == outcome_of(rescued["b"].lease)
    assert rescued["b"].run is not None
    assert rescued["a"].reported is None


@pytest.mark.parametrize("kind", [Kind.RETRIED, Kind.DEAD_LETTERED])
def test_a_reported_failure_is_in_the_history_once(engine: Engine, broker: Owner, kind: Kind) -> None:
    """Whether its owner lived to settle it or not."""
    put(engine, broker, "mine", "of the dead")

    def fail(owner: Owner) -> Lease:
        lease = take_one(owner)
        owner.start(lease, a_run(lease))
        owner.reported(lease, Outcome(kind, failure=a_failure(lease)))
        return lease

    mine = fail(broker)
    engine.die(lambda owner: fail(owner).delivery)
    broker.settle([Settlement(mine, Outcome(kind, failure=a_failure(mine)))])
    (rescued,) = broker.rescue()
    outcome = rescued.reported or Outcome(kind, failure=a_failure(rescued.lease))
    broker.settle([Settlement(rescued.lease, outcome)])
    broker.maintain()
    leases = take(broker, 2, "jobs" if kind == Kind.RETRIED else "letters")
    assert sorted(ids(leases)) == ["mine", "of the dead"]
    assert [list(lease.job.history) for lease in leases] == [[a_failure(mine)], [a_failure(rescued.lease)]]


def test_a_start_after_a_report_begins_anew(engine: Engine, broker: Owner) -> None:
    put(engine, broker, "a", "b")

    def work(owner: Owner) -> None:
        first, second = take(owner, 2)
        owner.start(first, a_run(first))
        owner.reported(first, Outcome(Kind.SUCCEEDED))
        ack(owner, [first])
        owner.start(second, a_run(second))

    engine.die(work)
    (rescued,) = broker.rescue()
    assert (rescued.lease.job.id, rescued.reported) == ("b", None)


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
    assert (rescued.lease.queue, rescued.lease.is_letter, rescued.lease.job.queue) == ("letters", True, "jobs")
    rest(broker, rescued.lease)
    assert_counts(broker, "letters", dead=1)


def test_the_living_keep_what_they_hold(engine: Engine, broker: Owner) -> None:
    living = engine.open()
    put(engine, broker, *"abcd")
    mine, theirs = take_one(broker), take_one(living)
    living.start(theirs, a_run(theirs))
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

    def work(owner: Owner) -> None:
        first, _, _ = take(owner, 3)
        owner.start(first, a_run(first))

    def half_a_rescue(owner: Owner) -> int:
        rescued = by_id(owner.rescue())
        ack(owner, [rescued["b"].lease])
        return len(rescued)

    dead, _ = engine.die(work)
    _, seen = engine.die(half_a_rescue)
    assert seen == 3
    rescued = by_id(broker.rescue())
    assert sorted(rescued) == ["a", "c"]
    assert {one.owner for one in rescued.values()} == {dead}
    assert rescued["a"].run == a_run(rescued["a"].lease)
    assert rescued["c"].run is None


def test_a_rescuer_that_closes_gives_its_rescue_to_the_next(engine: Engine, broker: Owner) -> None:
    put(engine, broker, "a")

    def work(owner: Owner) -> None:
        lease = take_one(owner)
        owner.start(lease, a_run(lease))

    dead, _ = engine.die(work)
    first = engine.open()
    assert len(first.rescue()) == 1
    first.close()
    (rescued,) = broker.rescue()
    assert rescued.owner == dead
    assert rescued.run is not None


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
