"""Fan-ins: the follow-up is stored once, when the last member has ended in whatever way, and by whatever verb."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

from framework.engine.fan_in import FanIns
from framework.model.errors import PayloadTooLarge
from framework.model.extras import Extras
from framework.model.fan_in import GIVEN_UP, MEND_AFTER, Ended, FanIn, as_member
from framework.model.job import Job
from framework.model.options import QueueOptions
from framework.model.outcome import CANCELLED, Kind, Outcome, Settlement
from tests.support.settling import ack, bury, retry

from .engines import Engine, Owner
from .helpers import (
    JOBS,
    JOBS_WITH_LETTERS,
    LETTERS,
    a_failure,
    a_job,
    assert_counts,
    assert_nothing_to_claim,
    found,
    ids,
    listed,
    pass_time,
    take,
    take_one,
)

DONE = QueueOptions("done")


def fans(broker: Owner) -> FanIns:
    made: FanIns = broker.fan_ins  # type: ignore[attr-defined]
    return made


def begin(engine: Engine, broker: Owner, **fields: Any) -> Job:
    """Begin a fan-in over the queue jobs, and return its follow-up."""
    job = a_job(engine, queue="done", payload=b'"all"', headers={"content-type": "application/json"}, **fields)
    fans(broker).begin("jobs", job)
    return job


def gather(engine: Engine, broker: Owner, *members: str, sealed: bool = True, **fields: Any) -> Job:
    """Begin a fan-in, enqueue its members by these ids, and seal it."""
    job = begin(engine, broker)
    assert fans(broker).grow("jobs", job.id, len(members))
    broker.enqueue([as_member(a_job(engine, one, **fields), job.id, at) for at, one in enumerate(members)])
    if sealed:
        assert fans(broker).seal("jobs", job.id, len(members))
    return job


def look(broker: Owner, job: Job) -> FanIn | None:
    return fans(broker).look("jobs", job.id)


def follow_up(broker: Owner, job: Job, **ended: int) -> None:
    """The follow-up waits, with these counts, and is the only one."""
    lease = take_one(broker, "done")
    assert (lease.job.id, lease.job.uid, lease.job.payload) == (job.id, job.uid, job.payload)
    assert lease.job.headers == job.headers
    assert lease.job.extras.ended == ended
    ack(broker, [lease])
    assert_nothing_to_claim(broker, "done")
    assert look(broker, job) is None


ENDS: dict[str, Callable[[Owner, Any], None]] = {
    "succeeded": lambda broker, lease: ack(broker, [lease]),
    "discarded": lambda broker, lease: broker.settle([Settlement(lease, Outcome(Kind.DISCARDED, message="no"))]),
    "dead": lambda broker, lease: bury(broker, lease, failure=a_failure(lease)),
    "cancelled": lambda broker, lease: broker.settle([Settlement(lease, CANCELLED)]),
}


@pytest.mark.parametrize("how", ENDS)
@pytest.mark.parametrize("letters", [False, True])
def test_the_last_member_to_end_stores_the_follow_up(engine: Engine, how: str, letters: bool) -> None:
    broker = engine.open(JOBS_WITH_LETTERS if letters else JOBS, LETTERS, DONE)
    job = gather(engine, broker, "a", "b", "c")
    ack(broker, [take_one(broker)])
    ENDS[how](broker, take_one(broker))
    assert look(broker, job) == FanIn(3, True, Ended(**{"succeeded": 1, how: 1} if how != "succeeded" else {how: 2}))
    assert_nothing_to_claim(broker, "done")
    ENDS[how](broker, take_one(broker))
    follow_up(broker, job, **({"succeeded": 1, how: 2} if how != "succeeded" else {how: 3}))


def test_members_that_are_settled_together_end_together(engine: Engine) -> None:
    broker = engine.open(JOBS, DONE)
    first, second = gather(engine, broker, "a", "b", "c"), gather(engine, broker, "d", "e")
    ack(broker, take(broker, 4))
    follow_up(broker, first, succeeded=3)
    ack(broker, [take_one(broker)])
    follow_up(broker, second, succeeded=2)


def test_what_puts_a_member_back_ends_nothing(engine: Engine) -> None:
    broker = engine.open(JOBS, DONE)
    job = gather(engine, broker, "a")
    lease = take_one(broker)
    retry(broker, lease, delay=0, failure=a_failure(lease))
    broker.maintain()
    broker.release([take_one(broker)])
    engine.die(lambda owner: take_one(owner).job.id)
    (rescued,) = broker.rescue()
    assert look(broker, job) == FanIn(1, True, Ended())
    ack(broker, [rescued.lease])
    follow_up(broker, job, succeeded=1)


def test_a_member_that_expires_is_dead(engine: Engine) -> None:
    broker = engine.open(JOBS_WITH_LETTERS, LETTERS, DONE)
    job = gather(engine, broker, "a", "b", ttl=engine.moment)
    pass_time(engine, broker, engine.moment * 2)
    follow_up(broker, job, dead=2)
    assert sorted(listed(broker, "ready", "letters")) == ["a", "b"]


@pytest.mark.parametrize("delay", [0, 3000])
def test_a_waiting_member_that_is_cancelled_has_ended(engine: Engine, delay: float) -> None:
    broker = engine.open(JOBS, DONE)
    job = gather(engine, broker, "a", delay=delay)
    view = found(broker, "a", "delayed" if delay else "ready")
    assert broker.cancel(view) == "cancelled"
    assert broker.cancel(view) == "cancelled"
    follow_up(broker, job, cancelled=1)


@pytest.mark.parametrize("back", ["retry", "release", "dead"])
def test_a_running_member_that_is_cancelled_ends_with_its_settlement(engine: Engine, back: str) -> None:
    broker = engine.open(JOBS_WITH_LETTERS, LETTERS, DONE)
    job = gather(engine, broker, "a")
    lease = take_one(broker)
    assert broker.cancel(found(broker, "a", "in_flight")) == "stopping"
    assert look(broker, job) == FanIn(1, True, Ended())
    if back == "release":
        broker.release([lease])
    elif back == "retry":
        retry(broker, lease, delay=0, failure=a_failure(lease))
    else:
        bury(broker, lease, failure=a_failure(lease))
    follow_up(broker, job, cancelled=1)


def test_a_waiting_member_that_a_person_discards_has_ended(engine: Engine) -> None:
    broker = engine.open(JOBS, DONE)
    job = gather(engine, broker, "a")
    assert broker.discard(found(broker, "a", "ready"))
    follow_up(broker, job, discarded=1)


def test_a_replayed_dead_letter_ends_nothing_again(engine: Engine) -> None:
    broker = engine.open(JOBS_WITH_LETTERS, LETTERS, DONE)
    job = gather(engine, broker, "a", "b")
    lease = take_one(broker)
    bury(broker, lease, failure=a_failure(lease))
    assert broker.replay(found(broker, "a", "ready", "letters"))
    again = take(broker, 2)
    assert sorted(ids(again)) == ["a", "b"]
    ack(broker, [one for one in again if one.job.id == "a"])
    assert look(broker, job) == FanIn(2, True, Ended(dead=1))
    ack(broker, [one for one in again if one.job.id == "b"])
    follow_up(broker, job, succeeded=1, dead=1)


def test_a_replay_after_the_follow_up_stores_no_second_one(engine: Engine) -> None:
    broker = engine.open(JOBS, DONE)
    job = gather(engine, broker, "a")
    lease = take_one(broker)
    bury(broker, lease, failure=a_failure(lease))
    follow_up(broker, job, dead=1)
    assert broker.replay(found(broker, "a", "dead"))
    ack(broker, [take_one(broker)])
    assert_nothing_to_claim(broker, "done")


def test_members_may_end_before_the_last_one_is_enqueued(engine: Engine) -> None:
    broker, other = engine.open(JOBS, DONE), engine.open()
    job = gather(engine, broker, "a", sealed=False)
    ack(other, [take_one(other)])
    assert look(other, job) == FanIn(1, False, Ended(succeeded=1))
    assert_nothing_to_claim(other, "done")
    assert fans(broker).grow("jobs", job.id, 2)
    broker.enqueue([as_member(a_job(engine, "b"), job.id, 1)])
    ack(other, [take_one(other)])
    assert_nothing_to_claim(other, "done")
    assert fans(broker).seal("jobs", job.id, 2)
    follow_up(other, job, succeeded=2)
    assert not fans(broker).seal("jobs", job.id, 2)
    assert not fans(broker).grow("jobs", job.id, 3)


def test_a_fan_in_without_members_is_followed_at_once(engine: Engine) -> None:
    broker = engine.open(JOBS, DONE)
    job = begin(engine, broker)
    assert fans(broker).seal("jobs", job.id, 0)
    follow_up(broker, job)


def test_one_that_is_dropped_is_never_followed(engine: Engine) -> None:
    broker = engine.open(JOBS, DONE)
    job = gather(engine, broker, "a", sealed=False)
    for _ in range(2):
        fans(broker).drop("jobs", job.id)
    ack(broker, [take_one(broker)])
    assert not fans(broker).seal("jobs", job.id, 1)
    assert_nothing_to_claim(broker, "done")


def test_one_that_is_sealed_cannot_be_dropped(engine: Engine) -> None:
    broker = engine.open(JOBS, DONE)
    job = gather(engine, broker, "a")
    fans(broker).drop("jobs", job.id)
    ack(broker, [take_one(broker)])
    follow_up(broker, job, succeeded=1)


def test_one_whose_producer_was_killed_is_deleted_and_its_members_run(engine: Engine) -> None:
    broker = engine.open(JOBS, DONE)
    name = os.urandom(16).hex()

    def work(owner: Owner) -> None:
        job = a_job(engine, name, queue="done")
        fans(owner).begin("jobs", job)
        assert fans(owner).grow("jobs", name, 2)
        owner.enqueue([as_member(a_job(engine, "a"), name, 0)])

    engine.die(work)
    assert fans(broker).look("jobs", name) == FanIn(2, False, Ended())
    pass_time(engine, broker, GIVEN_UP / 2)
    assert fans(broker).look("jobs", name) is not None
    pass_time(engine, engine.open(), GIVEN_UP)  # another, as it looks only now and then
    assert fans(broker).look("jobs", name) is None
    ack(broker, [take_one(broker)])
    assert_nothing_to_claim(broker, "done")
    assert_counts(broker)


def test_a_follow_up_is_stored_as_of_its_moment_and_however_full_its_queue_is(engine: Engine) -> None:
    broker = engine.open(JOBS, QueueOptions("done", max_length=1))
    job = begin(engine, broker, ttl=engine.moment, extras=Extras(priority=1, group="g", fingerprint="f"))
    assert fans(broker).grow("jobs", job.id, 1)
    broker.enqueue([as_member(a_job(engine, "a"), job.id, 0), a_job(engine, "before", queue="done")])
    assert fans(broker).seal("jobs", job.id, 1)
    pass_time(engine, broker, engine.moment * 1.5)
    ack(broker, [take_one(broker)])
    broker.maintain()
    lease = take_one(broker, "done")
    assert lease.job.id == job.id, "the urgent one is first"
    assert lease.job.ttl == engine.moment
    assert abs(lease.job.enqueued_at - engine.now()) < 60
    extras = lease.job.extras
    assert (extras.priority, extras.group, extras.fingerprint, extras.ended) == (1, "g", "f", {"succeeded": 1})


def test_a_follow_up_may_be_of_the_queue_of_its_members(engine: Engine) -> None:
    broker = engine.open(JOBS)
    job = a_job(engine)
    fans(broker).begin("jobs", job)
    assert fans(broker).grow("jobs", job.id, 1)
    broker.enqueue([as_member(a_job(engine, "a"), job.id, 0)])
    assert fans(broker).seal("jobs", job.id, 1)
    ack(broker, [take_one(broker)])
    assert take_one(broker).job.id == job.id


def test_a_follow_up_that_its_queue_does_not_take_is_refused(engine: Engine) -> None:
    broker = engine.open(JOBS, QueueOptions("done", max_payload_bytes=2))
    with pytest.raises(PayloadTooLarge, match="done"):
        begin(engine, broker)


def test_a_member_of_a_fan_in_that_is_gone_is_a_job_like_any_other(engine: Engine) -> None:
    broker = engine.open(JOBS, DONE)
    broker.enqueue([as_member(a_job(engine, "a"), "0" * 32, 7)])
    ack(broker, [take_one(broker)])
    assert_counts(broker)
    assert fans(broker).look("jobs", "0" * 32) is None


def test_a_killed_member_ends_by_its_rescuer(engine: Engine) -> None:
    broker = engine.open(JOBS_WITH_LETTERS, LETTERS, DONE)
    job = gather(engine, broker, "a", "b")
    engine.die(lambda owner: ids(take(owner, 2)))
    first, second = broker.rescue()
    bury(broker, first.lease, failure=a_failure(first.lease))
    ack(broker, [second.lease])
    follow_up(broker, job, succeeded=1, dead=1)


def test_members_far_beyond_a_page_are_counted(engine: Engine) -> None:
    broker = engine.open(JOBS, DONE)
    count = 3000
    job = gather(engine, broker, *(f"{n}" for n in range(count)))
    left = count
    while left:
        leases = take(broker, min(left, 500))
        ack(broker, leases)
        left -= len(leases)
    follow_up(broker, job, succeeded=count)


def test_nothing_hangs_where_a_members_job_has_vanished(engine: Engine) -> None:
    """Its end was seen by no process that knows of fan-ins: `lose` takes it out of the store."""
    broker = engine.open(JOBS, DONE)
    job = gather(engine, broker, "a", "b", "c")
    if not engine.lose(broker, "b"):
        pytest.skip("no job leaves this engine unseen")
    ack(broker, [one for one in take(broker, 2) if one.job.id == "a"])
    for _ in range(5):
        pass_time(engine, broker, MEND_AFTER * 2)
    assert look(broker, job) == FanIn(3, True, Ended(succeeded=1, unknown=1))
    assert_nothing_to_claim(broker, "done")
