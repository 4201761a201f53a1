"""The limits of a queue over all owners: `max_running`, `rate`, and the hold of a breaker."""

from __future__ import annotations

from dataclasses import replace

import pytest

from framework.engine.port import STARVING_TURN
from framework.model.errors import WorkerError
from framework.model.extras import Extras
from framework.model.limits import CANARIES, Breaker, Rate
from framework.model.options import QueueOptions
from tests.support.settling import ack

from .engines import Engine, Owner
from .helpers import (
    JOBS,
    JOBS_WITH_LETTERS,
    LETTERS,
    SETTLE,
    assert_nothing_to_claim,
    eventually,
    ids,
    pass_time,
    put,
    take,
    take_one,
    taken_while_waiting,
)

TWO = replace(JOBS, max_running=2)
FAST = replace(JOBS, rate=Rate(10, "s"))


def claimed(owner: Owner, limit: int) -> list[str]:
    return ids(owner.claim(["jobs"], limit=limit, wait=0))


# --- max_running ------------------------------------------------------------------------------------------------------


def test_all_owners_together_claim_at_most_so_many_jobs(engine: Engine) -> None:
    mine, other = engine.open(TWO), engine.open(TWO)
    put(engine, mine, *map(str, range(6)))
    lease = take_one(mine)
    assert ids(take(other)) == ["1"]
    for owner in (mine, other, engine.open(TWO)):
        assert_nothing_to_claim(owner)
    ack(mine, [lease])
    assert ids(take(other)) == ["2"]
    assert_nothing_to_claim(mine)


def test_a_claim_of_many_takes_what_the_limit_leaves(engine: Engine) -> None:
    owner = engine.open(replace(JOBS, max_running=5))
    put(engine, owner, *map(str, range(8)))
    first = take(owner, 3)
    got = owner.claim(["jobs"], limit=10, wait=0.2)
    assert ids(first) + ids(got) == list("01234")
    ack(owner, first)
    assert ids(take(owner, 3)) == list("567")


@pytest.mark.parametrize("way", sorted(SETTLE))
def test_every_settlement_gives_the_share_back(engine: Engine, way: str) -> None:
    options = replace(JOBS_WITH_LETTERS, max_running=1)
    mine, other = engine.open(options, LETTERS), engine.open()
    put(engine, mine, *map(str, range(8)))
    for _ in range(3):
        SETTLE[way](mine, take_one(mine))
        lease = take_one(other)
        assert_nothing_to_claim(mine)
        ack(other, [lease])


def test_the_share_of_a_dead_owner_comes_back_with_the_rescue(engine: Engine) -> None:
    owner = engine.open(TWO)
    put(engine, owner, *map(str, range(4)))
    engine.die(lambda dying: ids(take(dying, 2)), TWO)
    owner.release([rescued.lease for rescued in owner.rescue()])
    assert sorted(ids(take(owner, 2))) == ["0", "1"]
    assert_nothing_to_claim(engine.open(TWO))


def test_a_closed_owner_leaves_no_share_behind(engine: Engine) -> None:
    owner, leaving = engine.open(TWO), engine.open(TWO)
    put(engine, owner, *map(str, range(4)))
    ack(leaving, take(leaving, 2))
    leaving.close()
    assert ids(take(owner, 2)) == ["2", "3"]


def test_other_queues_of_a_claim_have_limits_of_their_own(engine: Engine) -> None:
    owner = engine.open(TWO, QueueOptions("more"), replace(TWO, name="third", max_running=1))
    for queue in ("jobs", "more", "third"):
        put(engine, owner, *(f"{queue}{n}" for n in range(3)), queue=queue)
    got: list[str] = []
    for order in (["jobs", "more", "third"], ["third", "jobs", "more"], ["more", "third", "jobs"]):
        got += ids(owner.claim(order, limit=20, wait=0.2))
    assert sorted(got) == ["jobs0", "jobs1", "more0", "more1", "more2", "third0"]


def test_a_waiting_claim_gets_the_share_that_another_owner_gives_back(engine: Engine) -> None:
    mine, other = engine.open(replace(JOBS, max_running=1)), engine.open()
    put(engine, mine, "a", "b")
    lease = take_one(mine)
    assert taken_while_waiting(other, lambda: ack(mine, [lease])) == ["b"]


def test_jobs_keep_their_order_below_the_limit(engine: Engine) -> None:
    owner = engine.open(TWO)
    put(engine, owner, *map(str, range(21)))
    got: list[str] = []
    while len(got) < 21:
        leases = take(owner, 1 + len(got) % 2)
        got += ids(leases)
        ack(owner, leases)
    assert got == list(map(str, range(21)))


# --- rate -------------------------------------------------------------------------------------------------------------


def test_all_owners_together_claim_no_more_than_the_burst_and_the_rate(engine: Engine) -> None:
    owners = [engine.open(FAST), engine.open(FAST)]
    put(engine, owners[0], *map(str, range(60)))
    began, got = engine.now(), 0
    for turn in range(6):
        got += len(claimed(owners[turn % 2], 20))
        assert got <= 10 + 10 * (engine.now() - began) + 1
    assert got >= 10
    pass_time(engine, owners[0], engine.moment)
    more = sum(len(claimed(owner, 20)) for owner in owners)
    assert min(10, int(10 * engine.moment)) <= more + 1
    assert got + more <= 20 + 10 * min(1.0, engine.now() - began) + 1 or engine.moment < 1


