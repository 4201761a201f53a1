"""Metrics made from events. A new metric needs an instrument here and one `case`."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from opentelemetry.context import Context
from opentelemetry.metrics import CallbackOptions, Meter, Observation

from framework.model import events as e
from framework.telemetry import names
from framework.telemetry.export.health import Drops
from framework.telemetry.sending import operation_duration

# An older observation says nothing about the queue any more: its observer has lost the lead, or is stuck.
STALE_SECONDS = 60.0

Attributes = dict[str, str]
ReadSlots = Callable[[], tuple[int, int]]
ReadStates = Callable[[], Sequence[tuple[str, int]]]
ReadRestarts = Callable[[], Mapping[str, int]]


class Metrics:
    """All instruments of a process. Attributes never hold a job id, a pid, a host, a text or an attempt's number.

    Args:
        meter: the framework's meter.
        system: `messaging.system`.
        drops: counts of lost telemetry.
        slot: the slot that this process fills, such as `deliveries/0`; empty: it does not report its memory.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        meter: Meter,
        system: str,
        drops: Drops,
        *,
        slot: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._system = system
        self._clock = clock
        self._observers = Observers(meter, system, drops, slot, clock)
        self._operation = operation_duration(meter)
        self._consumed = meter.create_counter(
            names.CONSUMED_MESSAGES, "{message}", "Messages delivered to a worker, once per delivery."
        )
        self._process = meter.create_histogram(
            names.PROCESS_DURATION,
            "s",
            "Duration of an attempt.",
            explicit_bucket_boundaries_advisory=names.LONG_BUCKETS,
        )
        self._wait = meter.create_histogram(
            names.QUEUE_WAIT_DURATION,
            "s",
            "Time from the moment a job was eligible to the start of the attempt.",
            explicit_bucket_boundaries_advisory=names.LONG_BUCKETS,
        )
        self._attempts = meter.create_counter(names.ATTEMPTS, "{attempt}", "Attempts that ended, by outcome.")
        self._retries = meter.create_counter(names.RETRIES, "{retry}", "Failed attempts that will be repeated.")
        self._dead = meter.create_counter(names.DEAD_LETTERS, "{job}", "Jobs that became dead letters.")

    def on(self, event: e.Event, context: Context | None = None) -> None:
        """Measure an event; this is a Bus subscriber.

        `context` holds the span of a killed attempt, for exemplars; other events use the current span.
        """
        match event:
            case e.JobsClaimed():
                if event.count:
                    self._consumed.add(event.count, self._at(event.queue, {names.OPERATION: "receive"}))
                self._operation.record(event.duration, self._operation_at(event.queue, "receive", "receive"))
            case e.JobsSettled():
                self._operation.record(event.duration, self._operation_at(event.queue, event.verb, "settle"))
            case e.JobFinished():
                where, failed = self._at(event.queue), event.error_type or (event.reason or "")
                self._attempt(where, event.outcome, event.outcome, failed, event.reason, None)
                self._measure(where, event.duration, event.wait, failed, None)
            case e.AttemptLost():
                where, run = self._at(event.lease.queue), event.run
                failed = event.failed
                self._attempt(where, event.how, event.outcome, failed, event.reason, context)
                wait = max(0.0, run.started_at - event.lease.eligible_at)
                self._measure(where, max(0.0, event.ended_at - run.started_at), wait, failed, context)
            case e.JobsExpired():
                why = {names.DEAD_LETTER_REASON: "expired", names.ERROR_TYPE: "expired"}
                self._dead.add(event.count, self._at(event.queue, why))
            case e.QueueObserved():
                self._observers.queue(event)
            case e.QueueUndeclared():
                self._observers.undeclared[event.queue] = (self._clock(), event.jobs)

    def observe_slots(self, read: ReadSlots, queue: str) -> None:
        """Observe the concurrency of this process on a queue: `read` returns (limit, used)."""
        self._observers.slots[queue] = read

    def observe_processes(self, read: ReadStates, restarts: ReadRestarts) -> None:
        """Observe processes by state, and restarts so far by reason."""
        self._observers.processes.append((read, restarts))

    def _attempt(
        self, where: Attributes, outcome: str, then: str, failed: str, reason: str | None, context: Context | None
    ) -> None:
        """Count the end of an attempt and what becomes of its job."""
        self._attempts.add(1, where | {names.OUTCOME: outcome}, context)
        if then == "retried":
            self._retries.add(1, where | {names.ERROR_TYPE: failed}, context)
        elif then == "dead_lettered":
            self._dead.add(1, where | {names.DEAD_LETTER_REASON: reason or "error", names.ERROR_TYPE: failed}, context)

    def _measure(self, where: Attributes, duration: float, wait: float, failed: str, context: Context | None) -> None:
        error = {names.ERROR_TYPE: failed} if failed else {}
        self._process.record(duration, where | {names.OPERATION: "process"} | error, context)
        self._wait.record(wait, where, context)

    def _at(self, queue: str, more: Attributes | None = None) -> Attributes:
        return {names.DESTINATION: queue, names.SYSTEM: self._system, **(more or {})}

    def _operation_at(self, queue: str, operation: str, kind: str) -> Attributes:
        return self._at(queue, {names.OPERATION: operation, names.OPERATION_TYPE: kind})


