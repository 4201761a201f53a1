"""How an attempt's span refers to what made the job and to the attempt before it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, SpanContext, TraceFlags

from framework.model.job import Lease

Linkage = Literal["auto", "parent", "link"]


@dataclass(frozen=True, slots=True)
class Origin:
    """What a job brings along.

    Attributes:
        context: its baggage, and the creation context as the current span.
        creation: the span that made the job; invalid where the producer sent none.
    """

    context: Context
    creation: SpanContext

    def root_context(self) -> Context:
        """The baggage alone: a span that starts in it is a root."""
        return trace.set_span_in_context(trace.INVALID_SPAN, self.context)


def origin_of(lease: Lease) -> Origin:
    """Reads the job's headers with the global propagator (OTEL_PROPAGATORS). Nothing ambient comes in."""
    context = propagate.extract(lease.job.headers, context=Context())
    return Origin(context, trace.get_current_span(context).get_span_context())


def is_child(origin: Origin, linkage: Linkage, *, age: float, parent_within: float) -> bool:
    """Whether the span is a child of the creation context, or a root that only links to it.

    Args:
        age: seconds from enqueue to start; delay, backoff and the wait in a dead-letter queue count.
        parent_within: the age up to which `auto` makes it a child.
    """
    if not origin.creation.is_valid or linkage == "link":
        return False
    return linkage == "parent" or age <= parent_within


def links_of(lease: Lease, origin: Origin) -> tuple[Link, ...]:
    """To the creation context, always, and to the attempt before; for a dead letter, the one that failed last."""
    links = [Link(origin.creation)] if origin.creation.is_valid else []
    if lease.job.history:
        last = lease.job.history[-1]
        if last.trace_id and last.span_id:
            trace_id = int(last.trace_id, 16)
            # The history does not tell whether that span was sampled; in the creation's trace it has the same flag.
            flags = origin.creation.trace_flags if trace_id == origin.creation.trace_id else TraceFlags()
            previous = SpanContext(trace_id, int(last.span_id, 16), is_remote=True, trace_flags=flags)
            if previous.is_valid:
                links.append(Link(previous))
    return tuple(links)
