"""The loop of the maintenance process."""

from __future__ import annotations

import os
import signal
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from framework.broker import Broker, Rescued, settle
from framework.errors import EngineUnavailable, LeaseLost
from framework.events import (
    AttemptLost,
    EngineFailed,
    EngineRecovered,
    Event,
    JobsExpired,
    JobsRescued,
    LeasesLost,
    QueueObserved,
    SupervisorNote,
)
from framework.job import Reason, RunRecord
from framework.maintenance.headless import Leftovers, OtherTrees
from framework.maintenance.rescue import has_started, judge
from framework.outcome import Outcome
from framework.queues import QueueOptions
from framework.scoreboard import LEAVING, READY, Scoreboard, Verdict, process_start
from framework.signals import SignalQueue, drain

TURN = 0.5  # seconds between looks for jobs that are due: how late a delayed job may be
RESCUE_EVERY = 0.5  # seconds between looks for the dead of other trees; our own supervisor tells at once
OBSERVE_EVERY = 5.0  # seconds between observations of depth and age
LOOK_EVERY = 1.0  # seconds between looks for trees without a head


class Maintenance:
    """Runs until told to leave, which the supervisor does after the last worker is gone.

    Args:
        index: its slot on the board.
        supervisor: pid of the parent; another getppid() means that the tree has lost its head.
        poke: descriptor that becomes readable when a process of the tree died.
        options: of all queues that the app knows, by name.
        verdict: why an incarnation ended.
        leads: whether this process observes depth and age for all that share the engine.
        after_loss: told of each charged attempt, after it was settled.
        drain: seconds a headless tree gets.
        others: the other trees on the store.
        told: what telemetry knows of attempts, by span id: what becomes of the job, and why the attempt was lost if a
            rescuer had said so.
    """

    def __init__(
        self,
        index: int,
        *,
        supervisor: int,
        poke: int,
        board: Scoreboard,
        broker: Broker,
        options: Mapping[str, QueueOptions],
        emit: Callable[[Event], None],
        verdict: Callable[[str], Verdict | None],
        leads: Callable[[], bool],
        after_loss: Callable[[Rescued, Outcome], None],
        drain: float | None,
        others: OtherTrees,
        told: Callable[[Sequence[RunRecord]], Mapping[str, tuple[Outcome, str]]] = lambda _: {},
    ) -> None:
        self._index = index
        self._supervisor = supervisor
        self._poke = poke
        self._board = board
        self._broker = broker
        self._options = options
        self._emit = emit
        self._verdict = verdict
        self._leads = leads
        self._after_loss = after_loss
        self._drain = drain
        self._others = others
        self._told = told
        self._said: dict[str, tuple[Outcome, str]] = {}
        self._asked_to_leave = False
        self._rescue_at = 0.0
        self._observe_at = 0.0
        self._look_at = 0.0
        self._failing_since: dict[str, float] = {}
        self._unsettled: deque[Rescued] = deque()
        # Of the first: it is told once, and settled when it can be.
        self._judged: tuple[Outcome, Reason | None] | None = None
        self.engine_ok = True
        self.turned_at = time.monotonic()

    def run(self, unblock: Callable[[], None]) -> None:
        """Blocks until told to leave and nothing of the tree is left to rescue."""
        signals = SignalQueue((signal.SIGTERM, signal.SIGINT))
        unblock()
        self._board.set_state(self._index, READY, time.monotonic_ns())
        while True:
            self.turn()
            if self._told_to_leave(signals):
                break
            if self._poke in signals.wait(TURN, self._poke):
                drain(self._poke)
                self._rescue_at = 0.0
        self._board.set_state(self._index, LEAVING, time.monotonic_ns())
        if os.getppid() != self._supervisor:
            Leftovers(self._board, self._index, self._drain).outlive(self.turn)
        self._rescue_at = 0.0
        self._observe_at = 0.0  # what the gauges show from now on is what was left
        self.turn()

    def turn(self) -> None:
        """One round of everything that is due."""
        now = self.turned_at = time.monotonic()
        self._board.tick(self._index, time.monotonic_ns())
        self._try("maintain", self._broker.maintain)
        for queue, count in self._broker.expired().items():
            self._emit(JobsExpired(queue, count))
        if now >= self._look_at:
            self._look_at = now + LOOK_EVERY
            self._end_headless()
        if now >= self._rescue_at:
            self._rescue_at = now + RESCUE_EVERY
            self._try("rescue", self._rescue)
        if now >= self._observe_at:
            self._observe_at = now + OBSERVE_EVERY
            self._try("stats", self._observe)

    def _told_to_leave(self, signals: SignalQueue) -> bool:
        """A signal to the whole group comes early: as long as a worker lives, somebody must keep house."""
        while (number := signals.take()) is not None:
            self._asked_to_leave = self._asked_to_leave or number == signal.SIGTERM
        if os.getppid() != self._supervisor:
            return True
        return self._asked_to_leave and not self._workers_alive()

    def _workers_alive(self) -> bool:
        return any(
            slot.pid and slot.is_worker and process_start(slot.pid) == slot.pid_start
            for slot in self._board.all_slots()
        )

    def _try(self, verb: str, call: Callable[[], None]) -> None:
        """An engine that fails now is asked again at the next turn; said once, and once when it is back."""
        try:
            call()
        except EngineUnavailable as error:
            self.engine_ok = False
            if verb not in self._failing_since:
                self._failing_since[verb] = time.monotonic()
                self._emit(EngineFailed(verb, str(error), TURN))
            return
        if verb in self._failing_since:
            self._emit(EngineRecovered(verb, time.monotonic() - self._failing_since.pop(verb)))
        self.engine_ok = not self._failing_since

    def _end_headless(self) -> None:
        killed = self._others.look()
        if killed:
            self._emit(
                SupervisorNote(f"killed {len(killed)} processes that a dead supervisor left: {killed}", "warning")
            )

    # --- rescue -----------------------------------------------------------------------------------------------------

    def _rescue(self) -> None:
        self._collect()
        released: dict[tuple[str, str], list[str]] = {}
        try:
            while self._unsettled:
                rescued = self._unsettled[0]
                # Each is settled before the next is judged: a rescuer that is killed soon gets some done all the same.
                self._judged = self._judged or self._judge(rescued)
                outcome, reason = self._judged
                self._settle(rescued, outcome)
                self._unsettled.popleft()
                self._judged = None
                if reason is not None:
                    self._after_loss(rescued, outcome)
                elif rescued.run is None:
                    released.setdefault((rescued.lease.queue, rescued.owner), []).append(rescued.lease.job.id)
        finally:
            for (queue, owner), ids in released.items():
                self._emit(JobsRescued(queue, ids, owner))

    def _collect(self) -> None:
        """What had not started first, then the oldest first: a rescuer that is killed again and again gets to each.

        Telemetry is asked for all at once, as it looks through all rings. They are dead: what they said is there.
        """
        found = sorted(self._broker.rescue(), key=lambda rescued: rescued.run.started_at if rescued.run else 0.0)
        runs = [run for rescued in found if (run := has_started(rescued)) is not None]
        if runs:
            self._said.update(self._told(runs))
        self._unsettled.extend(found)

    def _judge(self, rescued: Rescued) -> tuple[Outcome, Reason | None]:
        """What becomes of a job, and why its attempt failed. The span of a killed attempt is emitted here: once the job
        is settled nobody would know that it is missing. The dead process, or a rescuer that died in turn, may have put
        it into its ring and got no further; then that stands."""
        run = has_started(rescued)
        told = None if run is None else self._said.pop(run.span_id, None)
        if told is not None and not told[1]:
            rescued = replace(rescued, reported=told[0])
        outcome, reason = judge(rescued, self._options, self._verdict, time.time())
        if told is not None and told[1] and outcome.failure is not None:
            outcome = replace(outcome, kind=told[0].kind, delay=told[0].delay)
        if run is not None and told is None:
            self._emit(self._lost(rescued, outcome, reason))
        return outcome, reason

    def _lost(self, rescued: Rescued, outcome: Outcome, reason: Reason | None) -> AttemptLost:
        assert rescued.run is not None
        return AttemptLost(
            lease=rescued.lease,
            run=rescued.run,
            max_attempts=self._options[rescued.lease.queue].retry.max_attempts,
            outcome=outcome.kind.value,
            reason=reason,
            owner=rescued.owner,
            ended_at=time.time(),
            delay=outcome.delay,
            message=outcome.failure.message if outcome.failure else "",
        )

    def _settle(self, rescued: Rescued, outcome: Outcome) -> None:
        try:
            settle(self._broker, rescued.lease, outcome)
        except LeaseLost as lost:
            self._emit(LeasesLost(rescued.lease.queue, lost.job_ids))

    # --- observation ------------------------------------------------------------------------------------------------

    def _observe(self) -> None:
        if not self._leads():
            return
        for name in self._options:
            found = self._broker.stats(name)
            self._emit(
                QueueObserved(
                    queue=name,
                    ready=found.ready,
                    delayed=found.delayed,
                    in_flight=found.in_flight,
                    dead=found.dead,
                    bad=found.bad,
                    oldest_age=found.oldest_age,
                )
            )
