"""Checkpoints: what a running job has saved goes with it, until the job itself is gone."""

from __future__ import annotations

import json
import threading

import pytest

from framework.model.errors import LeaseLost
from framework.model.extras import MOST_SAVED, Extras
from framework.model.job import Lease
from framework.model.outcome import JobInterrupted
from tests.support.settling import ack, rest, retry

from .engines import Engine, Owner
from .helpers import (
    FAR,
    JOBS,
    JOBS_WITH_LETTERS,
    LETTERS,
    a_failure,
    assert_counts,
    bury_one,
    found,
    put,
    take,
    take_one,
)

OLD, NEW = '{"page":7}', '{"page":8,"sum":"\\u00e9"}'


@pytest.fixture
def broker(engine: Engine) -> Owner:
    return engine.open(JOBS_WITH_LETTERS, LETTERS)


def saved(lease: Lease, state: str | None) -> Lease:
    assert lease.job.extras.saved == state
    return lease


def test_the_last_checkpoint_goes_with_the_job_for_its_whole_life(engine: Engine, broker: Owner) -> None:
    put(engine, broker, "a", extras=Extras(group="g", other={"newer": [1]}))
    lease = saved(take_one(broker), None)
    broker.save(lease, OLD)
    broker.save(lease, NEW)
    assert found(broker, "a", "in_flight").job.extras.saved == NEW
    retry(broker, lease, delay=0, failure=a_failure(lease))
    broker.maintain()
    broker.release([saved(take_one(broker), NEW)])
    saved(bury_one(broker), NEW)
    rest(broker, saved(take_one(broker, "letters"), NEW))
    view = found(broker, "a", "dead", "letters")
    assert view.job.extras.saved == NEW
    assert broker.replay(view)
    lease = saved(take_one(broker), NEW)
    assert (lease.job.extras.group, lease.job.extras.other) == ("g", {"newer": [1]})
    broker.save(lease, OLD)
    broker.release([lease], delay=FAR)
    assert found(broker, "a", "delayed").job.extras.saved == OLD
    assert broker.discard(found(broker, "a", "delayed"))
    assert_counts(broker)


def test_a_job_that_ends_takes_its_checkpoint_with_it(engine: Engine, broker: Owner) -> None:
    (first,) = put(engine, broker, "a", chosen=True)
    lease = take_one(broker)
    broker.save(lease, OLD)
    ack(broker, [lease])
    (second,) = put(engine, broker, "a", chosen=True)
    assert second.uid != first.uid
    saved(take_one(broker), None)


def test_null_removes_it(engine: Engine, broker: Owner) -> None:
    put(engine, broker, "a")
    lease = take_one(broker)
    broker.save(lease, OLD)
    broker.save(lease, "null")
    broker.release([lease])
    lease = saved(take_one(broker), None)
    assert lease.job.extras.text == ""
    broker.save(lease, NEW)
    broker.release([lease])
    saved(take_one(broker), NEW)


def save_and_die(owner: Owner) -> int:
    lease = take_one(owner)
    owner.save(lease, OLD)
    owner.save(lease, NEW)
    return lease.delivery


def test_what_a_killed_owner_has_saved_is_found_by_the_next_attempt(engine: Engine, broker: Owner) -> None:
    put(engine, broker, "a", "b")
    engine.die(save_and_die)
    (rescued,) = broker.rescue()
    retry(broker, saved(rescued.lease, NEW), delay=0, failure=a_failure(rescued.lease))
    broker.maintain()
    leases = {lease.job.id: lease for lease in take(broker, 2)}
    saved(leases["a"], NEW)
    saved(leases["b"], None)


def test_the_largest_one(engine: Engine, broker: Owner) -> None:
    state = json.dumps('"' * (MOST_SAVED // 2 - 1))
    assert len(state) == MOST_SAVED
    put(engine, broker, "a")
    lease = take_one(broker)
    broker.save(lease, state)
    broker.release([lease])
    saved(take_one(broker), state)


def test_jobs_of_one_call_save_each_its_own_from_threads(engine: Engine, broker: Owner) -> None:
    put(engine, broker, *"abcd")
    leases = take(broker, 4)
    threads = [threading.Thread(target=broker.save, args=(lease, f'"{lease.job.id}"')) for lease in leases[:3]]
    for thread in threads:
        thread.start()
    ack(broker, leases[3:])  # meanwhile
    for thread in threads:
        thread.join()
    broker.release(leases[:3])
    for lease in take(broker, 3):
        saved(lease, f'"{lease.job.id}"')
    assert_counts(broker, in_flight=3)


def test_who_has_lost_the_job_can_not_save(engine: Engine) -> None:
    broker = engine.open(JOBS)
    silent = engine.born
    other = engine.open()
    put(engine, broker, "a", "b")
    lease, settled = take(broker, 2)
    ack(broker, [settled])
    with pytest.raises((LeaseLost, JobInterrupted)):
        broker.save(settled, OLD)
    if not engine.silence(silent):
        return  # a claim ends with its owner alone
    broker.save(lease, OLD)
    (rescued,) = other.rescue()
    with pytest.raises((LeaseLost, JobInterrupted)):
        broker.save(lease, NEW)
    other.release([saved(rescued.lease, OLD)])
    saved(take_one(other), OLD)


def test_a_delivery_that_ends_before_the_handler_starts_is_counted_and_leaves_the_checkpoint(engine: Engine) -> None:
    """The worker is killed while the job waits in it, with what an earlier delivery has saved."""
    owner = engine.open(JOBS)
    put(engine, owner, "a")
    lease = take_one(owner)
    owner.save(lease, OLD)
    owner.release([lease])
    for count in (1, 2):
        engine.die(lambda dying: len(take(dying)))
        (rescued,) = owner.rescue()
        assert owner.unaccounted(rescued.lease) == count
        owner.release([rescued.lease])
        assert found(owner, "a", "ready").job.extras.saved == OLD
    lease = take_one(owner)
    owner.save(lease, NEW)
    owner.save(lease, OLD)
    owner.release([lease])
    engine.die(lambda dying: len(take(dying)))
    (rescued,) = owner.rescue()
    assert owner.unaccounted(rescued.lease) == 2, "one has ended in good order since"
    assert saved(rescued.lease, OLD).delivery == 5
