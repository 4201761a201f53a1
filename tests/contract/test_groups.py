"""Groups: how many jobs of a key are claimed at once, in which order, and that groups take turns."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from framework.engine.port import NO_JOBS
from framework.model.extras import Extras
from framework.model.limits import Rate
from framework.model.options import QueueOptions
from tests.support.settling import ack, bury, retry

from .engines import Engine, Owner
from .helpers import (
    FAR,
    JOBS,
    LETTERS,
    SETTLE,
    a_failure,
    assert_nothing_to_claim,
    eventually,
    found,
    ids,
    pass_time,
    put,
    take,
    take_one,
    taken_while_waiting,
)

FAIR = replace(JOBS, grouped=True)
ONE = replace(FAIR, group_limit=1)
STRICT = replace(FAIR, group_order="strict")


def put_in(engine: Engine, owner: Owner, *ids_: str, priority: int = 5, delay: float = 0) -> None:
    """Enqueue jobs; the letter before the number in an id is the key of the job's group."""
    for job_id in ids_:
        put(engine, owner, job_id, extras=Extras(group=job_id[0], priority=priority), delay=delay)


def groups_of(jobs: list[str]) -> Counter[str]:
    return Counter(job_id[0] for job_id in jobs)


# --- turns ------------------------------------------------------------------------------------------------------------


def test_groups_take_turns(engine: Engine) -> None:
    owner = engine.open(FAIR)
    put_in(engine, owner, *(f"a{n}" for n in range(20)), "b0", "b1", "c0")
    first = ids(take(owner, 3))
    assert sorted(first) == ["a0", "b0", "c0"]
    assert sorted(ids(take(owner, 2))) == ["a1", "b1"]
    assert ids(take(owner, 3)) == ["a2", "a3", "a4"]


def test_a_new_group_does_not_wait_for_a_long_one(engine: Engine) -> None:
    owner = engine.open(FAIR)
    put_in(engine, owner, *(f"a{n}" for n in range(300)))
    for _ in range(5):
        ack(owner, take(owner, 4))
    put_in(engine, owner, "b0")
    owner.maintain()
    got: list[str] = []

    def look() -> bool:
        leases = take(owner, 2)
        got.extend(ids(leases))
        ack(owner, leases)
        return "b0" in got

    eventually(look, True)
    assert len(got) < 200


def test_within_a_group_the_order_is_that_of_priority_and_enqueue(engine: Engine) -> None:
    owner = engine.open(FAIR)
    put_in(engine, owner, "a0", "a1")
    put_in(engine, owner, "a2", priority=1)
    put_in(engine, owner, "a3", priority=9)
    put_in(engine, owner, "a4")
    assert ids(take(owner, 5)) == ["a2", "a0", "a1", "a4", "a3"]


def test_jobs_without_a_group_have_no_limit(engine: Engine) -> None:
    owner = engine.open(ONE)
    put(engine, owner, "x", "y", "z")
    put_in(engine, owner, "a0", "a1")
    assert sorted(ids(take(owner, 4))) == ["a0", "x", "y", "z"]
    assert_nothing_to_claim(owner)


def test_without_the_declaration_a_key_means_nothing(engine: Engine) -> None:
    owner = engine.open(JOBS)
    put_in(engine, owner, "a0", "a1", "b0", "a2")
    assert ids(take(owner, 4)) == ["a0", "a1", "b0", "a2"]


def test_jobs_that_wait_when_groups_are_declared_are_claimed_too(engine: Engine) -> None:
    before = engine.open(JOBS)
    put(engine, before, *(f"x{n}" for n in range(6)))
    put_in(engine, before, "a0", "a1")
    owner = engine.open(ONE)
    assert sorted(ids(take(owner, 7))) == ["a0", *(f"x{n}" for n in range(6))]
    assert_nothing_to_claim(owner)


@pytest.mark.parametrize("order", [["jobs", "plain"], ["plain", "jobs"]], ids=" ".join)
def test_the_first_claim_of_an_owner_may_find_jobs_without_a_group_alone(engine: Engine, order: list[str]) -> None:
    plain = QueueOptions("plain")
    before = engine.open(JOBS, plain)
    put(engine, before, "x")
    (lease,) = engine.open(ONE, plain).claim(order, limit=1, wait=5)
    assert lease.job.id == "x"


# --- the limit --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("most", [1, 2])
def test_all_owners_together_claim_at_most_so_many_of_a_group(engine: Engine, most: int) -> None:
    options = replace(FAIR, group_limit=most)
    owners = [engine.open(options), engine.open(options), engine.open(options)]
    put_in(engine, owners[0], *(f"{group}{n}" for n in range(5) for group in "abc"))
    leases = [(owner, lease) for owner in owners for lease in take(owner, most)]
    assert groups_of(ids(lease for _, lease in leases)) == dict.fromkeys("abc", most)
    for owner in owners:
        assert_nothing_to_claim(owner)
    holder, lease = leases[0]
    ack(holder, [lease])
    assert take_one(owners[1]).job.id[0] == lease.job.id[0]
    assert_nothing_to_claim(owners[2])


