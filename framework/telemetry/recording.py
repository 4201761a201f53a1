"""The spans of a test: everything that this process's provider makes while a recording is open."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from functools import partial

from opentelemetry import metrics, trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_ON

from framework.model.attempt import Tracing
from framework.service.sender import Sending
from framework.telemetry.conventions import scope
from framework.telemetry.sdk.providers import span_limits
from framework.telemetry.sdk.spans import SpanTracing
from framework.telemetry.sending import SendSpans
from framework.telemetry.subprocesses import carry_context

_open: list[list[ReadableSpan]] = []  # of every recording that is open
_watched: list[TracerProvider] = []


class _Recorder(SpanProcessor):
    """A processor that stays at its provider, because the SDK removes none; without a recording it does nothing."""

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        for spans in _open:
            spans.append(span)


@contextmanager
def recording() -> Generator[list[ReadableSpan], None, None]:
    """Record spans inside the block, in the order in which they start; each is complete once it has ended.

    The spans are those of the process's provider. If none is set, this sets one, which exports nothing and stays.
    As in a worker, programs that are started get the context of the current span from then on.

    Raises:
        RuntimeError: no span can be made or recorded here; the text says why.
    """
    provider = _provider()
    carry_context()
    if provider not in _watched:
        provider.add_span_processor(_Recorder())
        _watched.append(provider)
    spans: list[ReadableSpan] = []
    _open.append(spans)
    try:
        yield spans
    finally:
        _open[:] = [one for one in _open if one is not spans]


def recorded(system: str) -> tuple[Tracing, Sending]:
    """Return what makes the spans of attempts and of enqueues, with the provider that is recorded."""
    tracer = trace.get_tracer_provider().get_tracer(*scope())
    attempts = SpanTracing(tracer, None, system=system, linkage="auto", parent_within=300)
    return attempts, SendSpans(tracer, partial(metrics.get_meter_provider().get_meter, *scope()), system)


def _provider() -> TracerProvider:
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        raise RuntimeError("OTEL_SDK_DISABLED=true: no span is made, so none can be recorded")
    found = trace.get_tracer_provider()
    if isinstance(found, trace.ProxyTracerProvider):
        found = TracerProvider(sampler=ALWAYS_ON, span_limits=span_limits(), shutdown_on_exit=False)
        trace.set_tracer_provider(found)
    if not isinstance(found, TracerProvider):
        raise RuntimeError(f"the provider of spans is a {type(found).__name__}: only the SDK's can be recorded")
    return found
