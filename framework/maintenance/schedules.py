"""The firing of schedules. Any number of maintenance processes may do it: the engine lets each tick be handled once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any, Protocol

from framework.engine.port import Engine
from framework.model.errors import QueueFull
from framework.model.events import Event, ScheduleFired, ScheduleRefused
from framework.model.job import Job
from framework.model.schedules import Cron, Every, due

LONGEST_PAUSE = 30.0  # seconds without a look: the wall clock may have been set forward
AFTER_REFUSAL = 5.0  # seconds until the tick of a full queue is tried again


class Plan(Protocol):
    """A schedule of a queue, with what makes the job of a tick."""

    @property
    def queue(self) -> str: ...
    @property
    def key(self) -> str: ...
    @property
    def schedule(self) -> Cron[Any] | Every[Any]: ...

    def job(self, tick: float, now: float) -> Job: ...


class Schedules:
    """The schedules of the service's queues.

    Args:
        emit: takes ScheduleFired for each tick with a job or without one, and ScheduleRefused.
    """

    def __init__(self, engine: Engine, plans: Sequence[Plan], emit: Callable[[Event], None]) -> None:
        self._engine = engine
        self._plans = [list(group) for _, group in groupby(plans, key=lambda plan: plan.queue)]
        self._emit = emit
        self._refused: set[tuple[str, str]] = set()

    def step(self) -> float:
        """Fire what is due; return the seconds until the next tick. Raises EngineUnavailable."""
        return min([LONGEST_PAUSE, *map(self._of_queue, self._plans)])

    def _of_queue(self, plans: Sequence[Plan]) -> float:
        now, ticks = self._engine.ticks(plans[0].queue, [plan.key for plan in plans])
        pause = LONGEST_PAUSE
        for plan in plans:
            known = ticks.get(plan.key)
            if known is None:  # the first supervisor that knows the schedule: its ticks begin now
                self._engine.fire(plan.queue, plan.key, None, now)
                last = now
            else:
                last = self._fire(plan, known.last, now)
            pause = min(pause, max(0.0, plan.schedule.next(last) - now), AFTER_REFUSAL if self._refused else pause)
        return pause

    def _fire(self, plan: Plan, last: float, now: float) -> float:
        """Fire the due ticks of a schedule; return the latest tick that was handled."""
        todo = due(plan.schedule, last, now)
        missed = todo.missed
        for tick in todo.fire or ((todo.last,) if missed else ()):
            job = plan.job(tick, now) if todo.fire else None
            try:
                fired = self._engine.fire(plan.queue, plan.key, last, tick, job, missed=missed)
            except QueueFull as error:
                if (plan.queue, plan.key) not in self._refused:
                    self._emit(ScheduleRefused(plan.queue, plan.key, tick, str(error)))
                self._refused.add((plan.queue, plan.key))
                return now  # tried again soon, though the next tick may be far
            self._refused.discard((plan.queue, plan.key))
            if not fired:  # another supervisor was faster
                return tick
            self._emit(ScheduleFired(plan.queue, plan.key, tick, job.id if job else "", missed, now - tick))
            last, missed = tick, 0
        return last
