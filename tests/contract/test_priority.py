"""Jobs come out by (priority, place): lower priorities first, and within one in the order of their enqueue.

A priority whose first job has waited for `starve_after` gets one in STARVING_TURN jobs.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from framework.engine.port import STARVING_TURN
from framework.model.extras import FIELDS, Extras
from framework.model.job import Lease
from tests.support.settling import bury, rest, retry

from .engines import Engine, Owner
from .helpers import (
    JOBS,
    JOBS_WITH_LETTERS,
    LETTERS,
    SETTLE,
    a_failure,
    bury_one,
    found,
    ids,
    listed,
    pass_time,
    put,
    take,
    take_one,
)  # fmt: skip

LEVELS = (5, 2, 7, 0, 9, 4)
EVERYTHING: dict[str, Any] = {
    "priority": 0, "unique_key": "user-1 \u2603", "unique_scope": "done", "group": "tenant/7", "schedule": "nightly",
    "tick": 1_700_000_000.5, "timeout": 2.5, "retry": {"max_retries": 3, "first_delay": 0.5, "jitter": True},
    "fingerprint": "0123456789ab", "version": "1.2.3", "saved": '{"page":7}',
    "fan_in": f"{'0a' * 16}/41", "ended": {"succeeded": 3, "dead": 1},
}  # fmt: skip


def priority(level: int) -> dict[str, Any]:
    return {"extras": Extras(priority=level)}


def put_levels(engine: Engine, broker: Owner, **fields: Any) -> list[str]:
    """Enqueue two of each level, mixed; return their ids as they must come out."""
    for number in range(2):
        for level in LEVELS:
            put(engine, broker, f"{level}/{number}", **priority(level), **fields)
    return [f"{level}/{number}" for level in sorted(LEVELS) for number in range(2)]


@pytest.mark.parametrize("together", [1, 5, 100])
def test_lower_priorities_come_first_and_each_in_its_order(engine: Engine, together: int) -> None:
    broker = engine.open(JOBS)
    wanted = put_levels(engine, broker)
    got: list[str] = []
    while len(got) < len(wanted):
        got += ids(take(broker, min(together, len(wanted) - len(got))))
    assert got == wanted


def test_many_of_one_call_come_out_by_their_priorities(engine: Engine) -> None:
    broker = engine.open(JOBS)
    names = [f"{n}" for n in range(120)]
    for level in (6, 5, 4):
        put(engine, broker, *(f"{level}/{name}" for name in names), **priority(level))
    got = [name for _ in range(10) for name in ids(take(broker, 36))]
    assert got == [f"{level}/{name}" for level in (4, 5, 6) for name in names]


def test_an_urgent_job_passes_those_that_wait(engine: Engine) -> None:
    broker, producer = engine.open(JOBS), engine.open()
    put(engine, producer, *(f"{n}" for n in range(40)))
    assert ids(take(broker, 2)) == ["0", "1"]
    put(engine, producer, "urgent", **priority(4))
    pass_time(engine, broker, 0.3)  # an engine may look for them now and then
    assert ids(take(broker, 2)) == ["urgent", "2"]


def test_due_jobs_come_out_by_their_priorities(engine: Engine) -> None:
    broker = engine.open(replace(JOBS, starve_after=None))
    wanted = put_levels(engine, broker, delay=engine.moment)
    pass_time(engine, broker, engine.moment * 2)
    assert ids(take(broker, len(wanted))) == wanted


@pytest.mark.parametrize("level", LEVELS)
def test_a_released_job_has_its_place_again(engine: Engine, level: int) -> None:
    broker = engine.open(JOBS)
    wanted = put_levels(engine, broker)
    leases = take(broker, len(wanted))
    broker.release([lease for lease in leases if lease.job.extras.priority <= level])
    assert ids(take(broker, sum(lease.job.extras.priority <= level for lease in leases))) == [
        name for name in wanted if int(name.partition("/")[0]) <= level
    ]


@pytest.mark.parametrize(("level", "order"), [(0, ["a", "b"]), (6, ["b", "a"])])
@pytest.mark.parametrize("way", ["retry", "release with a delay", "bury and replay"])
def test_a_job_keeps_its_priority(engine: Engine, way: str, level: int, order: list[str]) -> None:
    broker = engine.open(JOBS)
    put(engine, broker, "a", **priority(level))
    lease = take_one(broker)
    if way == "retry":
        retry(broker, lease, delay=engine.moment, failure=a_failure(lease))
    elif way == "bury and replay":
        bury(broker, lease, failure=a_failure(lease))
        assert broker.replay(found(broker, "a", "dead"))
    else:
        broker.release([lease], delay=engine.moment)
    put(engine, broker, "b")
    pass_time(engine, broker, engine.moment * 2)
    assert ids(take(broker, 2)) == order


def test_dead_letters_wait_by_the_priorities_of_their_jobs(engine: Engine) -> None:
    broker = engine.open(JOBS_WITH_LETTERS, LETTERS)
    put_levels(engine, broker)
    for lease in reversed(take(broker, 2 * len(LEVELS))):
        bury(broker, lease, failure=a_failure(lease))
    levels = [lease.job.extras.priority for lease in take(broker, 2 * len(LEVELS), "letters")]
    assert levels == sorted(levels)


@pytest.mark.parametrize("level", [4, 6])
def test_a_chosen_id_and_a_time_to_live_go_with_a_priority(engine: Engine, level: int) -> None:
    broker = engine.open(JOBS)
    for _ in range(2):
        put(engine, broker, "x", chosen=True, ttl=engine.moment, **priority(level))
    assert listed(broker, "ready") == ["x"]
    pass_time(engine, broker, engine.moment * 2)
    assert listed(broker, "dead") == ["x"]


def test_a_lost_owners_jobs_come_back_by_their_priorities(engine: Engine) -> None:
    broker = engine.open(JOBS)
    wanted = put_levels(engine, broker)
    engine.die(lambda owner: [lease.job.id for lease in take(owner, len(wanted))])
    broker.release([one.lease for one in broker.rescue()])
    assert ids(take(broker, len(wanted))) == wanted


# --- starving ---------------------------------------------------------------------------------------------------------


def flooded(engine: Engine, starve_after: float | None, flood: int = 60, **fields: Any) -> Owner:
    """A queue with two usual jobs, two patient ones, and a flood of urgent ones that came after the time passed."""
    broker = engine.open(replace(JOBS, starve_after=starve_after))
    put(engine, broker, "usual/0", "usual/1", **fields)
    put(engine, broker, "patient/0", "patient/1", **priority(9), **fields)
    put(engine, broker, *(f"urgent/{n}" for n in range(flood)), **priority(1))
    pass_time(engine, broker, engine.moment * 1.5)
    return broker


@pytest.mark.parametrize("together", [1, 3, 16])
def test_what_starves_gets_its_share_and_urgent_jobs_keep_theirs(engine: Engine, together: int) -> None:
    broker = flooded(engine, engine.moment)
    got: list[str] = []
    while len(got) < 64 and (some := ids(take(broker, min(together, 64 - len(got))))):
        got += some
    late = [name for name in got if not name.startswith("urgent")]
    assert [name for name in late if "usual" in name] == ["usual/0", "usual/1"]
    assert [name for name in late if "patient" in name] == ["patient/0", "patient/1"]
    first = got[: 12 * STARVING_TURN]  # a look for what starves may come a few claims late
    assert set(late) <= set(first), got
    assert sum(name.startswith("urgent") for name in got[:16]) >= 10
    assert [name for name in got if name.startswith("urgent")] == [f"urgent/{n}" for n in range(60)]


def test_nothing_passes_urgent_jobs_before_it_starves_or_where_the_queue_says_never(engine: Engine) -> None:
    for after in (engine.moment * 1000, None):
        queue = replace(JOBS, starve_after=after)
        broker = engine.open(queue)
        put(engine, broker, "usual")
        put(engine, broker, *(f"urgent/{n}" for n in range(20)), **priority(1))
        pass_time(engine, broker, engine.moment * 1.5)
        assert ids(take(broker, 21)) == [*(f"urgent/{n}" for n in range(20)), "usual"]
        broker.close()
        engine.close()


def test_a_retried_job_starves_from_when_it_is_due(engine: Engine) -> None:
    broker, other = (engine.open(replace(JOBS, starve_after=engine.moment)) for _ in range(2))
    put(engine, broker, "usual")
    retry(broker, lease := take_one(broker), delay=engine.moment, failure=a_failure(lease))
    put(engine, broker, *(f"urgent/{n}" for n in range(40)), **priority(1))
    pass_time(engine, broker, engine.moment * 1.2)
    assert "usual" not in ids(take(broker, 16))
    pass_time(engine, broker, engine.moment)
    assert "usual" in ids(take(other, 4)) + ids(take(other, 16))  # the first claim may only have looked


# --- what else a job may carry ----------------------------------------------------------------------------------------


def check(lease: Lease, extras: Extras) -> Lease:
    assert lease.job.extras == extras
    assert lease.job.extras.text == extras.text
    return lease


def test_every_extra_goes_with_the_job_for_its_whole_life(engine: Engine) -> None:
    assert EVERYTHING.keys() == FIELDS.keys(), "a new field is missing here"
    extras = Extras(**EVERYTHING, other={"from a newer version": {"a": [1, None]}})
    broker = engine.open(JOBS_WITH_LETTERS, LETTERS)
    put(engine, broker, "a", extras=extras)
    lease = check(take_one(broker), extras)
    retry(broker, lease, delay=0, failure=a_failure(lease))
    broker.maintain()
    broker.release([check(take_one(broker), extras)])
    check(bury_one(broker), extras)
    rest(broker, check(take_one(broker, "letters"), extras))
    view = found(broker, "a", "dead", "letters")
    assert view.job.extras == extras
    assert broker.replay(view)
    engine.die(lambda owner: take_one(owner).job.id)
    (rescued,) = broker.rescue()
    broker.release([check(rescued.lease, extras)])
    check(take_one(broker), extras)


@pytest.mark.parametrize("verb", SETTLE)
def test_a_job_without_extras_has_none(engine: Engine, verb: str) -> None:
    broker = engine.open(JOBS)
    put(engine, broker, "a")
    lease = check(take_one(broker), Extras())
    assert lease.job.extras.text == ""
    SETTLE[verb](broker, lease)


@pytest.mark.parametrize("level", [10, -1, 1.0, 5.0, "1", True, False, None])
def test_no_other_priority_can_be_made(level: Any) -> None:
    with pytest.raises(ValueError, match=r"priority=.*whole number from 0 to 9"):
        Extras(priority=level)
