"""The producer's spans: `send`, or `create` for each job of a batch.

This module uses the OpenTelemetry API only: it works with a host's provider, and costs little where the host has none.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from types import FrameType
from typing import Any, Final

from opentelemetry import context as otel_context
from opentelemetry import metrics, propagate, trace
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, Status, StatusCode

from framework.model.errors import EnqueueError
from framework.model.outcome import JobInterrupted
from framework.model.text.exceptions import describe, error_type
from framework.telemetry import names
from framework.telemetry.instruments import at, counter, histogram
from framework.telemetry.logs.values import text_of

log = logging.getLogger("framework.telemetry")
_SDK = ("opentelemetry.sdk", "opentelemetry.exporter")


class SendSpans:
    """Spans and metrics around enqueueing, and the headers that carry the trace context to the worker.

    Args:
        tracer: the framework's own, or the host's.
        meter: returns one; called when something is measured for the first time.
        system: `messaging.system.name`.
    """

    def __init__(self, tracer: trace.Tracer, meter: Callable[[], metrics.Meter], system: str) -> None:
        self._tracer = tracer
        self._system = system
        self._meter = meter
        self._proxied = isinstance(tracer, trace.ProxyTracer)

    @cached_property
    def _instruments(self) -> tuple[metrics.Counter, metrics.Histogram]:
        meter = self._meter()
        return counter(meter, names.SENT_MESSAGES), histogram(meter, names.OPERATION_DURATION)

    def one(self, queue: str, job_id: str, size: int) -> AbstractContextManager[dict[str, str]]:
        """Open the `send` span of one job, which is the current span inside the block; give the job's headers.

        Args:
            queue, job_id: the queue's name and the job's id.
            size: bytes of the encoded payload.
        """
        return _Unseen(self.measure, queue) if self._is_unseen() else self._one(queue, job_id, size)

    def _is_unseen(self) -> bool:
        """Return whether no span can be made: the host has no provider yet, and the current context is empty."""
        if not self._proxied:
            return False
        try:
            self._proxied = isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)
        except Exception:  # OTEL_PYTHON_TRACER_PROVIDER names a provider that cannot be made
            return False
        return self._proxied and not otel_context.get_current()

    @contextmanager
    def _one(self, queue: str, job_id: str, size: int) -> Generator[dict[str, str], None, None]:
        if _inside_sdk():
            yield headers_of(trace.get_current_span())
            return
        attributes = self._attributes(queue, "send") | {names.MESSAGE_ID: job_id, names.BODY_SIZE: size}
        span = self._start(f"send {queue}", SpanKind.PRODUCER, attributes)
        with self._timed(span, queue, 1):
            yield headers_of(span)

    @contextmanager
    def many(self, queue: str, job_ids: Sequence[str]) -> Generator[list[dict[str, str]], None, None]:
        """Open a `create` span per job and one current `send` span that links to them; give each job's headers."""
        if _inside_sdk():
            yield [headers_of(trace.get_current_span())] * len(job_ids)
            return
        created = self._create(queue, job_ids)
        made = {span: context for span in set(created) if (context := context_of(span)).is_valid}
        linked = [(made[span], job_id) for span, job_id in zip(created, job_ids, strict=True) if span in made]
        links = [Link(context, {names.MESSAGE_ID: job_id}) for context, job_id in linked]
        attributes = self._attributes(queue, "send") | {names.BATCH_COUNT: len(job_ids)}
        span = self._start(f"send {queue}", SpanKind.CLIENT, attributes, links)
        with self._timed(span, queue, len(job_ids)):
            carried = {span: headers_of(span) for span in set(created)}
            yield [carried[span] for span in created]

    def _create(self, queue: str, job_ids: Sequence[str]) -> list[Span]:
        """Make the `create` spans. Without a provider each would be the caller's span: then one serves all jobs."""
        first = self._created(queue, job_ids[0])
        if context_of(first) == trace.get_current_span().get_span_context():
            return [first] * len(job_ids)
        return [first, *(self._created(queue, job_id) for job_id in job_ids[1:])]

    def _created(self, queue: str, job_id: str) -> Span:
        attributes = self._attributes(queue, "create") | {names.MESSAGE_ID: job_id}
        span = self._start(f"create {queue}", SpanKind.PRODUCER, attributes)
        with OF_HOST:
            span.end()
        return span

    @contextmanager
    def _timed(self, span: Span, queue: str, count: int) -> Generator[None, None, None]:
        """Make the span current, count and measure inside it, and end it with the block's result."""
        began = time.perf_counter()
        token = otel_context.attach(trace.set_span_in_context(span))
        failed: BaseException | None = None
        try:
            yield
        except BaseException as error:
            failed = error
            raise
        finally:
            with OF_HOST:
                self.measure(queue, count, time.perf_counter() - began, failed)
            with OF_HOST:
                if failed is not None:
                    span.set_attribute(names.ERROR_TYPE, error_type(failed))
                    span.set_status(Status(StatusCode.ERROR, describe(failed)[0][:300]))
                span.end()
            otel_context.detach(token)

    def measure(self, queue: str, count: int, seconds: float, failed: BaseException | None) -> None:
        """Count and measure one call. `count` is the number of its jobs."""
        sent, duration = self._instruments
        where = {names.OPERATION: "send", **at(self._system, queue)}
        if failed is not None:  # a part of a batch may have been stored before the error
            count = len(failed.enqueued) if isinstance(failed, EnqueueError) else 0
        if count:
            sent.add(count, dict(where))
        where[names.OPERATION_TYPE] = "send"
        if failed is not None:
            where[names.ERROR_TYPE] = error_type(failed)
        duration.record(seconds, where)

    def _attributes(self, queue: str, operation: str) -> dict[str, Any]:
        return {names.OPERATION: operation, names.OPERATION_TYPE: operation, **at(self._system, queue)}

    def _start(self, name: str, kind: SpanKind, attributes: Mapping[str, Any], links: Sequence[Link] = ()) -> Span:
        try:
            return self._tracer.start_span(name, kind=kind, attributes=attributes, links=links)
        except Exception:  # the host's sampler or processor failed: the job must not be lost with it
            log.exception("span %r could not be started", name)
            return trace.INVALID_SPAN


