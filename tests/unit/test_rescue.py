"""What becomes of the jobs of the dead."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from framework.engine.port import Rescued
from framework.maintenance.abandoned import AbandonedLeases
from framework.maintenance.rescue import Account, resolve
from framework.model.errors import EngineUnavailable
from framework.model.events import AttemptLost, EngineFailed, EngineRecovered, Event
from framework.model.job import Failure, Lease, RunRecord
from framework.model.options import QueueOptions
from framework.model.outcome import Kind, Outcome, Settlement
from framework.model.retry import RetryPolicy
from framework.process.scoreboard import KillReason
from tests.unit.helpers import a_lease

NOW = 2000.0
POLICY = RetryPolicy(max_retries=1, first_delay=8, jitter=False)
OPTIONS = {
    "jobs": QueueOptions("jobs", timeout=10, kill_after=5, retry=POLICY, dead_letter="dead"),
    "endless": QueueOptions("endless", timeout=None, kill_after=5, retry=POLICY),
    "dead": QueueOptions("dead", retry=POLICY, is_dead_letter=True),
}


def a_run(row: int = 2, attempt: int = 1) -> RunRecord:
    return RunRecord(row, attempt, attempt, 1980.0, "t" * 32, "s" * 16, sampled=True)


def rescued(attempt: int = 1, *, queue: str = "jobs", home: str = "", run: bool = True, **fields: Any) -> Account:
    outcome, resolved = fields.pop("outcome", None), fields.pop("resolved", False)
    lease = a_lease(queue=queue, home=home, attempt=attempt, **fields)
    return Account(lease, "owner", a_run(attempt=attempt) if run else None, outcome, resolved=resolved)


def decide(found: Account, kill_reason: KillReason | None) -> tuple[Outcome, object]:
    asked: list[str] = []

    def look(owner: str) -> KillReason | None:
        asked.append(owner)
        return kill_reason

    outcome = resolve(found, OPTIONS, look, NOW)
    assert asked in ([], ["owner"])
    return outcome


@pytest.mark.parametrize("kill_reason", [None, KillReason("died"), KillReason("planned"), KillReason("timeout", (2,))])
def test_not_started_goes_back_uncharged(kill_reason: KillReason | None) -> None:
    found = rescued(run=False)
    assert decide(found, kill_reason) == (Outcome(Kind.RELEASED), None)


@pytest.mark.parametrize(
    ("kill_reason", "reason", "message"),
    [
        (None, "worker_lost", "the worker process died while it ran this job"),
        (KillReason("died", detail="signal SIGSEGV"), "worker_lost", "died while it ran this job: signal SIGSEGV"),
        (KillReason("died", detail="out of memory"), "worker_lost", "this job: out of memory"),
        (KillReason("timeout"), "timeout", "still running after its hard timeout of 15 s: the process was killed"),
        (KillReason("timeout", (2,)), "timeout", "hard timeout of 15 s"),
        (KillReason("timeout", (0, 2)), "timeout", "hard timeout of 15 s"),
    ],
)
@pytest.mark.parametrize(("attempt", "kind", "delay"), [(1, Kind.RETRIED, 8.0), (2, Kind.DEAD_LETTERED, 0.0)])
def test_charged(
    kill_reason: KillReason | None, reason: str, message: str, attempt: int, kind: Kind, delay: float
) -> None:
    found = rescued(attempt)
    outcome, why = decide(found, kill_reason)
    assert (outcome.kind, outcome.delay, why) == (kind, delay, reason)
    failure = outcome.failure
    assert failure is not None
    assert message in failure.message
    assert (failure.attempt, failure.delivery, failure.reason, failure.error_type) == (attempt, attempt, reason, reason)
    assert (failure.trace_id, failure.span_id, failure.queue) == ("t" * 32, "s" * 16, "jobs")
    assert (failure.started_at, failure.ended_at) == (1980.0, NOW)


@pytest.mark.parametrize(
    "kill_reason", [KillReason("planned"), KillReason("timeout", (0, 1)), KillReason("timeout", ())]
)
def test_killed_for_another_reason_than_this_job(kill_reason: KillReason) -> None:
    found = rescued(2)
    assert decide(found, kill_reason) == (Outcome(Kind.RELEASED), None)


def test_a_queue_without_soft_timeout() -> None:
    outcome, _ = decide(rescued(queue="endless"), KillReason("timeout"))
    assert outcome.failure is not None
    assert "hard timeout of 5 s" in outcome.failure.message


def test_a_letter_is_charged_by_the_policy_of_its_dead_letter_queue() -> None:
    outcome, reason = decide(rescued(2, queue="dead", home="jobs"), None)
    assert (outcome.kind, reason) == (Kind.DEAD_LETTERED, "worker_lost")
    assert outcome.failure is not None
    assert outcome.failure.queue == "dead"


@pytest.mark.parametrize(
    "known",
    [
        Outcome(Kind.SUCCEEDED),
        Outcome(Kind.DISCARDED),
        Outcome(Kind.ARCHIVED),
        Outcome(Kind.RELEASED, delay=3),
        Outcome(Kind.RETRIED, delay=3, failure=Failure(1, "error", "kept")),
    ],
)
@pytest.mark.parametrize("kill_reason", [None, KillReason("timeout", (2,))])
def test_what_had_ended_is_only_finished(known: Outcome, kill_reason: KillReason | None) -> None:
    assert decide(rescued(outcome=known), kill_reason) == (known, None)


@pytest.mark.parametrize("kill_reason", [None, KillReason("planned"), KillReason("timeout", (0, 2))])
def test_what_a_rescuer_has_decided_stands_whatever_is_known_of_the_death_by_now(
    kill_reason: KillReason | None,
) -> None:
    lost = Outcome(Kind.RETRIED, delay=3, failure=Failure(1, "worker_lost", "killed"))
    assert decide(rescued(outcome=lost, resolved=True), kill_reason) == (lost, "worker_lost")
    assert decide(rescued(outcome=Outcome(Kind.RELEASED), resolved=True), kill_reason) == (Outcome(Kind.RELEASED), None)


@pytest.mark.parametrize("kind", [Kind.RETRIED, Kind.DEAD_LETTERED])
def test_a_reported_failure_that_was_not_stored(kind: Kind) -> None:
    outcome, reason = decide(rescued(2, outcome=Outcome(kind, delay=4)), None)
    assert (outcome.kind, outcome.delay, reason) == (kind, 4, None)
    assert outcome.failure is not None
    assert (outcome.failure.attempt, outcome.failure.delivery, outcome.failure.ended_at) == (2, 2, NOW)
    assert "died before it could store the error" in outcome.failure.message


def test_a_reported_failure_that_was_stored_already() -> None:
    stored = Failure(2, "timeout", "stored", delivery=2)
    history = (Failure(1, "error", "before", delivery=1), stored)
    outcome, _ = decide(rescued(2, outcome=Outcome(Kind.RETRIED), history=history), None)
    assert outcome.failure is stored


def test_a_timeout_is_not_charged_to_a_job_that_began_after_the_late_one_had_ended() -> None:
    """The kill reason names a row; between the look and the kill another job can begin there."""
    late = KillReason("timeout", (0,))
    newborn = replace(a_run(row=0), started_at=NOW - 0.001)
    outcome, reason = resolve(replace(rescued(), run=newborn), OPTIONS, lambda _: late, NOW)
    assert (outcome.kind, reason) == (Kind.RELEASED, None)


class Deaths:
    """An engine in which three owners died, and what was done with their jobs."""

    def __init__(self) -> None:
        self.found = [
            self._of("late", 30.0),
            self._of("early", 20.0),
            self._of("waiting", None),
            self._of("told", 25.0),
        ]
        self.done: list[str] = []

    @staticmethod
    def _of(job_id: str, started_at: float | None) -> Rescued:
        """As a worker of the version before leaves it: the run comes from the engine itself."""
        lease = a_lease()
        run = None if started_at is None else replace(a_run(), started_at=started_at, span_id=job_id)
        return Rescued(replace(lease, job=replace(lease.job, id=job_id)), "owner", run)

    def unaccounted(self, lease: Lease) -> int:
        return 1

    def stuck(self) -> dict[str, str]:
        return {}

    def rescue(self) -> list[Rescued]:
        found, self.found = self.found, []
        return found

    def settle(self, done: Sequence[Settlement]) -> None:
        self.done += [f"{one.lease.job.id} {one.outcome.kind}" for one in done]


def test_what_had_not_started_goes_first_then_the_oldest_and_telemetry_is_asked_once() -> None:
    """Regression: in the order of their owners' names, one that was always last waited for two minutes, while its
    rescuers were killed and asked telemetry for one after the other; the record of its success was gone by then. What
    telemetry has decides nothing about the job."""
    engine, asked, lost = Deaths(), [], []

    def knows(runs: Sequence[RunRecord]) -> set[str]:
        asked.append(sorted(run.span_id for run in runs))
        return {"told"}

    def emit(event: Event) -> None:
        if isinstance(event, AttemptLost):
            lost.append(event.lease.job.id)

    leases = AbandonedLeases(
        engine,  # type: ignore[arg-type]
        OPTIONS,
        emit,
        kill_reason=lambda owner: None,
        after_loss=lambda rescued, outcome: None,
        knows=knows,
    )
    assert leases.step(until=float("inf"))
    assert engine.done == ["waiting released", "early retried", "told retried", "late retried"]
    assert asked == [["early", "late", "told"]]
    assert lost == ["early", "late"]


class Stone(Deaths):
    """An engine on which some jobs cannot be settled."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        self.found = [self._of(name, None) for name in names]
        self.stones: set[str] = set()
        self.rescues: EngineUnavailable | None = None

    def rescue(self) -> Sequence[Rescued]:
        if self.rescues is not None:
            raise self.rescues
        return super().rescue()

    def settle(self, done: Sequence[Settlement]) -> None:
        for one in done:
            if one.lease.job.id in self.stones:
                raise EngineUnavailable(f"spool /x/{one.lease.job.id}: settling: Operation not permitted")
        super().settle(done)