def test_a_claim_of_many_takes_no_more_than_the_limit(engine: Engine) -> None:
    owner = engine.open(replace(FAIR, group_limit=2))
    put_in(engine, owner, *(f"a{n}" for n in range(6)), "b0", "c0")
    assert groups_of(ids(take(owner, 4))) == {"a": 2, "b": 1, "c": 1}
    assert_nothing_to_claim(owner)


@pytest.mark.parametrize("options", [ONE, STRICT], ids=["limit", "strict"])
@pytest.mark.parametrize("way", sorted(SETTLE))
def test_every_settlement_gives_the_place_back(engine: Engine, way: str, options: QueueOptions) -> None:
    mine, other = engine.open(replace(options, dead_letter="letters"), LETTERS), engine.open()
    put_in(engine, mine, "a0", "a1")
    SETTLE[way](mine, take_one(mine))
    if options is STRICT and way == "release with a delay":
        assert_nothing_to_claim(other)
        return
    waits_again = way in ("retry", "release")
    got = ids(take(other))
    assert got == ["a1"] or (waits_again and got == ["a0"])
    assert options is ONE or got == (["a0"] if waits_again else ["a1"])
    assert_nothing_to_claim(mine)


def test_the_place_of_a_dead_owner_comes_back_with_the_rescue(engine: Engine) -> None:
    owner = engine.open(ONE)
    put_in(engine, owner, "a0", "a1")
    engine.die(lambda dying: ids(take(dying, 1)), ONE)
    owner.release([rescued.lease for rescued in owner.rescue()])
    assert ids(take(owner)) == ["a0"]
    assert_nothing_to_claim(engine.open(ONE))


def test_a_dead_owner_s_job_holds_its_place_until_its_rescue(engine: Engine) -> None:
    owner = engine.open(ONE)
    put_in(engine, owner, "a0", "a1", "b0")
    engine.die(lambda dying: ids(take(dying, 2)), ONE)
    assert ids(owner.claim(["jobs"], limit=10, wait=0.05)) == []


def test_a_waiting_claim_gets_the_place_that_another_owner_gives_back(engine: Engine) -> None:
    mine, other = engine.open(ONE), engine.open()
    put_in(engine, mine, "a0", "a1")
    lease = take_one(mine)
    assert taken_while_waiting(other, lambda: ack(mine, [lease])) == ["a1"]


def test_the_other_limits_count_as_well(engine: Engine) -> None:
    owner = engine.open(replace(ONE, max_running=2, rate=Rate(1000, "s")))
    put_in(engine, owner, *(f"{group}{n}" for n in range(2) for group in "abcd"))
    assert len(set(groups_of(ids(take(owner, 2))))) == 2
    assert_nothing_to_claim(owner)


def test_a_lower_limit_counts_from_the_next_claim_on(engine: Engine) -> None:
    owner = engine.open(replace(FAIR, group_limit=2))
    put_in(engine, owner, "a0", "a1", "a2", "a3")
    first = take(owner, 2)
    owner.open([ONE])
    ack(owner, first[:1])
    assert_nothing_to_claim(owner)
    ack(owner, first[1:])
    assert ids(take(owner)) == ["a2"]


# --- strict order -----------------------------------------------------------------------------------------------------


def test_a_retry_keeps_its_group_waiting_and_no_other(engine: Engine) -> None:
    mine, other = engine.open(STRICT), engine.open(STRICT)
    put_in(engine, mine, "a0", "a1")
    lease = take_one(mine)
    retry(mine, lease, delay=engine.moment, failure=a_failure(lease))
    put_in(engine, mine, "b0")
    assert ids(take(other)) == ["b0"]
    for owner in (mine, other, engine.open(STRICT)):
        assert_nothing_to_claim(owner)
    pass_time(engine, mine, engine.moment)
    (again,) = take(other)
    assert (again.job.id, again.attempt) == ("a0", 2)
    assert_nothing_to_claim(mine)
    ack(other, [again])
    assert ids(take(mine)) == ["a1"]


def test_a_retry_of_a_limited_group_does_not_keep_it_waiting(engine: Engine) -> None:
    owner = engine.open(ONE)
    put_in(engine, owner, "a0", "a1")
    lease = take_one(owner)
    retry(owner, lease, delay=FAR, failure=a_failure(lease))
    assert ids(take(owner)) == ["a1"]


@pytest.mark.parametrize("way", ["release", "retry"])
def test_what_waits_again_comes_before_the_others_of_its_group(engine: Engine, way: str) -> None:
    mine, other = engine.open(STRICT), engine.open(STRICT)
    put_in(engine, mine, "a0", "a1", "a2")
    assert_nothing_to_claim_but(other, mine)
    for _ in range(3):
        lease = take_one(mine)
        assert lease.job.id == "a0"
        SETTLE[way](mine, lease)
        mine.maintain()
    got = []
    for owner in (other, mine, other):
        lease = take_one(owner)
        got.append(lease.job.id)
        ack(owner, [lease])
    assert got == ["a0", "a1", "a2"]


