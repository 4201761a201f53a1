"""Leases that an owner loses while it lives, and runs that a machine took with it."""

from __future__ import annotations

import pytest

from framework.model.errors import LeaseLost
from framework.model.job import RunRecord
from framework.model.outcome import SUCCEEDED, Settlement
from tests.support.settling import ack, retry

from .engines import Engine, Owner
from .helpers import JOBS, a_failure, assert_counts, bury_one, fail_once, found, ids, put, take, take_one
from .slow import SlowBroker


def test_what_an_owner_holds_is_not_lost(engine: Engine) -> None:
    broker, other = engine.open(JOBS), engine.open()
    put(engine, broker, *"ab")
    leases = take(broker, 2)
    other.rescue()
    assert (list(broker.lost(leases)), list(broker.lost([]))) == ([], [])
    ack(broker, leases)


def test_an_owner_that_others_take_for_dead_learns_that_its_leases_are_lost(engine: Engine) -> None:
    broker = engine.open(JOBS)
    silent = engine.born
    other = engine.open()
    put(engine, broker, *"abc")
    leases = take(broker, 2)
    if not engine.silence(silent):
        pytest.skip("a claim ends with its owner alone")
    assert ids(one.lease for one in other.rescue()) == ["a", "b"]
    assert ids(broker.lost(leases)) == ["a", "b"]
    with pytest.raises(LeaseLost) as caught:
        broker.settle([Settlement(lease, SUCCEEDED) for lease in leases])
    assert sorted(caught.value.job_ids) == ["a", "b"]
    assert_counts(other, ready=1, in_flight=2)


def test_a_job_that_this_machine_accounts_for_has_no_run_elsewhere(engine: Engine) -> None:
    broker = engine.open(JOBS)
    put(engine, broker, "a")
    broker.release([take_one(broker)])
    fail_once(broker)
    engine.die(lambda owner: take_one(owner).delivery)
    broker.release([one.lease for one in broker.rescue()])
    bury_one(broker)
    assert broker.replay(found(broker, "a", "dead"))
    lease = take_one(broker)
    assert (lease.delivery, lease.previous) == (5, None)


@pytest.fixture
def gone(engine: Engine) -> tuple[Owner, Owner]:
    """Two owners, and a machine that has taken the run of job `a` with it."""
    broker, other = engine.open(JOBS), engine.open()
    if not isinstance(broker, SlowBroker):
        pytest.skip("the dead of this engine are found by `rescue` alone")
    put(engine, broker, "a")
    broker.die_elsewhere("jobs")
    return broker, other


def test_a_run_that_nobody_accounted_for_comes_with_the_next_claim_until_somebody_does(
    gone: tuple[Owner, Owner],
) -> None:
    broker, other = gone
    lease = take_one(broker)
    assert (lease.attempt, lease.delivery) == (1, 2)
    assert lease.previous == RunRecord(row=0, delivery=1, attempt=1, started_at=1_700_000_000.0)
    broker.release([lease])
    again = take_one(other)
    assert (again.delivery, again.previous) == (3, lease.previous)
    retry(other, again, delay=0, failure=a_failure(again, reason="worker_lost"))
    last = take_one(broker)
    assert (last.attempt, last.delivery, last.previous) == (2, 4, None)


def test_a_run_elsewhere_that_is_charged_for_good_leaves_a_dead_letter(gone: tuple[Owner, Owner]) -> None:
    broker, _ = gone
    bury_one(broker, reason="worker_lost")
    view = found(broker, "a", "dead")
    assert [(failure.attempt, failure.reason) for failure in view.job.history] == [(1, "worker_lost")]
    assert broker.replay(view)
    assert take_one(broker).previous is None
