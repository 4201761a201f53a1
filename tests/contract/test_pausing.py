"""Paused queues: no claims, whatever else goes on, for all owners and for those that come later."""

from __future__ import annotations

import threading
import time

import pytest

from framework.engine.port import Pause
from framework.model.errors import WorkerError
from tests.support.settling import ack, retry

from .engines import Engine
from .helpers import (
    JOBS,
    JOBS_WITH_LETTERS,
    LETTERS,
    PATIENCE,
    a_failure,
    assert_counts,
    assert_nothing_to_claim,
    bury_one,
    eventually,
    found,
    ids,
    pass_time,
    put,
    take,
    take_one,
)


def test_a_paused_queue_gives_no_jobs_to_any_owner_until_it_is_resumed(engine: Engine) -> None:
    mine, other = engine.open(JOBS), engine.open(JOBS)
    assert mine.paused("jobs") is None
    put(engine, mine, "a", "b", "c")
    lease = take_one(other)
    assert mine.pause("jobs", "ada")
    assert not other.pause("jobs", "bob")
    pass_time(engine, mine, 0.3)  # running workers notice it within about a second
    put(engine, other, "d")
    for owner in (mine, other, engine.open(JOBS)):
        assert_nothing_to_claim(owner)
        assert owner.stats("jobs").paused
    pause = other.paused("jobs")
    assert pause is not None
    assert (pause.paused, pause.by) == (True, "ada")
    assert abs(pause.since - engine.now()) < 60
    retry(other, lease, delay=0, failure=a_failure(lease))
    assert_nothing_to_claim(other)
    assert other.resume("jobs", "bob")
    assert not mine.resume("jobs", "ada")
    ended = mine.paused("jobs")
    assert isinstance(ended, Pause)
    assert (ended.paused, ended.by) == (False, "bob")
    assert sorted(ids(take(mine, 4))) == ["a", "b", "c", "d"]
    eventually(lambda: mine.stats("jobs").paused, False)


def test_everything_else_goes_on_in_a_paused_queue(engine: Engine) -> None:
    owner = engine.open(JOBS_WITH_LETTERS, LETTERS)
    put(engine, owner, "dies")
    bury_one(owner)
    lease = take_one(owner, "letters")
    put(engine, owner, "gone", "kept")
    assert owner.pause("jobs", "ada")
    owner.release([lease])
    assert ids(take(owner, 1, "letters")) == ["dies"], "another queue"
    put(engine, owner, "late", delay=engine.moment)
    put(engine, owner, "expires", ttl=engine.moment)
    assert owner.discard(found(owner, "gone", "ready"))
    pass_time(engine, owner, engine.moment * 2)
    owner.maintain()
    assert_counts(owner, ready=2, paused=True)  # type: ignore[arg-type]
    assert ids(take(owner, 1, "letters")) == ["expires"]
    assert owner.resume("jobs", "ada")
    assert sorted(ids(take(owner, 2))) == ["kept", "late"]


def test_a_dead_owners_jobs_come_back_to_a_paused_queue_and_stay_there(engine: Engine) -> None:
    owner = engine.open(JOBS)
    put(engine, owner, "a")
    engine.die(lambda dying: take_one(dying).job.id)
    assert owner.pause("jobs", "ada")
    (rescued,) = owner.rescue()
    owner.release([rescued.lease])
    assert_nothing_to_claim(owner)
    assert owner.resume("jobs", "ada")
    assert ids(take(owner)) == ["a"]


def test_a_pause_outlives_whoever_made_it(engine: Engine) -> None:
    """Killed at once behind the call."""
    owner = engine.open(JOBS)
    put(engine, owner, "a")
    engine.die(lambda dying: dying.pause("jobs", "ada"))
    assert_nothing_to_claim(engine.open(JOBS))
    engine.die(lambda dying: dying.resume("jobs", "ada"))
    assert ids(take(owner)) == ["a"]


def test_a_waiting_claim_hears_of_the_end_of_a_pause(engine: Engine) -> None:
    owner, other = engine.open(JOBS), engine.open(JOBS)
    put(engine, owner, "a")
    owner.pause("jobs", "ada")
    got: list[str] = []

    def wait() -> None:
        deadline = time.monotonic() + PATIENCE
        while not got and time.monotonic() < deadline:
            got.extend(ids(leases := other.claim(["jobs"], limit=1, wait=5)))
            ack(other, list(leases))

    thread = threading.Thread(target=wait)
    thread.start()
    eventually(lambda: owner.stats("jobs").paused, True)
    assert got == []
    owner.resume("jobs", "ada")
    thread.join(PATIENCE)
    assert got == ["a"]


@pytest.mark.parametrize("verb", ["pause", "resume"])
def test_only_a_declared_queue_can_be_paused(engine: Engine, verb: str) -> None:
    owner = engine.open(JOBS)
    with pytest.raises(WorkerError, match="queue 'nothing' is not declared"):
        getattr(owner, verb)("nothing", "ada")
