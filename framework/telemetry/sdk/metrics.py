"""Metrics of a process without a ring, made from events."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from opentelemetry.context import Context
from opentelemetry.metrics import CallbackOptions, Meter, Observation

from framework.model import events as e
from framework.model.outcome import UNREADABLE
from framework.telemetry import instruments, names
from framework.telemetry.conventions import of_system
from framework.telemetry.costs import CostGroups
from framework.telemetry.export.health import Drops
from framework.telemetry.export.observed import resident
from framework.telemetry.instruments import TABLE, Increments, at, counter, histogram

# An older observation says nothing about the queue any more: its observer has lost the lead, or is stuck.
STALE_SECONDS = 60.0

E = TypeVar("E", bound=e.Event)

_COUNTERS = (
    names.CONSUMED_MESSAGES,
    names.ATTEMPTS,
    names.RETRIES,
    names.DEAD_LETTERS,
    names.UNREADABLE,
    names.TICKS,
    names.ACTS,
    names.JOB_CPU_TIME,
    names.JOB_MEMORY,
)
_HISTOGRAMS = (names.OPERATION_DURATION, names.PROCESS_DURATION, names.QUEUE_WAIT_DURATION)
ReadSlots = Callable[[], tuple[int, int]]
ReadStates = Callable[[], Sequence[tuple[str, int]]]
ReadRestarts = Callable[[], Mapping[str, int]]


class _Instruments:
    """The instruments of one meter that events add to."""

    def __init__(self, meter: Meter) -> None:
        self.counters = {name: counter(meter, name) for name in _COUNTERS}
        self.histograms = {name: histogram(meter, name) for name in _HISTOGRAMS}


class Metrics:
    """All instruments of a process. Attributes never hold a job id, a pid, a host, a text or an attempt's number.

    Args:
        meter: the framework's meter.
        system: `messaging.system.name`.
        drops: counts of lost telemetry.
        slot: the slot that this process fills, such as `deliveries/0`; empty: it does not report its memory.
        rescued: returns the meter of a dead process by what it said about itself; None: this process counts for it.
        groups: name what costs are counted by besides the queue.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        meter: Meter,
        system: str,
        drops: Drops,
        *,
        slot: str = "",
        rescued: Callable[[bytes], Meter | None] = lambda about: None,
        groups: CostGroups | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._system = system
        self._clock = clock
        self._made = {meter: _Instruments(meter)}
        self._meter, self._rescued = meter, rescued
        self._drops = drops
        self._slot = slot
        self._groups = groups or CostGroups("")
        self._queues: dict[str, tuple[float, e.QueueObserved]] = {}
        self._undeclared: dict[str, tuple[float, e.QueueUndeclared]] = {}
        self._slots: dict[str, ReadSlots] = {}
        self._processes: list[tuple[ReadStates, ReadRestarts]] = []
        observed = (
            (meter.create_observable_gauge, names.QUEUE_DEPTH, self._depth),
            (meter.create_observable_gauge, names.UNDECLARED, self._jobs_undeclared),
            (meter.create_observable_gauge, names.PAUSED, self._paused),
            (meter.create_observable_gauge, names.HELD, self._held),
            (meter.create_observable_gauge, names.OLDEST_JOB_AGE, self._age),
            (meter.create_observable_up_down_counter, names.SLOTS_LIMIT, partial(self._read_slots, 0)),
            (meter.create_observable_up_down_counter, names.SLOTS_USED, partial(self._read_slots, 1)),
            (meter.create_observable_up_down_counter, names.PROCESSES, self._states),
            (meter.create_observable_up_down_counter, names.PROCESS_MEMORY, self._memory),
            (meter.create_observable_counter, names.RESTARTS, self._restarts),
            (meter.create_observable_counter, names.DROPPED, self._dropped),
        )
        for create, name, read in observed:
            create(name, [read], TABLE[name].unit, TABLE[name].description)

    def on(self, event: e.Event, context: Context | None = None) -> None:
        """Measure an event; this is a Bus subscriber.

        `context` holds the span of a killed attempt, for exemplars; other events use the current span.
        """
        system = self._system
        match event:
            case e.JobsClaimed():
                grown = instruments.of_operation(system, event.queue, "receive", "receive")
                self._add(grown if event.count else grown._replace(counters=[]), event.count, (event.duration,))
            case e.JobsSettled():
                grown = instruments.of_operation(system, event.queue, event.verb, "settle")
                self._add(grown, 1, (event.duration,))
            case e.JobCost():
                self._add_cost(event)
            case e.JobFinished():
                how, reason = event.outcome, event.reason or ""
                if how == "released" and event.message.startswith(UNREADABLE):
                    reason = "invalid_payload"
                grown = instruments.of_attempt(system, event.queue, how, how, event.error_type or reason, reason)
                self._add(grown, 1, (event.duration, event.wait))
            case e.AttemptLost():
                self._lost(event, context)
            case e.JobsExpired():
                self._add(instruments.of_expired(system, event.queue), event.count)
            case e.ScheduleFired():
                of_ticks = partial(instruments.of_ticks, system, event.queue, event.key)
                if event.job_id:
                    self._add(of_ticks("fired"), 1)
                if event.missed:
                    self._add(of_ticks("missed"), event.missed)
            case e.OperatorActed():
                self._add(instruments.of_acts(system, event.queue, event.verb, event.actor), event.count)
            case _:
                self._observed(event)

    def _observed(self, event: e.Event) -> None:
        if isinstance(event, e.QueueObserved):
            self._queues[event.queue] = (self._clock(), event)
        elif isinstance(event, e.QueueUndeclared):
            self._undeclared[event.queue] = (self._clock(), event)

    def _add_cost(self, event: e.JobCost) -> None:
        grown = instruments.of_cost(self._system, event.lease.queue, *self._groups.of(event.lease))
        for (name, attributes), number in zip(grown.counters, (event.cpu_time, event.memory_growth), strict=True):
            self._made[self._meter].counters[name].add(number, attributes)

    def _lost(self, event: e.AttemptLost, context: Context | None) -> None:
        known = event.how, event.outcome, event.failed, event.reason or ""
        grown, times = instruments.of_attempt(self._system, event.lease.queue, *known), instruments.times_of_lost(event)
        meter = self._rescued(event.about)
        if meter is not None:
            for _, attributes in (*grown.counters, *grown.histograms):
                attributes[names.RESCUED] = "true"
        self._add(grown, 1, times, context, meter)

    def _add(
        self,
        grown: Increments,
        count: int,
        numbers: tuple[float, ...] = (),
        context: Context | None = None,
        meter: Meter | None = None,
    ) -> None:
        meter = meter or self._meter
        made = self._made.get(meter) or self._made.setdefault(meter, _Instruments(meter))
        for name, attributes in grown.counters:
            made.counters[name].add(count, attributes, context)
        for (name, attributes), number in zip(grown.histograms, numbers, strict=True):
            made.histograms[name].record(number, attributes, context)

    def observe_slots(self, read: ReadSlots, queue: str) -> None:
        """Observe the concurrency of this process on a queue: `read` returns (limit, used)."""
        self._slots[queue] = read

    def observe_processes(self, read: ReadStates, restarts: ReadRestarts) -> None:
        """Observe processes by state, and restarts so far by reason."""
        self._processes.append((read, restarts))

    # --- values that are read when metrics are collected -------------------------------------------------------------

    def _fresh(self, seen: dict[str, tuple[float, E]]) -> list[E]:
        now = self._clock()
        return [event for at, event in list(seen.values()) if now - at <= STALE_SECONDS]

    def _depth(self, _: CallbackOptions) -> Iterable[Observation]:
        for event in self._fresh(self._queues):
            for state in ("ready", "delayed", "in_flight", "dead", "bad"):
                if (count := getattr(event, state)) is not None:  # None: the engine cannot know
                    yield Observation(count, at(self._system, event.queue) | {names.QUEUE_STATE: state})

    def _jobs_undeclared(self, _: CallbackOptions) -> Iterable[Observation]:
        for event in self._fresh(self._undeclared):
            yield Observation(event.jobs, at(self._system, event.queue))

    def _paused(self, _: CallbackOptions) -> Iterable[Observation]:
        for event in self._fresh(self._queues):
            yield Observation(int(event.paused), at(self._system, event.queue))

    def _held(self, _: CallbackOptions) -> Iterable[Observation]:
        for event in self._fresh(self._queues):
            yield Observation(int(event.held), at(self._system, event.queue))

    def _age(self, _: CallbackOptions) -> Iterable[Observation]:
        for event in self._fresh(self._queues):
            if event.oldest_age is not None:
                yield Observation(event.oldest_age, at(self._system, event.queue))

    def _read_slots(self, index: int, _: CallbackOptions) -> Iterable[Observation]:
        for queue, read in list(self._slots.items()):
            values = _guarded(read)
            if values is not None:
                yield Observation(values[index], at(self._system, queue))

    def _states(self, _: CallbackOptions) -> Iterable[Observation]:
        for read, _restarts in self._processes:
            for state, count in _guarded(read) or ():
                yield Observation(count, {**of_system(self._system), names.PROCESS_STATE: state})

    def _restarts(self, _: CallbackOptions) -> Iterable[Observation]:
        for _read, restarts in self._processes:
            for reason, count in (_guarded(restarts) or {}).items():
                yield Observation(count, {**of_system(self._system), names.EXIT_REASON: reason})

    def _memory(self, _: CallbackOptions) -> Iterable[Observation]:
        size = resident("self") if self._slot else None
        if size is not None:
            yield Observation(size, {**of_system(self._system), names.SLOT: self._slot})

    def _dropped(self, _: CallbackOptions) -> Iterable[Observation]:
        for signal, count in self._drops.counts().items():
            yield Observation(count, {**of_system(self._system), names.SIGNAL: signal})


def _guarded(read: Callable[[], Any]) -> Any:
    """Return what a callback returns, or None: one that fails must not end the collection of all others."""
    try:
        return read()
    except Exception:
        return None
