"""The loop of the maintenance process."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable

from framework.engine.port import Broker
from framework.engine.stuck import StuckJobs
from framework.maintenance.abandoned import AbandonedLeases
from framework.maintenance.observing import Observation
from framework.model.errors import answer
from framework.model.events import EngineFailed, EngineRecovered, Event, JobsExpired, SupervisorNote
from framework.process.headless import LOOK_EVERY, Leftovers, OtherTrees
from framework.process.scoreboard import LEAVING, READY, Scoreboard, process_start
from framework.process.signals import SignalQueue, drain

TURN = 0.5  # seconds between two turns where the engine fails or does not say; at most two of them
STEP = 0.4  # seconds for each of the two parts of a turn: between them the heart beats, and the newly dead come first
RESCUE_EVERY = 0.5  # seconds between looks for the dead of other trees; our own supervisor tells at once
SWEEP_EVERY = 30.0  # seconds between looks for what dead workers left and nobody needs
OBSERVE_EVERY = 5.0  # seconds between observations of depth and age
SELDOM = 15.0  # the same, at most, where many queues do not change
OBSERVE_WORTH = 4000  # times the processor's time that such an observation took


class Maintenance:
    """Runs until told to leave, which the supervisor does after the last worker is gone.

    Args:
        index: its slot on the board.
        supervisor: pid of the parent; another getppid() means that the tree has lost its head.
        poke: descriptor that becomes readable when a process of the tree died.
        abandoned: settles the leases of dead owners.
        queues: names of all queues that the app knows.
        leads: whether this process observes depth and age for all that share the engine.
        drain: seconds a headless tree gets.
        others: the other trees on the store.
    """

    def __init__(
        self,
        index: int,
        *,
        supervisor: int,
        poke: int,
        board: Scoreboard,
        broker: Broker,
        abandoned: AbandonedLeases,
        queues: Iterable[str],
        emit: Callable[[Event], None],
        leads: Callable[[], bool],
        drain: float | None,
        others: OtherTrees,
    ) -> None:
        self._index = index
        self._supervisor = supervisor
        self._poke = poke
        self._board = board
        self._broker = broker
        self._abandoned = abandoned
        self._queues = list(queues)
        self._emit = emit
        self._leads = leads
        self._drain = drain
        self._others = others
        self._asked_to_leave = False
        self._rescue_at = 0.0
        self._observe_at = 0.0
        self._look_at = self._sweep_at = 0.0
        self._failing_since: dict[str, float] = {}
        self._leading = False
        self._stuck = StuckJobs(broker, emit)
        self._observation = Observation(broker, emit)
        self.engine_ok = True
        self.turned_at = time.monotonic()

    def run(self, unblock: Callable[[], None]) -> None:
        """Blocks until told to leave and nothing of the tree is left to rescue."""
        signals = SignalQueue((signal.SIGTERM, signal.SIGINT))
        unblock()
        self._board.set_state(self._index, READY, time.monotonic_ns())
        while True:
            pause = self.turn()
            if self._told_to_leave(signals):
                break
            if self._poke in signals.wait(min(pause, 2 * TURN), self._poke):
                drain(self._poke)
                self._rescue_at = 0.0
        self._board.set_state(self._index, LEAVING, time.monotonic_ns())
        if os.getppid() != self._supervisor:
            Leftovers(self._board, self._index, self._drain).outlive(self.turn)
        self._rescue_at = self._sweep_at = 0.0
        self._observe_at = 0.0  # what the gauges show from now on is what was left
        self.turn()
        # The next supervisor settles what there is no time for.
        while not self._rescue() and time.monotonic_ns() < self._board.deadline:
            self._beat()

    def turn(self) -> float:
        """Do a part of everything that is due, the rescue first. Return the seconds until the next turn; 0: there is
        something left.

        Each part has a limit of time: a slow disk or many jobs must not keep a killed worker's job waiting, nor look
        like a hang to the supervisor.
        """
        now = self._beat()
        self._board.try_to_publish()
        rescued = self._rescue() if now >= self._rescue_at else TURN
        self._beat()
        maintained = self._try("maintain", lambda: self._broker.maintain(seconds=STEP))
        for queue, count in self._broker.expired().items():
            self._emit(JobsExpired(queue, count))
        self._stuck.tell()
        if now >= self._look_at:
            self._look_at = now + LOOK_EVERY
            self._end_headless()
        if now >= self._sweep_at:
            self._sweep_at = now + SWEEP_EVERY
            self._abandoned.sweep()
        if now >= self._observe_at:
            self._leading = False
            self._try("lead", self._lead)
            self._observe_at = now + (self._observe() if self._leading else OBSERVE_EVERY)
        if self.engine_ok:
            self._board.engine_worked(self._index, time.monotonic_ns())
        return maintained if rescued else 0.0

    def _observe(self) -> float:
        """Look at all queues. Return the seconds until the next look."""
        began, self._observation.changed = time.thread_time(), False
        for name in self._queues:
            self._beat()
            self._try(f"stats of {name!r}", lambda name=name: self._observation.queue(name))  # type: ignore[misc]
        self._try("looking for queues", self._observation.undeclared)
        seldom = OBSERVE_WORTH * (time.thread_time() - began)
        return OBSERVE_EVERY if self._observation.changed else min(SELDOM, max(OBSERVE_EVERY, seldom))

    def _lead(self) -> bool:
        self._leading = self._leads()
        return True

    def _beat(self) -> float:
        """Tell supervisor and probes that this process is alive. Return the time."""
        self._board.tick(self._index, time.monotonic_ns())
        self.turned_at = time.monotonic()
        return self.turned_at

    def _rescue(self) -> float:
        """Settle abandoned leases for a while. Return 0 where one is left that is due."""
        now = time.monotonic()
        done = self._try("rescue", lambda: self._abandoned.step(now + STEP))
        self._rescue_at = now + RESCUE_EVERY if done else now
        return done

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

    def _try(self, verb: str, call: Callable[[], float]) -> float:
        """Return what a call returns: 0 where not all is done for now. An engine that fails is asked again at the next
        turn after a pause; said once, and once when it is back."""
        try:
            done = call()
        except Exception as failed:
            error = answer(failed)
            self.engine_ok = False
            if verb not in self._failing_since:
                self._failing_since[verb] = time.monotonic()
                self._emit(EngineFailed(verb, str(error), TURN))
            return TURN
        if verb in self._failing_since:
            self._emit(EngineRecovered(verb, time.monotonic() - self._failing_since.pop(verb)))
        self.engine_ok = not self._failing_since
        return done

    def _end_headless(self) -> None:
        killed = self._others.look()
        if killed:
            self._emit(
                SupervisorNote(f"killed {len(killed)} processes that a dead supervisor left: {killed}", "warning")
            )
