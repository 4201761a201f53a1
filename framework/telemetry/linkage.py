"""The relation of an attempt's span to the span that made the job and to the previous attempt."""

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
    """The trace context that a job carries.

    Attributes:
        context: the job's baggage, with the creation context as the current span.
        creation: the span that made the job; invalid where the producer sent none.
    """

    context: Context
    creation: SpanContext

    def root_context(self) -> Context:
        """Return a context with the baggage only: a span that starts in it is a root."""
        return trace.set_span_in_context(trace.INVALID_SPAN, self.context)


def origin_of(lease: Lease) -> Origin:
    """Read the job's headers with the global propagator (OTEL_PROPAGATORS). The current context is not used."""
    context = propagate.extract(lease.job.headers, context=Context())
    return Origin(context, trace.get_current_span(context).get_span_context())


def is_child(origin: Origin, linkage: Linkage, *, age: float, parent_within: float) -> bool:
    """Return whether the span is a child of the creation context; otherwise it is a root that only links to it.

    Args:
        age: seconds from enqueue to start, including delay, backoff and the wait in a dead-letter queue.
        parent_within: the greatest age in seconds at which `auto` makes the span a child.
    """
    if not origin.creation.is_valid or linkage == "link":
        return False
    return linkage == "parent" or age <= parent_within


def links_of(lease: Lease, origin: Origin) -> tuple[Link, ...]:
    """Return links to the creation context and to the previous attempt; for a dead letter, to the last failed one."""
    links = [Link(origin.creation)] if origin.creation.is_valid else []
    if lease.job.history:
        last = lease.job.history[-1]
        if last.trace_id and last.span_id:
            trace_id = int(last.trace_id, 16)
            # The history does not say whether that span was sampled. In the creation's trace it has the same flag.
            flags = origin.creation.trace_flags if trace_id == origin.creation.trace_id else TraceFlags()
            previous = SpanContext(trace_id, int(last.span_id, 16), is_remote=True, trace_flags=flags)
            if previous.is_valid:
                links.append(Link(previous))
    return tuple(links)
