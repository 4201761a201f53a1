"""The table of instruments, and what each attempt, operation, expiry and tick adds to them.

Both ways out use it: the exporter, which counts the records of rings, and the SDK of a process without a ring.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from opentelemetry.metrics import Counter, Histogram, Meter

from framework.model.events import AttemptLost
from framework.telemetry import names
from framework.telemetry.conventions import of_system


class Instrument(NamedTuple):
    """One instrument. `bounds`: those of a histogram's buckets, in seconds; none for other instruments."""

    unit: str
    description: str
    bounds: tuple[float, ...] = ()


TABLE: Final = {
    names.SENT_MESSAGES: Instrument("{message}", "Messages that a producer stored."),
    names.CONSUMED_MESSAGES: Instrument("{message}", "Messages delivered to a worker, once per delivery."),
    names.OPERATION_DURATION: Instrument("s", "Duration of an operation with the engine.", names.SHORT_BUCKETS),
    names.PROCESS_DURATION: Instrument("s", "Duration of an attempt.", names.LONG_BUCKETS),
    names.QUEUE_WAIT_DURATION: Instrument(
        "s", "Time from the moment a job was eligible to the start of the attempt.", names.LONG_BUCKETS
    ),
    names.ATTEMPTS: Instrument("{attempt}", "Attempts that ended, by outcome."),
    names.JOB_CPU_TIME: Instrument("s", "Processor time of the threads of sync handlers."),
    names.JOB_MEMORY: Instrument("By", "Growth of a process's peak memory during the runs of sync handlers."),
    names.RETRIES: Instrument("{retry}", "Failed attempts that will be repeated."),
    names.DEAD_LETTERS: Instrument("{job}", "Jobs that became dead letters."),
    names.UNREADABLE: Instrument("{attempt}", "Attempts at payloads of another version, which were put back."),
    names.TICKS: Instrument("{tick}", "Ticks of schedules: fired ones have a job, missed ones came too late for one."),
    names.ACTS: Instrument("{job}", "Jobs that a person has replayed, discarded, cancelled, restored or edited."),
    names.QUEUE_DEPTH: Instrument("{job}", "Jobs in a queue, by state."),
    names.UNDECLARED: Instrument("{job}", "Jobs in a queue that no running service declares."),
    names.PAUSED: Instrument("{queue}", "Whether a queue is paused: 1, or 0."),
    names.HELD: Instrument("{queue}", "Whether a breaker holds a queue: 1, or 0."),
    names.OLDEST_JOB_AGE: Instrument("s", "How long the oldest ready job has been eligible."),
    names.SLOTS_LIMIT: Instrument("{slot}", "Jobs that this process may run at once."),
    names.SLOTS_USED: Instrument("{slot}", "Jobs that this process runs now."),
    names.PROCESSES: Instrument("{process}", "Processes of the service, by state."),
    names.RESTARTS: Instrument("{restart}", "Processes that were replaced, by reason."),
    # Not process.memory.usage: the system-metrics instrumentation may report that as well, and there would be two.
    names.PROCESS_MEMORY: Instrument("By", "Resident memory of this process."),
    names.DROPPED: Instrument("{item}", "Telemetry that was lost, by signal."),
    names.SPANS_EXPORTED: Instrument("{span}", "Spans of attempts whose export has ended, by error."),
    names.SPANS_INFLIGHT: Instrument("{span}", "Spans of attempts that are on their way to the receiver."),
    names.EXPORT_DURATION: Instrument("s", "Duration of an export with all its tries.", names.SHORT_BUCKETS),
    names.SPAN_QUEUE_SIZE: Instrument("{span}", "Spans of attempts that wait in the rings."),
    names.SPAN_QUEUE_CAPACITY: Instrument("{span}", "Spans of usual size for which the rings have room."),
}

Attributes = dict[str, Any]
Series = tuple[str, Attributes]  # an instrument's name and its attributes


class Increments(NamedTuple):
    """The series that grow: counters by a count, histograms by one number each, in this order."""

    counters: list[Series]
    histograms: list[Series]


def of_attempt(system: str, queue: str, outcome: str, then: str, failed: str, reason: str) -> Increments:
    """Return what an attempt adds. The histograms take its duration, then its wait.

    Args:
        outcome, then: how the attempt ended, and what becomes of its job.
        failed: error.type; empty = no error.
        reason: the reason in its Failure; of a job that was put back for its payload, invalid_payload.
    """
    where = at(system, queue)
    counters: list[Series] = [(names.ATTEMPTS, {**where, names.OUTCOME: outcome})]
    if then == "retried":
        counters.append((names.RETRIES, {**where, names.ERROR_TYPE: failed}))
    elif then == "dead_lettered":
        why = {names.DEAD_LETTER_REASON: reason or "error", names.ERROR_TYPE: failed}
        counters.append((names.DEAD_LETTERS, where | why))
    elif then == "released" and reason == "invalid_payload":
        counters.append((names.UNREADABLE, where))
    error = {names.ERROR_TYPE: failed} if failed else {}
    process = where | {names.OPERATION: "process"} | error
    return Increments(counters, [(names.PROCESS_DURATION, process), (names.QUEUE_WAIT_DURATION, where)])


def of_operation(system: str, queue: str, operation: str, kind: str) -> Increments:
    """Return what an operation adds: the jobs that it received, and its duration. `kind`: receive or settle."""
    where = {**at(system, queue), names.OPERATION: operation}
    counters: list[Series] = [(names.CONSUMED_MESSAGES, where)] if kind == "receive" else []
    return Increments(counters, [(names.OPERATION_DURATION, {**where, names.OPERATION_TYPE: kind})])


def of_expired(system: str, queue: str) -> Increments:
    """Return what jobs add that expired and became dead letters without an attempt."""
    why = {names.DEAD_LETTER_REASON: "expired", names.ERROR_TYPE: "expired"}
    return Increments([(names.DEAD_LETTERS, at(system, queue) | why)], [])


def of_cost(system: str, queue: str, key: str, value: str) -> Increments:
    """Return what the cost of an attempt adds: processor time, then memory. `key`, `value`: of the baggage."""
    where = at(system, queue) | ({key: value} if key and value else {})
    return Increments([(names.JOB_CPU_TIME, where), (names.JOB_MEMORY, where)], [])


def of_ticks(system: str, queue: str, key: str, outcome: str) -> Increments:
    """Return what ticks of a schedule add. `outcome`: fired or missed."""
    return Increments([(names.TICKS, at(system, queue) | {names.SCHEDULE: key, names.TICK_OUTCOME: outcome})], [])


def of_acts(system: str, queue: str, verb: str, actor: str) -> Increments:
    """Return what acts of a person add for each job."""
    return Increments([(names.ACTS, at(system, queue) | {names.ACT: verb, names.ACTOR: actor})], [])


def at(system: str, queue: str) -> Attributes:
    return {names.DESTINATION: queue, **of_system(system)}


def times_of_lost(event: AttemptLost) -> tuple[float, float]:
    """Return the duration and the wait of an attempt whose process died, in seconds."""
    started = event.run.started_at
    return max(0.0, event.ended_at - started), max(0.0, started - event.lease.eligible_at)


def counter(meter: Meter, name: str) -> Counter:
    found = TABLE[name]
    return meter.create_counter(name, found.unit, found.description)


def histogram(meter: Meter, name: str) -> Histogram:
    """Return a histogram with its buckets. They are advice: a view of the provider's owner overrides them."""
    found = TABLE[name]
    return meter.create_histogram(name, found.unit, found.description, explicit_bucket_boundaries_advisory=found.bounds)
