"""Random walks through the whole port beside a plain model: two owners, and others that die.

Time to live is left to test_limits: here a job is never in doubt between two states that a caller can tell apart.
"""

from __future__ import annotations

import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from framework.engine.port import JobView, State
from framework.model.errors import LeaseLost, QueueFull
from framework.model.extras import Extras
from framework.model.job import Lease
from framework.model.options import QueueOptions
from tests.support.settling import ack, bury, rest, retry

from .engines import ENGINES, Owner
from .helpers import FAR, SETTLE, a_failure, a_job
from .model import SLACK, Known, Model

MAX_LENGTH = 6
QUEUES = [
    QueueOptions("jobs", dead_letter="letters", max_length=MAX_LENGTH, starve_after=None),
    QueueOptions("others", starve_after=None),
    QueueOptions("letters", is_dead_letter=True, starve_after=None),
]
PATIENCE = {
    "memory": 0.0,
    "slow": 0.0,
    "spool": 1.0,
    "segments": 1.0,
    "postgresql": 1.0,
}  # seconds in which a job that can be claimed must be found; shrinking pays it often
BOUNDS = {
    "memory": (150, 50),
    "slow": (20, 40),
    "spool": (14, 30),
    "segments": (14, 30),
    "postgresql": (6, 30),
}  # walks, steps of each

home_queue = st.sampled_from(["jobs", "jobs", "others"])
any_owner = st.sampled_from(["one", "two"])
any_delay = st.sampled_from(["now", "now", "soon", "far"])
any_one = st.integers(0, 1000)


def pick(some: list[Any], number: int) -> Any:
    return some[number % len(some)]