class _Unseen:
    """The enqueue of one job without a span. A span that records nothing would take a third of the enqueue's time."""

    __slots__ = ("_began", "_measure", "_queue")

    def __init__(self, measure: Callable[[str, int, float, BaseException | None], None], queue: str) -> None:
        self._measure = measure
        self._queue = queue

    def __enter__(self) -> dict[str, str]:
        self._began = time.perf_counter()
        return _carried(otel_context.get_current())

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        seconds = time.perf_counter() - self._began
        if not _inside_sdk():  # measurements may be wanted, although spans are not
            with OF_HOST:
                self._measure(self._queue, 1, seconds, error)


class _OfHost:
    """A guard around calls of a host's provider: their failure must not lose the job or its answer."""

    def __enter__(self) -> None: ...

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> bool:
        if isinstance(error, Exception):
            log.error("a span or a measurement of an enqueue was lost", exc_info=error)
        return isinstance(error, Exception)


OF_HOST: Final = _OfHost()


def context_of(span: Span) -> SpanContext:
    """Return the span's context, or an invalid one when the span cannot give it."""
    try:
        return span.get_span_context()
    except Exception:
        return trace.INVALID_SPAN_CONTEXT


def _inside_sdk() -> bool:
    """Return whether this call interrupts the SDK, in a signal handler or finalizer, or is made by a part of the SDK.

    The SDK's locks are not reentrant: a frame below us may hold one, and we would wait for it for ever. Such a job gets
    no span.
    """
    if _SDK[0] not in sys.modules:  # the walk through a deep stack would take most of the enqueue's time
        return False
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if str(frame.f_globals.get("__name__")).startswith(_SDK):
            return True
        frame = frame.f_back
    return False


def headers_of(span: Span) -> dict[str, str]:
    """Return what the global propagator writes with this span as parent: traceparent, tracestate and baggage."""
    return _carried(trace.set_span_in_context(span))


def _carried(context: otel_context.Context) -> dict[str, str]:
    carrier: dict[str, str] = {}
    try:
        propagate.inject(carrier, context)
    except (KeyboardInterrupt, JobInterrupted):
        raise
    except BaseException:  # the host's propagator failed, or a value in the baggage
        log.exception("the trace context could not be written into the job's headers")
    if all(type(key) is str and type(value) is str for key, value in carrier.items()):
        return carrier
    return {text_of(key): text_of(value) for key, value in carrier.items()}