class Observers:
    """The values that are read when metrics are collected."""

    def __init__(self, meter: Meter, system: str, drops: Drops, slot: str, clock: Callable[[], float]) -> None:
        self._system = system
        self._drops = drops
        self._slot = slot
        self._clock = clock
        self._queues: dict[str, tuple[float, e.QueueObserved]] = {}
        self.undeclared: dict[str, tuple[float, int]] = {}
        self.slots: dict[str, ReadSlots] = {}
        self.processes: list[tuple[ReadStates, ReadRestarts]] = []
        gauge, up_down = meter.create_observable_gauge, meter.create_observable_up_down_counter
        gauge(names.QUEUE_DEPTH, [self._depth], "{job}", "Jobs in a queue, by state.")
        gauge(names.UNDECLARED, [self._undeclared], "{job}", "Jobs in a queue that no running service declares.")
        gauge(names.OLDEST_JOB_AGE, [self._age], "s", "How long the oldest ready job has been eligible.")
        up_down(names.SLOTS_LIMIT, [self._limit], "{slot}", "Jobs that this process may run at once.")
        up_down(names.SLOTS_USED, [self._used], "{slot}", "Jobs that this process runs now.")
        up_down(names.PROCESSES, [self._processes], "{process}", "Processes of the service, by state.")
        # Not process.memory.usage: the system-metrics instrumentation may report that as well, and there would be two.
        up_down(names.PROCESS_MEMORY, [self._memory], "By", "Resident memory of this process.")
        counter = meter.create_observable_counter
        counter(names.RESTARTS, [self._restarts], "{restart}", "Processes that were replaced, by reason.")
        counter(names.DROPPED, [self._dropped], "{item}", "Telemetry that was lost, by signal.")

    def queue(self, event: e.QueueObserved) -> None:
        self._queues[event.queue] = (self._clock(), event)

    def _fresh(self) -> list[e.QueueObserved]:
        now = self._clock()
        return [event for at, event in list(self._queues.values()) if now - at <= STALE_SECONDS]

    def _depth(self, _: CallbackOptions) -> Iterable[Observation]:
        for event in self._fresh():
            for state in ("ready", "delayed", "in_flight", "dead", "bad"):
                if (count := getattr(event, state)) is not None:  # None: the engine cannot know
                    yield Observation(count, self._at(event.queue, {names.QUEUE_STATE: state}))

    def _undeclared(self, _: CallbackOptions) -> Iterable[Observation]:
        now = self._clock()
        for queue, (at, jobs) in list(self.undeclared.items()):
            if now - at <= STALE_SECONDS:
                yield Observation(jobs, self._at(queue))

    def _age(self, _: CallbackOptions) -> Iterable[Observation]:
        for event in self._fresh():
            if event.oldest_age is not None:
                yield Observation(event.oldest_age, self._at(event.queue))

    def _limit(self, _: CallbackOptions) -> Iterable[Observation]:
        return self._read_slots(0)

    def _used(self, _: CallbackOptions) -> Iterable[Observation]:
        return self._read_slots(1)

    def _read_slots(self, index: int) -> Iterable[Observation]:
        for queue, read in list(self.slots.items()):
            values = _guarded(read)
            if values is not None:
                yield Observation(values[index], self._at(queue))

    def _processes(self, _: CallbackOptions) -> Iterable[Observation]:
        for read, _restarts in self.processes:
            for state, count in _guarded(read) or ():
                yield Observation(count, {names.SYSTEM: self._system, names.PROCESS_STATE: state})

    def _restarts(self, _: CallbackOptions) -> Iterable[Observation]:
        for _read, restarts in self.processes:
            for reason, count in (_guarded(restarts) or {}).items():
                yield Observation(count, {names.SYSTEM: self._system, names.EXIT_REASON: reason})

    def _memory(self, _: CallbackOptions) -> Iterable[Observation]:
        size = _guarded(_resident) if self._slot else None
        if size is not None:
            yield Observation(size, {names.SYSTEM: self._system, names.SLOT: self._slot})

    def _dropped(self, _: CallbackOptions) -> Iterable[Observation]:
        for signal, count in self._drops.counts().items():
            yield Observation(count, {names.SYSTEM: self._system, names.SIGNAL: signal})

    def _at(self, queue: str, more: Attributes | None = None) -> Attributes:
        return {names.DESTINATION: queue, names.SYSTEM: self._system, **(more or {})}


def _resident() -> int:
    """Return the resident memory in bytes. Raises OSError where there is no /proc."""
    with open("/proc/self/statm", "rb") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _guarded(read: Callable[[], Any]) -> Any:
    """Return what a callback returns, or None: one that fails must not end the collection of all others."""
    try:
        return read()
    except Exception:
        return None
