"""The ledger beside any engine: what of the dead had started, how it had ended, and that a rescuer finishes only that.

A worker is an owner with a ledger; a rescuer joins what the engine hands out with the ledger of the dead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from framework.engine.ledger import DeadLedgers, Ledger
from framework.engine.port import MOST_UNCHARGED
from framework.maintenance import rescue
from framework.maintenance.rescue import Account, Accounts
from framework.model.job import Lease, RunRecord
from framework.model.outcome import SUCCEEDED, Kind, Outcome, Settlement
from tests.support.settling import ack

from .engines import Engine, MemoryEngine, Owner
from .helpers import JOBS_WITH_LETTERS, LETTERS, a_failure, a_run, ids, put, take, take_one

Work = Callable[[Owner, Ledger], object]


class World:
    """An engine, ledgers on the same machine, workers that die and one that rescues."""

    def __init__(self, engine: Engine, place: Path) -> None:
        self.engine, self.place = engine, place / "ledgers"
        self.broker = engine.open(JOBS_WITH_LETTERS, LETTERS)
        self.opened: list[DeadLedgers] = []

    def die(self, work: Work) -> str:
        """A worker opens its ledger, does this, and is killed."""

        def live(owner: Owner) -> None:
            ledger = Ledger(self.place, self.engine.born, slots=2)
            work(owner, ledger)
            if isinstance(self.engine, MemoryEngine):  # it dies in the test's own process
                ledger.close()

        return self.engine.die(live)[0]

    def accounts(self, owner: Owner) -> Accounts:
        self.opened.append(DeadLedgers(self.place))
        return Accounts(owner, self.opened[-1])

    def rescue(self, owner: Owner | None = None) -> dict[str, Account]:
        """By the job's id."""
        owner = owner or self.broker
        accounts = self.accounts(owner)
        return {one.lease.job.id: accounts.of(one) for one in owner.rescue()}

    def close(self) -> None:
        for ledgers in self.opened:
            ledgers.close()


@pytest.fixture
def world(engine: Engine, tmp_path: Path) -> Iterator[World]:
    made = World(engine, tmp_path)
    yield made
    made.close()


def start_one(owner: Owner, ledger: Ledger) -> Lease:
    lease = take_one(owner)
    ledger.begin(lease, a_run(lease))
    return lease


def test_what_had_started_comes_with_its_run(world: World) -> None:
    put(world.engine, world.broker, *"abc")
    run = RunRecord(
        row=1, delivery=1, attempt=1, started_at=1_700_000_000.125, trace_id="ab" * 16, span_id="cd" * 8, sampled=True
    )

    def work(owner: Owner, ledger: Ledger) -> None:
        first, second, _ = take(owner, 3)
        ledger.begin(first, a_run(first, 0))
        ledger.begin(second, run)

    dead = world.die(work)
    found = world.rescue()
    assert found["a"].run == a_run(found["a"].lease, 0)
    assert found["b"].run == run
    assert found["c"].run is None
    assert {one.owner for one in found.values()} == {dead}


def test_a_job_that_could_not_be_settled_keeps_its_run_while_others_start_in_its_row(world: World) -> None:
    """In the version before, a row of the process had one record: the job before it seemed not to have started."""
    put(world.engine, world.broker, *"abcdef")

    def work(owner: Owner, ledger: Ledger) -> None:
        leases = take(owner, 5)
        for lease in leases:
            ledger.begin(lease, a_run(lease, 0))
        for lease in leases[1:4]:
            ledger.end(lease, SUCCEEDED)
        ack(owner, [leases[1]])
        ledger.free(leases[1])
        take_one(owner)

    world.die(work)
    found = world.rescue()
    assert sorted(found) == ["a", "c", "d", "e", "f"]
    assert {name for name, one in found.items() if one.run} == {"a", "c", "d", "e"}
    assert {name for name, one in found.items() if one.outcome == SUCCEEDED} == {"c", "d"}


def test_a_run_of_an_earlier_delivery_does_not_count(world: World) -> None:
    """Settled by the engine, and the worker was killed before its slot was free."""
    put(world.engine, world.broker, "a")

    def work(owner: Owner, ledger: Ledger) -> None:
        owner.release([start_one(owner, ledger)])
        take_one(owner)

    world.die(work)
    found = world.rescue()["a"]
    assert (found.run, found.lease.delivery) == (None, 2)


def test_a_job_that_starts_again_has_the_later_run(world: World) -> None:
    put(world.engine, world.broker, "a")

    def work(owner: Owner, ledger: Ledger) -> None:
        first = start_one(owner, ledger)
        ledger.end(first, Outcome(Kind.RELEASED))
        owner.release([first])
        lease = take_one(owner)
        ledger.begin(lease, a_run(lease, 3))

    world.die(work)
    found = world.rescue()["a"]
    assert (found.run, found.outcome) == (a_run(found.lease, 3), None)


