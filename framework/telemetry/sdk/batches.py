"""The span around the handler of a batch: it links to the span of each attempt in it."""

from __future__ import annotations

import logging
from collections.abc import Generator, Sequence
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanContext, TraceFlags

from framework.model.attempt import Attempt
from framework.telemetry import names
from framework.telemetry.attempts import of_queue
from framework.telemetry.conventions import scope

log = logging.getLogger("framework.telemetry")


@contextmanager
def batch_span(system: str, attempts: Sequence[Attempt]) -> Generator[None, None, None]:
    """Make a root span current inside the block. It goes through the SDK, like the spans that the handler makes."""
    try:
        span = _started(system, attempts)
    except Exception:  # an exporter or a sampler failed: the batch runs without a span
        log.exception("no span could be started for a batch of %s", attempts[0].lease.queue)
        span = trace.INVALID_SPAN
    with trace.use_span(span, end_on_exit=True):
        yield


def _started(system: str, attempts: Sequence[Attempt]) -> Span:
    queue = attempts[0].lease.queue
    attributes = of_queue(system, queue, None) | {names.BATCH_COUNT: len(attempts)}
    links = [Link(_context_of(attempt)) for attempt in attempts if any(attempt.ids)]
    name, version, schema = scope()
    tracer = trace.get_tracer(name, version, schema_url=schema)
    return tracer.start_span(f"batch {queue}", Context(), attributes=attributes, links=links)


def _context_of(attempt: Attempt) -> SpanContext:
    trace_id, span_id = attempt.ids[:16], attempt.ids[16:]
    flags = TraceFlags(TraceFlags.SAMPLED if attempt.sampled else TraceFlags.DEFAULT)
    return SpanContext(int.from_bytes(trace_id, "big"), int.from_bytes(span_id, "big"), False, flags)
