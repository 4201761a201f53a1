"""Where cancellations, unique keys, checkpoints and limits meet in one job."""

from __future__ import annotations

from dataclasses import replace

import pytest

from framework.model.job import Lease
from framework.model.outcome import CANCELLED, SUCCEEDED, Kind, Outcome, Settlement
from tests.support.settling import ack, bury

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
    found,
    ids,
    listed,
    put,
    take,
    take_one,
)
from .test_cancelling import cancel
from .test_unique import enqueue

BACK = ["retry", "bury", "release", "release with a delay"]


def failed(lease: Lease, kind: Kind, delay: float = 0) -> Outcome:
    return Outcome(kind, delay, a_failure(lease))


@pytest.mark.parametrize("delay", [0, FAR])
def test_a_job_with_a_generated_id_is_found_and_cancelled_wherever_it_went(engine: Engine, delay: float) -> None:
    """The other jobs that were enqueued with it are where they were."""
    owner = engine.open(JOBS)
    first, second, _ = put(engine, owner, "", "", "")
    lease = take_one(owner)
    owner.settle([Settlement(lease, failed(lease, Kind.RETRIED, delay))])
    for job in (first, second):
        (view,) = owner.get(["jobs"], job.id)
        assert [owner.cancel(view), owner.cancel(view)] == ["cancelled"] * 2
        assert [(one.job.id, one.state) for one in owner.get(["jobs"], job.id)] == [(job.id, "cancelled")]
    owner.maintain()
    assert len(take(owner)) == 1
    assert_nothing_to_claim(owner)


# --- unique keys ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("delay", [0, FAR])
@pytest.mark.parametrize("until", ["done", "started"])
def test_a_waiting_job_that_is_cancelled_frees_its_key_for_good(engine: Engine, until: str, delay: float) -> None:
    owner = engine.open(JOBS)
    enqueue(engine, owner, "first", until=until, delay=delay)
    assert cancel(engine.open(), "first") == "cancelled"
    for how in ("keep", "replace", "postpone"):
        told = enqueue(engine, owner, how, until=until, on_conflict=how, payload=b"new")
        assert told == "keep"
        assert told.duplicate == (how != "keep")
    assert found(owner, "first", "cancelled").job.payload == b"{}"
    assert owner.discard(found(owner, "first", "cancelled"))
    assert enqueue(engine, owner, "last", until=until) == "keep", "what is deleted does not free the key of another job"


@pytest.mark.parametrize("claimed", [False, True])
def test_a_key_for_a_time_outlives_the_cancellation(engine: Engine, claimed: bool) -> None:
    owner = engine.open(JOBS)
    enqueue(engine, owner, "first", until="7200")
    if claimed:
        lease = take_one(owner)
        assert cancel(owner, "first") == "stopping"
        owner.release([lease])
    else:
        assert cancel(owner, "first") == "cancelled"
    for how in ("keep", "replace", "postpone"):
        told = enqueue(engine, owner, how, until="7200", on_conflict=how, payload=b"new")
        assert (told, told.duplicate) == ("first", True)
    assert owner.discard(found(owner, "first", "cancelled"))
    assert enqueue(engine, engine.open(), "next", until="7200").duplicate
    engine.advance(7200)
    assert not enqueue(engine, owner, "next", until="7200").duplicate


@pytest.mark.parametrize("until", ["done", "started"])
@pytest.mark.parametrize("how", BACK)
def test_a_claimed_job_that_is_cancelled_holds_its_key_until_it_is_settled(
    engine: Engine, how: str, until: str
) -> None:
    owner = engine.open(JOBS_WITH_LETTERS, LETTERS)
    enqueue(engine, owner, "first", until=until)
    lease = take_one(owner)
    assert cancel(owner, "first") == "stopping"
    told = enqueue(engine, owner, "second", until=until, on_conflict="replace", payload=b"new")
    assert told.duplicate == (until == "done")
    SETTLE[how](owner, lease)
    assert listed(owner, "cancelled") == ["first"]
    third = enqueue(engine, owner, "third", until=until)
    assert (third, third.duplicate) == (("third", False) if until == "done" else ("second", True))


def test_a_dead_owner_of_a_cancelled_job_leaves_no_key_and_no_share(engine: Engine) -> None:
    options = replace(JOBS, max_running=1)
    owner = engine.open(options)
    enqueue(engine, owner, "first")
    put(engine, owner, "other")
    engine.die(lambda dying: (ids(take(dying)), cancel(dying, "first")), options)
    (rescued,) = owner.rescue()
    owner.release([rescued.lease])
    assert not enqueue(engine, owner, "second").duplicate
    lease = take_one(owner)
    assert lease.job.id == "other"
    assert_nothing_to_claim(owner)
    ack(owner, [lease])
    assert ids(take(owner)) == ["second"]


