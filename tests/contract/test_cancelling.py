"""Cancelled jobs: those that wait never run, claimed ones are not put back, whatever becomes of their owner."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from framework.engine.port import Cancelled, JobView
from framework.model.errors import UsageError
from framework.model.job import Lease
from framework.model.options import QueueOptions
from framework.model.outcome import CANCELLED, Kind, Outcome, Settlement
from tests.support.settling import ack

from .engines import Engine, Owner
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
    eventually,
    found,
    ids,
    listed,
    pass_time,
    put,
    take,
    take_one,
)


def cancel(owner: Owner, job_id: str, queue: str = "jobs") -> Cancelled:
    """Cancels the job of an id, as `Queue.cancel` finds it."""
    views = [view for view in owner.get([queue], job_id) if view.job.id == job_id]
    assert views, f"there is no {job_id}"
    return owner.cancel(views[0])


def is_cancelled(owner: Owner, lease: Lease) -> bool:
    """Asks as a worker does."""
    owner.lost([lease])
    return ids(owner.cancelled([lease])) == [lease.job.id]


def by_outcome(kind: Kind, delay: float = 0.0) -> Callable[[Owner, Lease], None]:
    def settle(owner: Owner, lease: Lease) -> None:
        failure = a_failure(lease) if kind in (Kind.RETRIED, Kind.DEAD_LETTERED) else None
        owner.settle([Settlement(lease, Outcome(kind, delay, failure))])

    return settle


@pytest.mark.parametrize("state", ["ready", "delayed"])
def test_a_waiting_job_never_runs_and_is_listed_as_cancelled(engine: Engine, state: str) -> None:
    owner = engine.open(JOBS)
    put(engine, owner, "a", "b", "c", delay=engine.moment if state == "delayed" else 0)
    other = engine.open()
    assert cancel(other, "b") == "cancelled"
    assert listed(owner, state) == ["a", "c"]  # type: ignore[arg-type]
    assert listed(owner, "cancelled") == ["b"]
    view = found(owner, "b", "cancelled")
    assert (view.queue, view.state, view.job.payload, view.attempt) == ("jobs", "cancelled", b"{}", 0)
    assert abs(view.since - engine.now()) < 60
    assert_counts(owner, **{state: 2})
    pass_time(engine, owner, 2 * engine.moment)
    assert sorted(ids(take(owner, 2))) == ["a", "c"]
    assert_nothing_to_claim(owner)


def test_cancelling_twice_answers_the_same(engine: Engine) -> None:
    owner = engine.open(JOBS)
    put(engine, owner, "waits", "runs")
    first = found(owner, "waits", "ready")
    assert [owner.cancel(first), owner.cancel(first), cancel(owner, "waits")] == ["cancelled"] * 3
    lease = take_one(owner)
    assert [cancel(owner, "runs"), cancel(owner, "runs")] == ["stopping"] * 2
    owner.settle([Settlement(lease, CANCELLED)])
    assert cancel(owner, "runs") == "cancelled"
    assert sorted(listed(owner, "cancelled")) == ["runs", "waits"]


def test_a_chosen_id_is_free_once_its_job_is_cancelled(engine: Engine) -> None:
    owner = engine.open(JOBS)
    put(engine, owner, "mine", chosen=True)
    assert cancel(owner, "mine") == "cancelled"
    (again,) = put(engine, owner, "mine", chosen=True)
    assert take_one(owner).job.uid == again.uid
    old = found(owner, "mine", "cancelled")
    assert old.job.uid != again.uid
    assert owner.discard(old)
    assert listed(owner, "cancelled") == []
    assert owner.enqueue([again])[0].duplicate, "what is deleted does not free the id of another job"


def test_what_has_ended_or_is_dead_cannot_be_cancelled(engine: Engine) -> None:
    owner = engine.open(JOBS_WITH_LETTERS, LETTERS)
    put(engine, owner, "ends", "dies")
    before = [found(owner, "ends", "ready"), found(owner, "dies", "ready")]
    ack(owner, [take_one(owner)])
    bury_one(owner)
    assert [owner.cancel(view) for view in before] == ["gone", "gone"]
    assert owner.cancel(found(owner, "dies", "ready", "letters")) == "gone"
    lease = take_one(owner, "letters")
    assert owner.cancel(found(owner, "dies", "in_flight", "letters")) == "gone"
    assert not is_cancelled(owner, lease)
    assert [listed(owner, "cancelled", queue) for queue in ("jobs", "letters")] == [[], []]


@pytest.mark.parametrize("how", ["retry", "bury", "release", "release with a delay"])
def test_a_claimed_job_that_is_cancelled_is_not_put_back(engine: Engine, how: str) -> None:
    owner = engine.open(JOBS_WITH_LETTERS, LETTERS)
    put(engine, owner, "a", "b")
    a, b = take(owner, 2)
    assert not is_cancelled(owner, a)
    assert cancel(engine.open(), "a") == "stopping"
    assert (is_cancelled(owner, a), is_cancelled(owner, b)) == (True, False)
    SETTLE[how](owner, a)
    assert listed(owner, "cancelled") == ["a"]
    assert [listed(owner, state, queue) for state in ("ready", "delayed", "dead") for queue in ("jobs", "letters")] == (
        [[]] * 6
    )
    SETTLE["release"](owner, b)
    assert ids([take_one(owner)]) == ["b"]


def test_a_claimed_job_ends_by_the_outcome_cancelled(engine: Engine) -> None:
    owner = engine.open(JOBS)
    put(engine, owner, "mine", "b", chosen=True)
    lease = take_one(owner)
    assert cancel(owner, "mine") == "stopping"
    owner.settle([Settlement(lease, CANCELLED)])
    assert listed(owner, "cancelled") == ["mine"]
    assert_counts(owner, ready=1)
    put(engine, owner, "mine", chosen=True)
    assert sorted(ids(take(owner, 2))) == ["b", "mine"]


def test_a_job_that_succeeds_before_its_worker_notices_has_succeeded(engine: Engine) -> None:
    owner = engine.open(JOBS)
    put(engine, owner, "a")
    lease = take_one(owner)
    view = found(owner, "a", "in_flight")
    assert owner.cancel(view) == "stopping"
    ack(owner, [lease])
    assert owner.cancel(view) == "gone"
    assert listed(owner, "cancelled") == []
    assert_nothing_to_claim(owner)


@pytest.mark.parametrize("first", ["cancelled before its owner died", "cancelled after it"])
@pytest.mark.parametrize("kind", [Kind.RELEASED, Kind.RETRIED, Kind.DEAD_LETTERED, Kind.CANCELLED])
def test_a_rescuer_does_not_put_back_what_was_cancelled(engine: Engine, first: str, kind: Kind) -> None:
    owner = engine.open(JOBS)
    put(engine, owner, "a")
    early = first == "cancelled before its owner died"
    _, told = engine.die(lambda dying: (take_one(dying).delivery, cancel(dying, "a") if early else "stopping"))
    assert told == (1, "stopping")
    if not early:
        assert cancel(owner, "a") == "stopping"
    (rescued,) = owner.rescue()
    assert ids(owner.cancelled([rescued.lease])) == ["a"]
    by_outcome(kind)(owner, rescued.lease)
    assert listed(owner, "cancelled") == ["a"]
    assert_nothing_to_claim(owner)


def test_a_cancellation_outlives_whoever_made_it(engine: Engine) -> None:
    """Killed at once behind the call."""
    owner = engine.open(JOBS)
    put(engine, owner, "a", "b")
    lease = take_one(owner)
    engine.die(lambda dying: [cancel(dying, "a"), cancel(dying, "b")])
    assert is_cancelled(owner, lease)
    owner.release([lease])
    owner.rescue()
    assert_nothing_to_claim(owner)
    assert sorted(listed(engine.open(), "cancelled")) == ["a", "b"]


def test_a_claim_or_a_cancellation_has_a_job_never_both(engine: Engine) -> None:
    """Verified: where the cancellation of a waiting job does not look at the claim, this test fails."""
    owner, other = engine.open(JOBS), engine.open()
    names = [f"j{number:02d}" for number in range(40)]
    put(engine, owner, *names)
    views = {view.job.id: view for view in other.browse("jobs", "ready")}
    told: dict[str, Cancelled] = {}
    claimed: list[Lease] = []

    def claim() -> None:
        while some := owner.claim(["jobs"], limit=1, wait=0):
            claimed.extend(some)

    thread = threading.Thread(target=claim)
    thread.start()
    for name in reversed(names):
        told[name] = other.cancel(views[name])
    thread.join()
    taken = set(ids(claimed))
    assert {name for name in names if told[name] == "cancelled"} == set(names) - taken
    assert {name for name in names if told[name] == "stopping"} == taken
    owner.release(claimed)
    assert_nothing_to_claim(owner)
    assert sorted(listed(owner, "cancelled")) == names


def test_cancelled_jobs_are_deleted_once_the_ttl_of_their_queue_is_over(engine: Engine) -> None:
    kept, short = QueueOptions("kept"), QueueOptions("short", ttl=4 * engine.file_moment)
    owner = engine.open(kept, short)
    for queue in ("kept", "short"):
        put(engine, owner, queue, queue=queue)
        assert cancel(owner, queue, queue) == "cancelled"
    owner.maintain()
    assert listed(owner, "cancelled", "short") == ["short"]
    engine.advance(5 * engine.file_moment)

    def left() -> list[list[str]]:
        owner.maintain()
        return [listed(owner, "cancelled", queue) for queue in ("kept", "short")]

    eventually(left, [["kept"], []])


def test_cancelled_jobs_are_listed_in_pages_and_can_be_discarded(engine: Engine) -> None:
    owner = engine.open(JOBS)
    put(engine, owner, *"abcd")
    for job_id in "dbca":
        cancel(owner, job_id)
    views = list(owner.browse("jobs", "cancelled"))
    assert ids(views) == list("abcd")  # type: ignore[arg-type]
    assert ids(owner.browse("jobs", "cancelled", after=views[1].cursor)) == ["c", "d"]  # type: ignore[arg-type]
    with pytest.raises(UsageError):
        list(owner.browse("jobs", "cancelled", after="x"))
    assert [owner.replay(view) for view in views] == [False] * 4
    assert [owner.discard(view) for view in (views[0], views[0])] == [True, False]
    assert listed(owner, "cancelled") == ["b", "c", "d"]


def test_a_retried_job_is_cancelled_where_it_waits(engine: Engine) -> None:
    owner = engine.open(JOBS)
    put(engine, owner, "a")
    stale: JobView = found(owner, "a", "ready")
    SETTLE["retry"](owner, take_one(owner))
    lease = take_one(owner)
    owner.settle([Settlement(lease, Outcome(Kind.RETRIED, FAR, a_failure(lease)))])
    assert owner.cancel(stale) == "cancelled", "a view says which job, not where it is"
    assert listed(owner, "delayed") == []
    assert [view.attempt for view in owner.browse("jobs", "cancelled")] == [2]