def assert_nothing_to_claim_but(other: Owner, mine: Owner) -> None:
    """Let another owner list the jobs before one of them is claimed, so that what it knows is old."""
    lease = take_one(mine)
    assert_nothing_to_claim(other)
    mine.release([lease])


@pytest.mark.parametrize("end", ["dead letter", "own dead", "cancelled", "discarded", "cancelled while it runs"])
def test_what_ends_for_good_lets_its_group_go_on(engine: Engine, end: str) -> None:
    options = replace(STRICT, dead_letter="letters") if end == "dead letter" else STRICT
    owner, other = engine.open(options, LETTERS), engine.open(options, LETTERS)
    put_in(engine, owner, "a0", "a1")
    lease = take_one(owner)
    retry(owner, lease, delay=0 if "dead" in end or "runs" in end else FAR, failure=a_failure(lease))
    owner.maintain()
    if "dead" in end:
        lease = take_one(owner)
        assert lease.job.id == "a0"
        bury(owner, lease, failure=a_failure(lease))
    elif end == "cancelled":
        assert owner.cancel(found(owner, "a0", "delayed")) == "cancelled"
    elif end == "discarded":
        assert owner.discard(found(owner, "a0", "delayed"))
    else:
        lease = take_one(owner)
        assert owner.cancel(found(owner, "a0", "in_flight")) == "stopping"
        retry(owner, lease, delay=0, failure=a_failure(lease))
    owner.maintain()
    (left,) = take(other)
    assert left.job.id == "a1"


def test_a_discard_that_comes_too_late_leaves_the_order_of_the_group(engine: Engine) -> None:
    owner = engine.open(STRICT)
    put_in(engine, owner, "a0", "a1")
    seen = found(owner, "a0", "ready")
    lease = take_one(owner)
    retry(owner, lease, delay=FAR, failure=a_failure(lease))
    assert not owner.discard(seen)
    assert_nothing_to_claim(owner)
    assert owner.discard(found(owner, "a0", "delayed"))
    assert ids(take(owner)) == ["a1"]


def test_a_dead_letter_that_is_replayed_waits_behind_the_others(engine: Engine) -> None:
    owner = engine.open(STRICT)
    put_in(engine, owner, "a0", "a1")
    lease = take_one(owner)
    bury(owner, lease, failure=a_failure(lease))
    assert owner.replay(found(owner, "a0", "dead"))
    for wanted in ("a1", "a0"):
        (lease,) = take(owner)
        assert lease.job.id == wanted
        ack(owner, [lease])


def test_a_rescued_retry_comes_first(engine: Engine) -> None:
    owner = engine.open(STRICT)
    put_in(engine, owner, "a0", "a1")
    engine.die(lambda dying: ids(take(dying, 1)), STRICT)
    assert ids(owner.claim(["jobs"], limit=10, wait=0.05)) == []
    (rescued,) = owner.rescue()
    assert ids(owner.claim(["jobs"], limit=10, wait=0.05)) == []
    retry(owner, rescued.lease, delay=engine.moment, failure=a_failure(rescued.lease))
    assert_nothing_to_claim(engine.open(STRICT))
    pass_time(engine, owner, engine.moment)
    assert ids(take(owner)) == ["a0"]


def test_a_job_whose_time_has_not_come_keeps_none_waiting(engine: Engine) -> None:
    owner = engine.open(STRICT)
    put_in(engine, owner, "a0", delay=FAR)
    put_in(engine, owner, "a1")
    assert ids(take(owner)) == ["a1"]


def test_the_order_of_a_group_is_kept_by_many_owners(engine: Engine) -> None:
    """Three owners in turn, retries, releases: each group's jobs end in the order of their enqueue."""
    owners = [engine.open(STRICT), engine.open(STRICT), engine.open(STRICT)]
    put_in(engine, owners[0], *(f"{group}{n}" for n in range(8) for group in "abc"))
    ended: list[str] = []
    turn = 0
    while len(ended) < 24:
        owner = owners[turn % 3]
        for at, lease in enumerate(owner.claim(["jobs"], limit=2, wait=0.05)):
            if (turn + at) % 4 == 1 and lease.attempt == 1:
                retry(owner, lease, delay=0, failure=a_failure(lease))
            elif (turn + at) % 7 == 2:
                owner.release([lease])
            else:
                ack(owner, [lease])
                ended.append(lease.job.id)
        owner.maintain()
        turn += 1
        assert turn < 2000
    for group in "abc":
        assert [one for one in ended if one[0] == group] == [f"{group}{n}" for n in range(8)]
    assert replace(owners[0].stats("jobs"), oldest_age=0.0).in_flight == NO_JOBS.in_flight