class Keeper:
    """Abandoned leases with a clock that is moved, and what was said."""

    def __init__(self, engine: Stone) -> None:
        self.now = 100.0
        self.said: list[Event] = []
        self.leases = AbandonedLeases(
            engine,  # type: ignore[arg-type]
            OPTIONS,
            self.said.append,
            kill_reason=lambda owner: None,
            after_loss=lambda rescued, outcome: None,
            clock=lambda: self.now,
        )

    def step(self) -> bool:
        return self.leases.step(until=float("inf"))


def test_a_lease_that_cannot_be_settled_keeps_no_other_waiting_and_is_tried_later_and_later() -> None:
    """Regression: `chattr +i` on one claimed file, and no job of any worker that was killed afterwards ran again."""
    engine = Stone("bad", "good", "better")
    engine.stones = {"bad"}
    keeper = Keeper(engine)
    assert keeper.step()
    assert engine.done == ["good released", "better released"]
    [failed] = [event for event in keeper.said if isinstance(event, EngineFailed)]
    assert "'bad': spool /x/bad" in failed.error
    engine.found = [engine._of("late", None)]
    assert keeper.step()
    assert engine.done[-1] == "late released"
    waits = []
    for _ in range(8):
        before = len(keeper.leases._failed.items()), keeper.leases._failed.items()[0].failures
        began = keeper.now
        while (len(keeper.leases._failed.items()), keeper.leases._failed.items()[0].failures) == before:
            keeper.now += 0.25
            keeper.step()
        waits.append(keeper.now - began)
    assert waits == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    engine.stones.clear()
    keeper.now += 30.0
    assert keeper.step()
    assert engine.done[-1] == "bad released"
    assert [type(event) for event in keeper.said].count(EngineFailed) == 1
    [recovered] = [event for event in keeper.said if isinstance(event, EngineRecovered)]
    assert recovered.after > 60