class Walk(RuleBasedStateMachine):
    """Each rule does one thing to the engine and the same to the model."""

    soon = 60.0  # seconds

    def __init__(self, engine_name: str) -> None:
        super().__init__()
        self.place = TemporaryDirectory()
        self.engine = ENGINES[engine_name](Path(self.place.name))
        self.patience = PATIENCE[engine_name]
        self.model = Model()
        self.owners: dict[str, Owner] = {}
        self.incarnations: dict[str, str] = {}
        self.stale: list[tuple[str, Lease]] = []
        for name in ("one", "two"):
            self.be_born(name)

    def be_born(self, name: str) -> None:
        self.owners[name] = self.engine.open(*QUEUES)
        self.incarnations[name] = self.engine.born

    def held(self, owner: str = "", **wanted: object) -> list[Known]:
        """What the living hold, or one of them."""
        every = [known for known in self.model.where(state="in_flight", **wanted) if known.holder]
        return [known for known in every if not owner or known.holder == owner]

    def due(self, delay: str, before: float) -> tuple[float, float]:
        wait = self.seconds(delay)
        return (before + wait, self.engine.now() + wait) if wait else (0, 0)

    def let_promote(self, owner: str) -> None:
        """Until what is due soon is due for sure: which of them a claim finds must not depend on the machine."""
        now = self.engine.now()
        soon = [known.due[1] for known in self.model.where(state="waiting") if known.due[1] < now + FAR / 2]
        self.engine.advance(max(0.0, max(soon, default=0.0) + 2 * SLACK - now))
        self.owners[owner].maintain()

    def seconds(self, delay: str) -> float:
        return {"now": 0.0, "soon": self.soon, "far": FAR}[delay]

    # --- entering ------------------------------------------------------------------------------------------------

    @rule(
        queue=home_queue,
        delay=any_delay,
        names=st.lists(st.sampled_from(["", "", "x", "y"]), min_size=1, max_size=3),
        priority=st.sampled_from([5, 5, 0, 9]),
    )
    def enqueue(self, queue: str, delay: str, names: list[str], priority: int) -> None:
        before, wait = self.engine.now(), self.seconds(delay)
        fields: dict[str, Any] = {"queue": queue, "delay": wait, "extras": Extras(priority=priority)}
        jobs = [a_job(self.engine, name, chosen=bool(name), payload=name.encode(), **fields) for name in names]
        new = [job for number, job in enumerate(jobs) if not self.model.is_duplicate(job, jobs[:number])]
        room = MAX_LENGTH - len(self.model.where(queue="jobs", state="waiting")) if queue == "jobs" else 1000
        try:
            self.owners["one"].enqueue(jobs)
        except QueueFull as error:
            assert len(new) > room
            stored = list(error.enqueued)
            assert stored == [job.id for job in jobs[: len(stored)]]
            new = [job for job in new if job in jobs[: len(stored)]]
        assert len(new) <= max(room, 0)
        for job in new:
            self.model.add(job, self.due(delay, before))

    @precondition(lambda self: self.model.where(state="waiting"))
    @rule(owner=any_owner, number=any_one, limit=st.integers(1, 4))
    def claim(self, owner: str, number: int, limit: int) -> None:
        waiting = self.model.where(state="waiting")
        letters = [known for known in waiting if known.is_dead_letter]
        queue = "letters" if letters and number % 2 else pick(waiting, number).queue
        self.let_promote(owner)
        broker, before = self.owners[owner], self.engine.now()
        waiting = self.model.where(queue=queue, state="waiting")
        must = min(limit, sum(known.surely_due(before) for known in waiting))
        leases = list(broker.claim([queue], limit=limit, wait=0))
        deadline = time.monotonic() + self.patience
        while len(leases) < must:
            assert time.monotonic() < deadline, f"{must} jobs of {queue} can be claimed, {len(leases)} were"
            leases += broker.claim([queue], limit=must - len(leases), wait=0.1)
        self.model.check_order(queue, [lease.job.uid for lease in leases])
        for lease in leases:
            known = self.model.jobs[lease.job.uid]
            assert known.state == "waiting"
            assert known.maybe_due(self.engine.now())
            known.claimed(holder=owner, claimer=self.incarnations[owner], lease=lease)
            known.check_lease(lease)

    # --- running and settling --------------------------------------------------------------------------------------

    def settled(self, known: Known) -> None:
        assert known.lease is not None
        self.stale.append((known.holder, known.lease))

    def some_of(self, held: list[Known], number: int, count: int) -> tuple[Owner, list[Known], list[Lease]]:
        """Up to `count` leases of one owner, about to be settled."""
        owner = pick(held, number).holder
        some = [known for known in held if known.holder == owner][:count]
        for known in some:
            self.settled(known)
        return self.owners[owner], some, [known.lease for known in some if known.lease]

    @precondition(lambda self: self.held())
    @rule(number=any_one, count=st.integers(1, 2))
    def ack(self, number: int, count: int) -> None:
        broker, some, leases = self.some_of(self.held(), number, count)
        ack(broker, leases)
        for known in some:
            self.model.remove(known)

    @precondition(lambda self: self.held())
    @rule(number=any_one, delay=any_delay)
    def retry(self, number: int, delay: str) -> None:
        known = pick(self.held(), number)
        failure, before = a_failure(known.lease), self.engine.now()
        self.settled(known)
        retry(self.owners[known.holder], known.lease, delay=self.seconds(delay), failure=failure)
        if known.cancelled:
            self.model.cancel(known)
            return
        known.add(failure)
        known.attempt += 1
        # Even without a delay it may pass through the delayed: due, once somebody has done the housekeeping.
        known.wait(self.due(delay, before))

    @precondition(lambda self: self.held())
    @rule(number=any_one)
    def bury(self, number: int) -> None:
        known = pick(self.held(), number)
        failure = a_failure(known.lease, reason="rejected")
        self.settled(known)
        bury(self.owners[known.holder], known.lease, failure=failure)
        if known.cancelled:
            self.model.cancel(known)
            return
        known.add(failure)
        known.die()
        if known.queue == "jobs":
            known.wait(queue="letters")

    @precondition(lambda self: self.held(queue="letters"))
    @rule(number=any_one)
    def rest(self, number: int) -> None:
        known = pick(self.held(queue="letters"), number)
        self.settled(known)
        rest(self.owners[known.holder], known.lease)
        attempt = known.attempt
        known.die()
        known.attempt = attempt

    @precondition(lambda self: self.held())
    @rule(number=any_one, count=st.integers(1, 3), delay=any_delay)
    def release(self, number: int, count: int, delay: str) -> None:
        before = self.engine.now()
        broker, some, leases = self.some_of(self.held(), number, count)
        broker.release(leases, delay=self.seconds(delay))
        for known in some:
            if known.cancelled:
                self.model.cancel(known)
            else:
                known.wait(self.due(delay, before))

    @precondition(lambda self: self.stale)
    @rule(number=any_one, verb=st.sampled_from(sorted(SETTLE)))
    def settle_again(self, number: int, verb: str) -> None:
        owner, lease = self.stale.pop(number % len(self.stale))
        with pytest.raises(LeaseLost):
            SETTLE[verb](self.owners[owner], lease)

    # --- dying and rescuing ----------------------------------------------------------------------------------------

    @precondition(lambda self: len(self.model.where(state="waiting")) > 2)
    @rule(owner=any_owner, number=any_one, limit=st.integers(1, 3))
    def live_and_die(self, owner: str, number: int, limit: int) -> None:
        queue = pick(self.model.where(state="waiting"), number).queue
        self.let_promote(owner)

        def work(owner: Owner) -> list[bytes]:
            return [lease.job.uid for lease in owner.claim([queue], limit=limit, wait=0)]

        dead, uids = self.engine.die(work)
        self.model.check_order(queue, uids)
        for uid in uids:
            known = self.model.jobs[uid]
            assert known.state == "waiting"
            assert known.queue == queue
            known.claimed(holder="", claimer=dead, lease=None)

    @precondition(lambda self: self.model.where(state="in_flight", holder=""))
    @rule(owner=any_owner)
    def rescue(self, owner: str) -> None:
        orphans = {known.job.uid: known for known in self.model.where(state="in_flight", holder="")}
        rescued = self.owners[owner].rescue()
        assert sorted(one.lease.job.uid for one in rescued) == sorted(orphans)
        for one in rescued:
            known = orphans[one.lease.job.uid]
            known.check_lease(one.lease)
            assert (one.owner, one.run, one.reported) == (known.claimer, None, None)
            known.holder, known.lease, known.rescued = owner, one.lease, True

    @precondition(lambda self: len(self.held()) > 1)
    @rule(owner=any_owner)
    def close_and_come_back(self, owner: str) -> None:
        self.owners[owner].close()
        for known in self.held(owner):
            known.holder, known.lease, known.rescued = "", None, False
        self.stale = [(name, lease) for name, lease in self.stale if name != owner]
        self.be_born(owner)

    # --- people ----------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.model.where(is_dead_letter=True) or self.model.where(state="dead"))
    @rule(owner=any_owner, number=any_one, verb=st.sampled_from(["replay", "replay", "discard"]))
    def replay_or_discard_a_letter(self, owner: str, number: int, verb: str) -> None:
        letters = [known for known in self.model.jobs.values() if known.is_dead_letter or known.state == "dead"]
        known = pick(letters, number)
        self.inspect(self.owners[owner], known, verb)

    @precondition(lambda self: len(self.model.jobs) > 6)
    @rule(owner=any_owner, number=any_one)
    def discard(self, owner: str, number: int) -> None:
        self.inspect(self.owners[owner], pick(list(self.model.jobs.values()), number), "discard")

    @precondition(lambda self: len(self.model.jobs) > 3)
    @rule(owner=any_owner, number=any_one)
    def cancel(self, owner: str, number: int) -> None:
        """Twice: the second call changes nothing."""
        known = pick(list(self.model.jobs.values()), number)
        view = self.view(self.owners[owner], known)
        dead = known.is_dead_letter or known.state == "dead"
        told = "gone" if dead else "stopping" if known.state == "in_flight" else "cancelled"
        said = [self.owners[owner].cancel(view) for _ in range(2)]
        assert said == [told] * 2, f"{said} of a job that is {known.state} on {known.queue}"
        if told == "cancelled":
            self.model.cancel(known)
        known.cancelled = told == "stopping"

    @precondition(lambda self: self.model.cancelled)
    @rule(owner=any_owner, number=any_one)
    def discard_a_cancelled_job(self, owner: str, number: int) -> None:
        known = pick(list(self.model.cancelled.values()), number)
        broker = self.owners[owner]
        (view,) = (one for one in broker.browse(known.queue, "cancelled") if one.job.uid == known.job.uid)
        assert view.attempt == known.attempt
        assert view.delivery in (known.delivery, known.delivery + 1)  # a job of a segment is claimed first
        assert not broker.replay(view)
        assert broker.discard(view)
        del self.model.cancelled[known.job.uid]

    @precondition(lambda self: self.held())
    @rule(owner=any_owner)
    def look_for_cancelled(self, owner: str) -> None:
        leases = {known.job.uid: known for known in self.held(owner)}
        mine = [known.lease for known in leases.values() if known.lease]
        assert not self.owners[owner].lost(mine)
        found = {lease.job.uid for lease in self.owners[owner].cancelled(mine)}
        assert found == {uid for uid, known in leases.items() if known.cancelled}

    def view(self, broker: Owner, known: Known) -> JobView:
        states: tuple[State, ...] = ("ready", "delayed", "in_flight", "dead")
        (view,) = (view for state in states if (view := broker.find(known.queue, known.job.id, state)))
        return view

    def inspect(self, broker: Owner, known: Known, verb: str) -> None:
        done = getattr(broker, verb)(self.view(broker, known))
        assert done is (known.state != "in_flight")
        if done and verb == "discard":
            self.model.remove(known)
        elif done:
            known.wait(queue=known.job.queue)
            known.attempt, known.untouched = 0, False

    @invariant()
    def every_job_is_where_it_must_be(self) -> None:
        broker = self.owners["two"]
        for options in QUEUES:
            groups: dict[str, tuple[State, ...]] = {
                "waiting": ("ready", "delayed"), "in_flight": ("in_flight",), "dead": ("dead",), "bad": ("bad",)
            }  # fmt: skip
            for state, places in groups.items():
                views = [view for place in places for view in broker.browse(options.name, place)]
                known = {one.job.uid: one for one in self.model.where(queue=options.name, state=state)}
                assert sorted(view.job.uid for view in views) == sorted(known)
                for view in views:
                    known[view.job.uid].check_view(view)
            aside = {uid for uid, one in self.model.cancelled.items() if one.queue == options.name}
            assert {view.job.uid for view in broker.browse(options.name, "cancelled")} == aside

    def teardown(self) -> None:
        self.engine.close()
        self.place.cleanup()


@pytest.mark.timeout(400)  # for a failure: hypothesis shrinks it for up to five minutes
@pytest.mark.parametrize("name", sorted(ENGINES))
def test_an_engine_does_what_the_model_does(name: str) -> None:
    walks, steps = BOUNDS[name]
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        lambda: Walk(name),
        settings=settings(
            max_examples=walks,
            stateful_step_count=steps,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
