"""The loop of the maintenance process, which does a part of all due housekeeping at each turn."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from functools import partial

from framework.engine.answers import checked, pause_of
from framework.engine.port import Engine
from framework.engine.stuck import StuckJobs
from framework.maintenance.abandoned import AbandonedLeases
from framework.maintenance.acts import ActsTold
from framework.maintenance.burst import Burst
from framework.maintenance.declaring import Declaring
from framework.maintenance.observing import Observation
from framework.maintenance.schedules import Plan, Schedules
from framework.model.errors import answer
from framework.model.events import EngineFailed, EngineRecovered, Event, JobsExpired, SupervisorNote
from framework.process.headless import LOOK_EVERY, Leftovers, OtherTrees
from framework.process.scoreboard import LEAVING, READY, Scoreboard, process_start
from framework.process.signals import SignalQueue, drain

TURN = 0.5  # seconds until the next turn if the engine fails or does not tell
LONGEST_PAUSE = 2.0  # seconds between two turns at most, whatever the engine asks for
STEP = 0.4  # seconds for each of the two parts of a turn: the board is ticked between them, and new leases come first
RESCUE_EVERY = 0.5  # seconds between looks for abandoned leases of other trees; our own supervisor notifies at once
SWEEP_EVERY = 30.0  # seconds between looks for ledgers of dead workers that no lease needs
OBSERVE_EVERY = 5.0  # seconds between observations of depth and age
SELDOM = 15.0  # the same, at most, if many queues do not change
OBSERVE_WORTH = 4000  # the same, as a multiple of the processor time of an observation


@dataclass(eq=False)
class Maintenance:
    """The maintenance process; it runs until it is told to leave, which happens after the last worker is gone.

    Args:
        index: its slot on the board.
        supervisor: pid of the parent; a different getppid() means that the supervisor is dead.
        poke: descriptor that becomes readable when a process of the tree has died.
        abandoned: settles the leases of dead owners.
        queues: names of all queues that the app knows. plans: their schedules.
        leads: returns whether this process observes depth and age for all services that share the engine.
        drain: seconds for the drain of a tree whose supervisor is dead.
        others: the other trees on the store.
        declaring: tells the store which queues this service declares.
        burst: ends the tree once nothing is left to do; None: it runs until it is told to stop.
    """

    index: int
    _: KW_ONLY
    supervisor: int
    poke: int
    board: Scoreboard
    engine: Engine
    abandoned: AbandonedLeases
    queues: Iterable[str]
    plans: Sequence[Plan]
    emit: Callable[[Event], None]
    leads: Callable[[], bool]
    drain: float | None
    others: OtherTrees
    declaring: Declaring
    burst: Burst | None = None

    def __post_init__(self) -> None:
        self._asked_to_leave = False
        self._rescue_at = self._observe_at = self._look_at = self._sweep_at = self._fire_at = self._declare_at = 0.0
        self._failing_since: dict[str, float] = {}
        self._leading = False
        self._stuck = StuckJobs(self.engine, self.emit)
        self._acts = ActsTold(self.engine.local_dir, self.emit)
        self._observation = Observation(self.engine, self.emit)
        self._schedules = Schedules(self.engine, self.plans, self.emit)
        self.engine_ok = True
        self.turned_at = time.monotonic()
        self._asked_at: float | None = None  # when the engine was asked what it has not answered yet

    @property
    def waits(self) -> float:
        """Return for how many seconds the engine has not answered."""
        asked = self._asked_at
        return 0.0 if asked is None else time.monotonic() - asked

    def run(self, unblock: Callable[[], None]) -> None:
        """Run until told to leave and nothing of the tree is left to rescue."""
        signals = SignalQueue((signal.SIGTERM, signal.SIGINT))
        unblock()
        self.board.set_state(self.index, READY, time.monotonic_ns())
        while True:
            pause = self.turn()
            if self._told_to_leave(signals):
                break
            if self.poke in signals.wait(min(pause, LONGEST_PAUSE), self.poke):
                drain(self.poke)
                self._rescue_at = 0.0
        self.board.set_state(self.index, LEAVING, time.monotonic_ns())
        if os.getppid() != self.supervisor:
            Leftovers(self.board, self.index, self.drain).outlive(self.turn)
        self._rescue_at = self._sweep_at = 0.0
        self._observe_at = 0.0  # from now on the gauges show what was left
        self.turn()
        self.stop()
        # The next supervisor settles what is left at the deadline.
        while not self._rescue() and time.monotonic_ns() < self.board.deadline:
            self._beat()

    def stop(self) -> None:
        """Tell the store that this tree stops."""
        self._try("declare", self.declaring.end)

    def turn(self) -> float:
        """Do a part of everything that is due, the rescue first. Return the seconds until the next turn; 0: something
        is left.

        Each part has a time limit: a slow disk or many jobs must not delay a killed worker's job, nor look like a hang
        to the supervisor.
        """
        now = self._beat()
        self.board.try_to_publish()
        rescued = self._rescue() if now >= self._rescue_at else TURN
        self._beat()
        maintained = self._try("maintain", lambda: pause_of(self.engine, STEP))
        self._try("expired", self._expired)
        self._try("stuck", self._stuck.tell)
        if now >= self._fire_at:
            self._fire_at = now + self._try("firing schedules", self._schedules.step)
        if now >= self._declare_at:
            self._declare_at = now + self._try("declare", self.declaring.again)
        if now >= self._look_at:
            self._look_at = now + LOOK_EVERY
            self._end_headless()
            self._acts.tell()
        if now >= self._sweep_at:
            self._sweep_at = now + SWEEP_EVERY
            self.abandoned.sweep()
        if now >= self._observe_at:
            self._leading = False
            self._try("lead", self._lead)
            self._observe_at = now + (self._observe() if self._leading else OBSERVE_EVERY)
            if self._failing_since:  # readiness must not wait for the next regular turn of what failed here
                self._observe_at = now + 2 * TURN
        if self.engine_ok:
            self.board.engine_worked(self.index, time.monotonic_ns())
        pause = min(maintained, max(0.0, self._fire_at - time.monotonic())) if rescued else 0.0
        if self.burst is not None:
            self._try("stats", partial(self.burst.step, busy=not pause))
            return min(pause, TURN)
        return pause

    def _observe(self) -> float:
        """Observe all queues. Return the seconds until the next observation."""
        began, self._observation.changed = time.thread_time(), False
        for name in self.queues:
            self._beat()
            self._try(f"stats of {name!r}", lambda name=name: self._observation.queue(name))  # type: ignore[misc]
        self._try("looking for queues", self._observation.undeclared)
        seldom = OBSERVE_WORTH * (time.thread_time() - began)
        return OBSERVE_EVERY if self._observation.changed else min(SELDOM, max(OBSERVE_EVERY, seldom))

    def _expired(self) -> None:
        for queue, count in checked(self.engine, "expired", self.engine.expired(), Mapping).items():
            self.emit(JobsExpired(queue, count))

    def _lead(self) -> bool:
        self._leading = self.leads()
        return True

    def _beat(self) -> float:
        """Show supervisor and probes that this process is alive. Return the time."""
        self.board.tick(self.index, time.monotonic_ns())
        self.turned_at = time.monotonic()
        return self.turned_at

    def _rescue(self) -> float:
        """Settle abandoned leases for a while. Return 0 if a due lease is left."""
        now = time.monotonic()
        done = self._try("rescue", lambda: self.abandoned.step(now + STEP))
        self._rescue_at = now + RESCUE_EVERY if done else now
        return done

    def _told_to_leave(self, signals: SignalQueue) -> bool:
        """Return whether to leave now. A signal to the whole process group comes early: while a worker lives,
        maintenance stays."""
        while (number := signals.take()) is not None:
            self._asked_to_leave = self._asked_to_leave or number == signal.SIGTERM
        if os.getppid() != self.supervisor:
            return True
        return self._asked_to_leave and not self._workers_alive()

    def _workers_alive(self) -> bool:
        return any(
            slot.pid and slot.is_worker and process_start(slot.pid) == slot.pid_start for slot in self.board.all_slots()
        )

    def _try(self, verb: str, call: Callable[[], float | None]) -> float:
        """Return what a call to the engine returns; 0: not everything is done for now.

        If the engine fails, return a pause, after which it is asked again. The failure is reported once, and the
        recovery once.
        """
        self._asked_at = time.monotonic()
        try:
            done = call()
        except Exception as failed:
            error = answer(failed)
            self.engine_ok = False
            if verb not in self._failing_since:
                self._failing_since[verb] = time.monotonic()
                self.emit(EngineFailed(verb, str(error), TURN))
            return TURN
        finally:
            self._asked_at = None
        if verb in self._failing_since:
            self.emit(EngineRecovered(verb, time.monotonic() - self._failing_since.pop(verb)))
        self.engine_ok = not self._failing_since
        return done or 0.0

    def _end_headless(self) -> None:
        killed = self.others.look()
        if killed:
            self.emit(
                SupervisorNote(f"killed {len(killed)} processes that a dead supervisor left: {killed}", "warning")
            )