def test_an_attempt_whose_job_cannot_be_settled_is_told_once() -> None:
    engine = Stone()
    engine.found = [engine._of("bad", 20.0)]
    engine.stones = {"bad"}
    keeper = Keeper(engine)
    for _ in range(5):
        keeper.step()
        keeper.now += 60
    assert [type(event) for event in keeper.said].count(AttemptLost) == 1


def test_an_engine_that_fails_for_all_is_left_in_peace_for_a_while() -> None:
    names = [f"n{n}" for n in range(100)]
    engine = Stone(*names)
    engine.stones = set(names)
    keeper = Keeper(engine)
    with pytest.raises(EngineUnavailable):
        keeper.step()
    assert len(keeper.leases._failed.items()) == 3
    assert not keeper.step(), "there are more, but not now"
    assert len(keeper.leases._failed.items()) + len(keeper.leases._due) == 100
    engine.stones.clear()
    keeper.now += 60
    assert keeper.step()
    assert sorted(engine.done) == sorted(f"{name} released" for name in names)


def test_what_was_rescued_is_settled_while_the_engine_finds_no_more() -> None:
    engine = Stone("a", "b")
    engine.stones = {"a"}
    keeper = Keeper(engine)
    keeper.step()
    engine.stones.clear()
    engine.rescues = EngineUnavailable("claimed/ cannot be listed")
    keeper.now += 1
    with pytest.raises(EngineUnavailable, match="cannot be listed"):
        keeper.step()
    assert engine.done == ["b released", "a released"]


def test_a_long_rescue_is_cut_into_steps() -> None:
    engine = Stone(*(f"n{n}" for n in range(10)))
    keeper = Keeper(engine)
    settle = engine.settle

    def slow(done: Sequence[Settlement]) -> None:
        keeper.now += 0.3
        settle(done)

    engine.settle = slow  # type: ignore[method-assign]
    steps = 1
    while not keeper.leases.step(keeper.now + 0.5):
        steps += 1
    assert steps == 5
    assert len(engine.done) == 10


def test_a_claimed_directory_in_which_all_jobs_stick_does_not_delay_the_newly_dead() -> None:
    """Regression: each of 60 was tried, three a second, before the job of a worker that was killed afterwards."""
    names = [f"n{n}" for n in range(60)]
    engine = Stone(*names)
    engine.stones = set(names)
    keeper = Keeper(engine)
    with pytest.raises(EngineUnavailable):
        keeper.step()
    engine.found = [engine._of("late", None)]
    keeper.now += 1.0
    with pytest.raises(EngineUnavailable):
        keeper.step()
    assert engine.done == ["late released"]
