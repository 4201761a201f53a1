"""Every name that telemetry emits, as literals, because the messaging conventions are in development and may change.

Standard names come from the OpenTelemetry semantic conventions (`conventions.VERSION`); `worker.*` are our own.
"""

from __future__ import annotations

import importlib.metadata
from functools import cache
from typing import Final

from framework.model.options import WAIT_BOUNDS

SCOPE: Final = "continuum-worker"
DISTRIBUTION: Final = "continuum-worker"

# --- attributes, standard -------------------------------------------------------------------------------------------
SYSTEM: Final = "messaging.system.name"
DESTINATION: Final = "messaging.destination.name"
OPERATION: Final = "messaging.operation.name"
OPERATION_TYPE: Final = "messaging.operation.type"
MESSAGE_ID: Final = "messaging.message.id"
BODY_SIZE: Final = "messaging.message.body.size"
BATCH_COUNT: Final = "messaging.batch.message_count"
ERROR_TYPE: Final = "error.type"
OVERFLOW: Final = "otel.metric.overflow"
EXCEPTION_TYPE: Final = "exception.type"
EXCEPTION_MESSAGE: Final = "exception.message"
EXCEPTION_STACKTRACE: Final = "exception.stacktrace"

COMPONENT_NAME: Final = "otel.component.name"
COMPONENT_TYPE: Final = "otel.component.type"
SERVER_ADDRESS: Final = "server.address"
SERVER_PORT: Final = "server.port"
HTTP_STATUS: Final = "http.response.status_code"
RPC_STATUS: Final = "rpc.status_code"

FUNCTION_NAME: Final = "code.function.name"
FILE_PATH: Final = "code.file.path"
LINE_NUMBER: Final = "code.line.number"
STACKTRACE: Final = "code.stacktrace"

# --- attributes, ours -----------------------------------------------------------------------------------------------
ATTEMPT: Final = "worker.job.attempt"
MAX_ATTEMPTS: Final = "worker.job.max_attempts"
QUEUE_WAIT: Final = "worker.job.queue_wait"
REDELIVERED: Final = "worker.job.redelivered"
OUTCOME: Final = "worker.job.outcome"
JOB_REASON: Final = "worker.job.reason"
RESCUED: Final = "worker.job.rescued"
# The event on the span of a killed attempt, and what it carries besides the code's attributes.
BLACK_BOX: Final = "worker.black_box"
LAST_LINES: Final = "worker.job.last_log_lines"
PEAK_MEMORY: Final = "worker.process.peak_memory"
CPU_TIME: Final = "worker.process.cpu_time"
MEMORY_EVENTS: Final = "worker.process.memory_events"
JOB_CPU_TIME: Final = "worker.job.cpu_time"  # also the name of a metric, as the next one
JOB_MEMORY: Final = "worker.job.memory_growth"
DEAD_LETTER_REASON: Final = "worker.dead_letter.reason"
SCHEDULE: Final = "worker.schedule.key"
TICK_OUTCOME: Final = "worker.schedule.outcome"
ACT: Final = "worker.operator.verb"
ACTOR: Final = "worker.operator.name"
QUEUE_STATE: Final = "worker.queue.state"
PROCESS_STATE: Final = "worker.process.state"
EXIT_REASON: Final = "worker.process.exit_reason"
SLOT: Final = "worker.process.slot"
SIGNAL: Final = "signal"

# An attempt whose process died during it; the other outcomes are those of framework.model.outcome.Kind.
LOST: Final = "lost"

# --- metrics, standard ----------------------------------------------------------------------------------------------
SENT_MESSAGES: Final = "messaging.client.sent.messages"
CONSUMED_MESSAGES: Final = "messaging.client.consumed.messages"
OPERATION_DURATION: Final = "messaging.client.operation.duration"
PROCESS_DURATION: Final = "messaging.process.duration"

SPANS_EXPORTED: Final = "otel.sdk.exporter.span.exported"
SPANS_INFLIGHT: Final = "otel.sdk.exporter.span.inflight"
EXPORT_DURATION: Final = "otel.sdk.exporter.operation.duration"
SPAN_QUEUE_SIZE: Final = "otel.sdk.processor.span.queue.size"
SPAN_QUEUE_CAPACITY: Final = "otel.sdk.processor.span.queue.capacity"

# --- metrics, ours --------------------------------------------------------------------------------------------------
QUEUE_DEPTH: Final = "worker.queue.depth"
UNDECLARED: Final = "worker.queue.undeclared"
PAUSED: Final = "worker.queue.paused"
HELD: Final = "worker.queue.held"
OLDEST_JOB_AGE: Final = "worker.queue.oldest_job.age"
QUEUE_WAIT_DURATION: Final = "worker.job.queue_wait.duration"
ATTEMPTS: Final = "worker.job.attempts"
RETRIES: Final = "worker.job.retries"
DEAD_LETTERS: Final = "worker.job.dead_letters"
UNREADABLE: Final = "worker.job.unreadable"
TICKS: Final = "worker.schedule.ticks"
ACTS: Final = "worker.operator.acts"
SLOTS_LIMIT: Final = "worker.slots.limit"
SLOTS_USED: Final = "worker.slots.used"
PROCESSES: Final = "worker.processes"
RESTARTS: Final = "worker.process.restarts"
PROCESS_MEMORY: Final = "worker.process.memory"
DROPPED: Final = "worker.telemetry.dropped"

# --- buckets, in seconds --------------------------------------------------------------------------------------------
# They are advice of the instrument, not a view: a view exists only in our own provider. The advice also reaches a
# provider that was set before us, and a view of that provider's owner still overrides it.
SHORT_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
LONG_BUCKETS: Final = WAIT_BOUNDS  # the wait of a queue's Slo is one of them


@cache
def version() -> str:
    """Return the version of the instrumentation scope; empty when run from a source tree."""
    try:
        return importlib.metadata.version(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        return ""