def test_a_claim_gives_back_what_it_does_not_use(engine: Engine) -> None:
    owner = engine.open(FAST)
    put(engine, owner, *map(str, range(3)))
    assert len(claimed(owner, 50)) == 3
    for _ in range(20):
        assert claimed(owner, 50) == []
    put(engine, owner, *map(str, range(10, 30)))
    assert 7 <= len(claimed(owner, 50)) < 20


def test_a_waiting_claim_gets_the_next_job_of_a_rate(engine: Engine) -> None:
    owner = engine.open(replace(JOBS, rate=Rate(3, "s")))
    put(engine, owner, *map(str, range(4)))
    assert len(claimed(owner, 4)) == 3
    engine.advance(min(engine.moment, 0.4))
    assert ids(take(owner)) == ["3"]


def test_a_dead_owner_takes_no_tokens_along_but_those_of_its_jobs(engine: Engine) -> None:
    owner = engine.open(replace(JOBS, rate=Rate(3, "h")))
    put(engine, owner, "a", "b", "c")
    engine.die(lambda dying: ids(take(dying)))
    owner.release([rescued.lease for rescued in owner.rescue()])
    assert_nothing_to_claim(owner)
    pass_time(engine, owner, 1.0)
    assert_nothing_to_claim(engine.open())


# --- hold -------------------------------------------------------------------------------------------------------------


def breaking(engine: Engine) -> QueueOptions:
    """A canary comes each `moment`."""
    return replace(JOBS, breaker=Breaker(hold=engine.moment * CANARIES))


def test_a_held_queue_gives_single_canaries_to_all_owners_until_it_is_reopened(engine: Engine) -> None:
    options = breaking(engine)
    mine, other = engine.open(options), engine.open(options)
    put(engine, mine, *map(str, range(8)))
    assert [lease.canary for lease in take(mine)] == [False]
    mine.hold("jobs", engine.moment * CANARIES)
    assert mine.stats("jobs").held
    assert other.stats("jobs").held
    assert_nothing_to_claim(other)
    for owner, job in ((other, "1"), (mine, "2")):
        pass_time(engine, mine, engine.moment)
        (lease,) = take(owner)
        assert (lease.job.id, lease.canary) == (job, True)
        assert claimed(mine, 5) == claimed(other, 5) == []
    other.hold("jobs", 0)
    assert not mine.stats("jobs").held
    assert [lease.canary for lease in take(mine, 5)] == [False] * 5


def test_a_hold_ends_by_itself(engine: Engine) -> None:
    owner = engine.open(breaking(engine))
    put(engine, owner, "a", "b")
    owner.hold("jobs", engine.moment)
    assert_nothing_to_claim(owner)
    pass_time(engine, owner, engine.moment * 1.1)
    assert [lease.canary for lease in take(owner, 2)] == [False, False]
    assert not owner.stats("jobs").held


def test_a_canary_that_no_job_needs_is_kept_for_the_next_one(engine: Engine) -> None:
    owner = engine.open(breaking(engine))
    owner.hold("jobs", engine.moment * CANARIES)
    pass_time(engine, owner, engine.moment)
    assert_nothing_to_claim(owner)
    put(engine, owner, "a", "b")
    assert [lease.canary for lease in take(owner)] == [True]


def test_a_hold_outlives_the_owner_that_asked_for_it(engine: Engine) -> None:
    options = breaking(engine)
    owner = engine.open(options)
    put(engine, owner, "a")
    engine.die(lambda dying: dying.hold("jobs", 50 * engine.moment))
    held = engine.open(replace(options, breaker=Breaker(hold=50 * engine.moment)))
    assert held.stats("jobs").held
    assert_nothing_to_claim(held)


def test_only_a_declared_queue_can_be_held(engine: Engine) -> None:
    with pytest.raises(WorkerError, match="queue 'nothing' is not declared"):
        engine.open(JOBS).hold("nothing", 1)


# --- all of them ------------------------------------------------------------------------------------------------------


def test_limits_apply_together(engine: Engine) -> None:
    options = replace(JOBS, max_running=3, rate=Rate(5, "h"), breaker=Breaker(hold=engine.moment * CANARIES))
    owner = engine.open(options)
    put(engine, owner, *map(str, range(9)))
    leases = owner.claim(["jobs"], limit=9, wait=0)
    assert ids(leases) == ["0"], "the burst of a slow rate is one job"
    owner.hold("jobs", 0)
    assert claimed(owner, 9) == []


def test_priorities_hold_below_the_limits(engine: Engine) -> None:
    owner = engine.open(TWO)
    put(engine, owner, "usual")
    put(engine, owner, "late", extras=Extras(priority=9))
    put(engine, owner, "urgent", extras=Extras(priority=0))
    first = take(owner, 2)
    assert sorted(ids(first)) == ["urgent", "usual"]
    assert claimed(owner, 1) == []
    ack(owner, first)
    eventually(lambda: claimed(owner, 1), ["late"])


def test_what_starves_gets_its_share_of_what_the_limits_leave(engine: Engine) -> None:
    owner = engine.open(replace(JOBS, max_running=2, starve_after=engine.moment))
    put(engine, owner, "usual/0", "usual/1")
    put(engine, owner, *(f"urgent/{n}" for n in range(60)), extras=Extras(priority=1))
    pass_time(engine, owner, engine.moment * 1.5)
    got: list[str] = []
    while len(got) < 12 * STARVING_TURN:
        leases = owner.claim(["jobs"], limit=10, wait=1)
        got += ids(leases)
        ack(owner, leases)
    assert [name for name in got if "usual" in name] == ["usual/0", "usual/1"], got
    assert sum("urgent" in name for name in got[:16]) >= 10