def test_a_replayed_job_has_its_key_and_its_checkpoint_again_and_can_be_cancelled(engine: Engine) -> None:
    owner = engine.open(JOBS_WITH_LETTERS, LETTERS)
    enqueue(engine, owner, "first")
    lease = take_one(owner)
    owner.save(lease, "[7]")
    bury(owner, lease, failure=a_failure(lease))
    assert owner.replay(found(owner, "first", "ready", "letters"))
    assert enqueue(engine, owner, "second").duplicate
    lease = take_one(owner)
    assert lease.job.extras.saved == "[7]"
    assert cancel(owner, "first") == "stopping"
    owner.settle([Settlement(lease, failed(lease, Kind.DEAD_LETTERED))])
    assert found(owner, "first", "cancelled").job.extras.saved == "[7]"
    assert not enqueue(engine, owner, "second").duplicate


# --- shares -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [*BACK, "cancelled"])
def test_a_cancelled_job_gives_its_share_back_when_it_is_settled(engine: Engine, how: str) -> None:
    options = replace(JOBS_WITH_LETTERS, max_running=1)
    owner, other = engine.open(options, LETTERS), engine.open()
    put(engine, owner, "a", "b", "c")
    lease = take_one(owner)
    assert cancel(owner, "c") == "cancelled"
    assert cancel(other, "a") == "stopping"
    assert_nothing_to_claim(other)
    if how == "cancelled":
        owner.settle([Settlement(lease, CANCELLED)])
    else:
        SETTLE[how](owner, lease)
    assert ids(take(other)) == ["b"]
    assert_nothing_to_claim(owner)


# --- all in one call --------------------------------------------------------------------------------------------------


def a_mixture(engine: Engine, owner: Owner) -> dict[str, Lease]:
    names = ["done", "discarded", "later", "at once", "dies", "back", "put off", "cancelled", "c retried", "c released",
             "c put off", "c dies", "c done", "saved"]  # fmt: skip
    put(engine, owner, *names)
    enqueue(engine, owner, "k done", key="1")
    enqueue(engine, owner, "k later", key="2")
    enqueue(engine, owner, "k dies", key="3")
    enqueue(engine, owner, "c k released", key="4")
    put(engine, owner, "chosen", chosen=True)
    leases = {lease.job.id: lease for lease in take(owner, 19)}
    owner.save(leases["saved"], "1")
    owner.save(leases["c retried"], "2")
    for name in leases:
        if name.startswith("c "):
            assert cancel(engine.open(), name) == "stopping"
    return leases


def test_one_call_settles_leases_of_every_kind(engine: Engine) -> None:
    owner = engine.open(replace(JOBS_WITH_LETTERS, max_running=19), LETTERS)
    leases = a_mixture(engine, owner)

    def outcome(name: str, lease: Lease) -> Outcome:
        return {
            "done": SUCCEEDED, "chosen": SUCCEEDED, "discarded": Outcome(Kind.DISCARDED), "cancelled": CANCELLED,
            "later": failed(lease, Kind.RETRIED, FAR), "saved": failed(lease, Kind.RETRIED, FAR),
            "retried": failed(lease, Kind.RETRIED, FAR), "once": failed(lease, Kind.RETRIED),
            "dies": failed(lease, Kind.DEAD_LETTERED), "back": Outcome(Kind.RELEASED),
            "released": Outcome(Kind.RELEASED), "off": Outcome(Kind.RELEASED, FAR),
        }[name.split()[-1]]  # fmt: skip

    owner.settle([Settlement(lease, outcome(name, lease)) for name, lease in leases.items()])
    owner.maintain()
    assert sorted(listed(owner, "ready")) == ["at once", "back"]
    assert sorted(listed(owner, "delayed")) == ["k later", "later", "put off", "saved"]
    assert sorted(listed(owner, "ready", "letters")) == ["dies", "k dies"]
    assert sorted(listed(owner, "cancelled")) == [
        "c dies", "c k released", "c put off", "c released", "c retried", "cancelled",
    ]  # fmt: skip
    assert_counts(owner, ready=2, delayed=4)
    assert [enqueue(engine, owner, f"n{key}", key=key).duplicate for key in "1234"] == [False, True, False, False]
    assert found(owner, "saved", "delayed").job.extras.saved == "1"
    assert found(owner, "c retried", "cancelled").job.extras.saved == "2"
    assert len(take(owner, 5)) == 5