@pytest.mark.parametrize("kind", [Kind.SUCCEEDED, Kind.RETRIED, Kind.DEAD_LETTERED, Kind.RELEASED, Kind.DISCARDED])
def test_an_outcome_comes_whole(world: World, kind: Kind) -> None:
    put(world.engine, world.broker, "a", "b")

    def outcome_of(lease: Lease) -> Outcome:
        failed = kind in (Kind.RETRIED, Kind.DEAD_LETTERED)
        delay = 12.5 if kind in (Kind.RETRIED, Kind.RELEASED) else 0.0
        return Outcome(kind, delay=delay, failure=a_failure(lease) if failed else None)

    def work(owner: Owner, ledger: Ledger) -> None:
        for row, lease in enumerate(take(owner, 2)):
            ledger.begin(lease, a_run(lease, row))
            if lease.job.id == "b":
                ledger.end(lease, outcome_of(lease))

    world.die(work)
    found = world.rescue()
    assert found["b"].outcome == outcome_of(found["b"].lease)
    assert found["b"].run is not None
    assert found["a"].outcome is None


@pytest.mark.parametrize("kind", [Kind.RETRIED, Kind.DEAD_LETTERED])
def test_a_failure_is_in_the_history_once_whether_its_worker_lived_to_settle_it_or_not(
    world: World, kind: Kind
) -> None:
    put(world.engine, world.broker, "mine", "of the dead")
    mine = take_one(world.broker)

    def fail(owner: Owner, ledger: Ledger) -> None:
        lease = start_one(owner, ledger)
        ledger.end(lease, Outcome(kind, failure=a_failure(lease)))

    world.die(fail)
    (found,) = world.rescue().values()
    assert found.outcome is not None
    world.broker.settle([Settlement(mine, Outcome(kind, failure=a_failure(mine)))])
    world.broker.settle([Settlement(found.lease, found.outcome)])
    world.broker.maintain()
    leases = take(world.broker, 2, "jobs" if kind == Kind.RETRIED else "letters")
    assert sorted(ids(leases)) == ["mine", "of the dead"]
    assert [list(lease.job.history) for lease in leases] == [[a_failure(mine)], [a_failure(found.lease)]]


def test_when_the_rescuer_dies_the_next_one_does_what_it_has_decided(world: World) -> None:
    put(world.engine, world.broker, "a", "b")
    decided = Outcome(Kind.RETRIED, delay=7.5)

    def work(owner: Owner, ledger: Ledger) -> None:
        for row, lease in enumerate(take(owner, 2)):
            ledger.begin(lease, a_run(lease, row))

    def half_a_rescue(owner: Owner) -> None:
        accounts = world.accounts(owner)
        for one in owner.rescue():
            account = accounts.of(one)
            if one.lease.job.id == "a":
                accounts.resolve(account, decided)

    dead = world.die(work)
    world.engine.die(half_a_rescue)
    world.close()
    found = world.rescue()
    assert {one.owner for one in found.values()} == {dead}
    assert (found["a"].outcome, found["a"].resolved, found["a"].sent) == (decided, True, False)
    assert (found["b"].outcome, found["b"].resolved) == (None, False)
    assert found["b"].run is not None


def test_a_rescuer_that_closes_gives_its_rescue_to_the_next(world: World) -> None:
    put(world.engine, world.broker, "a")
    dead = world.die(lambda owner, ledger: start_one(owner, ledger).delivery)
    first = world.engine.open()
    assert world.rescue(first)["a"].run is not None
    first.close()
    world.close()
    found = world.rescue()["a"]
    assert found.owner == dead
    assert found.run is not None


def test_with_its_last_lease_the_ledger_of_the_dead_goes(world: World) -> None:
    put(world.engine, world.broker, *"abc")

    def work(owner: Owner, ledger: Ledger) -> None:
        for row, lease in enumerate(take(owner, 3)[:2]):
            ledger.begin(lease, a_run(lease, row))

    world.die(work)
    accounts = world.accounts(world.broker)
    found = [accounts.of(one) for one in world.broker.rescue()]
    for account in found:
        assert len(list(world.place.iterdir())) == 1
        world.broker.release([account.lease])
        accounts.settled(account)
    assert list(world.place.iterdir()) == []


def test_a_job_that_dies_with_its_owner_again_and_again_is_charged(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ledgers that a power cut lost must not let a poison job go on for ever. In memory, where dying is cheap, the real
    limit counts."""
    most = MOST_UNCHARGED if isinstance(world.engine, MemoryEngine) else 6
    monkeypatch.setattr(rescue, "MOST_UNCHARGED", most)
    put(world.engine, world.broker, "a")

    def die_with_it() -> bool:
        world.engine.die(lambda owner: take_one(owner).delivery)
        (found,) = world.rescue().values()
        world.broker.release([found.lease])
        return found.run is not None

    assert [die_with_it() for _ in range(most + 1)] == [False] * most + [True]
    assert die_with_it()
    for _ in range(most + 10):  # a poller that snoozes so often is innocent again
        world.broker.release([take_one(world.broker)])
    assert not die_with_it()
