"""The leases of dead owners, from their rescue to their settlement."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from framework.backoff import Later, Retried
from framework.broker import Broker, Rescued
from framework.errors import EngineUnavailable, LeaseLost
from framework.events import AttemptLost, EngineFailed, EngineRecovered, Event, JobsRescued, LeasesLost
from framework.job import Reason, RunRecord
from framework.maintenance.rescue import has_started, judge
from framework.outcome import Outcome, Settlement
from framework.queues import QueueOptions
from framework.scoreboard import Verdict

FIRST_RETRY, LAST_RETRY = 0.5, 30.0  # seconds until a lease that could not be settled is tried again
MOST_FAILURES = 3  # in a row: then the engine fails, and not these leases
PAUSE = 1.0  # seconds without a try after that


@dataclass(slots=True, eq=False)
class _Abandoned(Retried):
    """One lease. It is resolved once, because the span of its lost attempt is sent then, and settled when it can be."""

    rescued: Rescued
    resolved: tuple[Outcome, Reason | None] | None = None


class AbandonedLeases:
    """Collects abandoned leases from the engine, resolves what becomes of each, and settles it.

    A lease that cannot be settled (a bad sector, a quota) is tried again later and later; no other waits for it.

    Args:
        broker: the open engine.
        options: of all queues that the app knows, by name.
        emit: takes the events.
        verdict: says why an incarnation ended.
        after_loss: is told of each charged attempt, after it was settled.
        told: what telemetry knows of attempts, by span id: what becomes of the job, and why the attempt was lost if a
            rescuer had said so.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        broker: Broker,
        options: Mapping[str, QueueOptions],
        emit: Callable[[Event], None],
        *,
        verdict: Callable[[str], Verdict | None],
        after_loss: Callable[[Rescued, Outcome], None],
        told: Callable[[Sequence[RunRecord]], Mapping[str, tuple[Outcome, str]]] = lambda _: {},
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._broker = broker
        self._options = options
        self._emit = emit
        self._verdict = verdict
        self._after_loss = after_loss
        self._told = told
        self._clock = clock
        self._said: dict[str, tuple[Outcome, str]] = {}
        self._due: deque[_Abandoned] = deque()
        self._failed = Later[_Abandoned](FIRST_RETRY, LAST_RETRY, clock=clock)
        self._paused_until = 0.0

    def step(self, until: float) -> bool:
        """Collect what is new, then settle until `until` (monotonic seconds), at least one. Return whether no lease is
        left that could be tried now. Raises EngineUnavailable: the engine fails, all is tried again."""
        unavailable: EngineUnavailable | None = None
        try:
            self._collect()
        except EngineUnavailable as error:  # what was collected before can still be settled
            unavailable = error
        self._due.extend(self._failed.due())
        if self._clock() >= self._paused_until:
            self._settle_until(until)
        if unavailable is not None:
            raise unavailable
        return not self._due

    def _collect(self) -> None:
        """Put what had not started first, then the oldest first: a rescuer that is killed again and again gets to each.

        Telemetry is asked for all at once, as it looks through all rings. The owners are dead: what they said is there.
        """
        found = sorted(self._broker.rescue(), key=lambda rescued: rescued.run.started_at if rescued.run else 0.0)
        runs = [run for rescued in found if (run := has_started(rescued)) is not None]
        if runs:
            self._said.update(self._told(runs))
        self._due.extendleft(_Abandoned(rescued) for rescued in reversed(found))  # before those that may fail again

    def _settle_until(self, until: float) -> None:
        released: dict[tuple[str, str], list[str]] = {}
        failures = 0
        try:
            while self._due:
                # Each is settled before the next is resolved: a rescuer that is killed soon gets some done.
                item = self._due.popleft()
                try:
                    self._settle(item, released)
                except EngineUnavailable as error:
                    self._postpone(item, error)
                    failures += 1
                    if failures == MOST_FAILURES:
                        self._paused_until = self._clock() + PAUSE
                        raise
                else:
                    failures = 0
                if self._clock() >= until:
                    break
        finally:
            for (queue, owner), ids in released.items():
                self._emit(JobsRescued(queue, ids, owner))

    def _settle(self, item: _Abandoned, released: dict[tuple[str, str], list[str]]) -> None:
        rescued, lease = item.rescued, item.rescued.lease
        item.resolved = item.resolved or self._resolve(rescued)
        outcome, reason = item.resolved
        try:
            self._broker.settle([Settlement(lease, outcome)])
        except LeaseLost as lost:
            self._emit(LeasesLost(lease.queue, lost.job_ids))
        if item.failures:
            self._emit(EngineRecovered("settle", self._clock() - item.since))
        if reason is not None:
            self._after_loss(rescued, outcome)
        elif rescued.run is None:
            released.setdefault((lease.queue, rescued.owner), []).append(lease.job.id)

    def _postpone(self, item: _Abandoned, error: EngineUnavailable) -> None:
        delay = self._failed.add(item)
        if item.failures == 1:
            self._emit(EngineFailed("settle", f"job {item.rescued.lease.job.id!r}: {error}", delay))

    def _resolve(self, rescued: Rescued) -> tuple[Outcome, Reason | None]:
        """Return what becomes of a job, and why its attempt failed.

        The span of a killed attempt is emitted here: once the job is settled nothing would show that it is missing.
        The dead process, or a rescuer that died in turn, may have put it into its ring and got no further; then that
        stands.
        """
        run = has_started(rescued)
        told = None if run is None else self._said.pop(run.span_id, None)
        if told is not None and not told[1]:
            rescued = replace(rescued, reported=told[0])
        outcome, reason = judge(rescued, self._options, self._verdict, time.time())
        if told is not None and told[1] and outcome.failure is not None:
            outcome = replace(outcome, kind=told[0].kind, delay=told[0].delay)
        if run is not None and told is None:
            self._emit(self._lost(rescued, run, outcome, reason))
        return outcome, reason

    def _lost(self, rescued: Rescued, run: RunRecord, outcome: Outcome, reason: Reason | None) -> AttemptLost:
        return AttemptLost(
            lease=rescued.lease,
            run=run,
            max_attempts=self._options[rescued.lease.queue].retry.max_attempts,
            outcome=outcome.kind.value,
            reason=reason,
            owner=rescued.owner,
            ended_at=time.time(),
            delay=outcome.delay,
            message=outcome.failure.message if outcome.failure else "",
        )
