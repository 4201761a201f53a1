"""Span ids that are known before the span exists.

The SDK makes ids when a span starts, but the run record needs them earlier.

The framework's tracer gets an id generator and a sampler that follow a plan while one is set, which is only during
`start_span` itself. Other tracers of the provider, such as those of handlers, never see a plan.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from opentelemetry.context import Context
from opentelemetry.sdk.trace import Tracer
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import Sampler, SamplingResult
from opentelemetry.trace import Link, SpanKind, TraceState

from framework.telemetry.attempts import Relations, as_numbers


class PlannedSpan(Relations):
    """A `process` span that is planned but not started.

    Attributes:
        sampling: the sampler's decision; it is asked once. None: the provider makes ids and decision.
    """

    sampling: SamplingResult | None = None


_plan: ContextVar[PlannedSpan | None] = ContextVar("framework_planned_span", default=None)


@contextmanager
def following(plan: PlannedSpan) -> Generator[None, None, None]:
    """Give the planned ids and decision, if any, to the next span that the framework's tracer starts."""
    token = _plan.set(plan if plan.sampling is not None else None)
    try:
        yield
    finally:
        _plan.reset(token)


class PlannedIds(IdGenerator):
    def __init__(self, otherwise: IdGenerator) -> None:
        self._otherwise = otherwise

    def generate_span_id(self) -> int:
        plan = _plan.get()
        return as_numbers(plan.ids)[1] if plan else self._otherwise.generate_span_id()

    def generate_trace_id(self) -> int:
        """Return the planned trace id; the SDK asks for one only for roots."""
        plan = _plan.get()
        return as_numbers(plan.ids)[0] if plan else self._otherwise.generate_trace_id()

    def is_trace_id_random(self) -> bool:
        """Return whether the id is random: a derived id is as random as the uid it is derived from."""
        return _plan.get() is not None or self._otherwise.is_trace_id_random()


class PlannedSampling(Sampler):
    def __init__(self, otherwise: Sampler) -> None:
        self._otherwise = otherwise

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Any = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        plan = _plan.get()
        if plan is None or plan.sampling is None:
            return self._otherwise.should_sample(parent_context, trace_id, name, kind, attributes, links, trace_state)
        decided = plan.sampling
        return SamplingResult(decided.decision, {**decided.attributes, **(attributes or {})}, decided.trace_state)

    def get_description(self) -> str:
        return self._otherwise.get_description()


def plannable(tracer: object) -> Tracer | None:
    """Make a tracer able to follow plans and return it; None for one that is not the SDK's and cannot be given ids."""
    if not isinstance(tracer, Tracer):
        return None
    if not isinstance(tracer.id_generator, PlannedIds):
        tracer.id_generator = PlannedIds(tracer.id_generator)
        tracer.sampler = PlannedSampling(tracer.sampler)
    return tracer
