"""The producer's spans: `send`, or `create` for each job of a batch. Uses the OpenTelemetry API only, so that it works
with a host's provider, and costs little where the host has none."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from types import FrameType
from typing import Any, Final

from opentelemetry import context as otel_context
from opentelemetry import metrics, propagate, trace
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, Status, StatusCode

from framework.model.errors import EnqueueError
from framework.model.exceptions import describe, error_type
from framework.model.outcome import JobInterrupted
from framework.telemetry import names
from framework.telemetry.logs.values import text_of

log = logging.getLogger("framework.telemetry")
_SDK = ("opentelemetry.sdk", "opentelemetry.exporter")


class SendSpans:
    """Spans and metrics around enqueueing, and the headers that carry the trace's context to the worker.

    Args:
        tracer, meter: the process's own, or the host's.
        system: `messaging.system`.
    """

    def __init__(self, tracer: trace.Tracer, meter: metrics.Meter, system: str) -> None:
        self._tracer = tracer
        self._system = system
        self._sent = meter.create_counter(
            names.SENT_MESSAGES, unit="{message}", description="Messages that a producer stored."
        )
        self._duration = operation_duration(meter)
        self._proxied = isinstance(tracer, trace.ProxyTracer)

    def one(self, queue: str, job_id: str, size: int) -> AbstractContextManager[dict[str, str]]:
        """The `send` span of one job, current inside; gives its headers.

        Args:
            queue, job_id: where to, and which.
            size: bytes of the encoded payload.
        """
        return _Unseen(self.measure, queue) if self._is_unseen() else self._one(queue, job_id, size)

    def _is_unseen(self) -> bool:
        """Whether no span can come of it: the host has no provider so far, and nothing is current."""
        if not self._proxied:
            return False
        try:
            self._proxied = isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)
        except Exception:  # OTEL_PYTHON_TRACER_PROVIDER names one that cannot be made
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
        """A `create` span per job, and one `send` span, current inside, that links to them; gives the headers."""
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
        """Of each job; where nothing makes spans, a span of its own would be the caller's: then one does for all."""
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
        """Makes the span current, ends it by how the block ends, counts and measures inside it."""
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
        """Count and measure one call. Args: count: of its jobs."""
        where = {names.OPERATION: "send", names.SYSTEM: self._system, names.DESTINATION: queue}
        if failed is not None:  # of a batch, a part may have been stored before the error
            count = len(failed.enqueued) if isinstance(failed, EnqueueError) else 0
        if count:
            self._sent.add(count, where)
        kind = {names.OPERATION_TYPE: "send"} if failed is None else _failed_send(failed)
        self._duration.record(seconds, where | kind)

    def _attributes(self, queue: str, operation: str) -> dict[str, Any]:
        return {
            names.OPERATION: operation,
            names.OPERATION_TYPE: operation,
            names.SYSTEM: self._system,
            names.DESTINATION: queue,
        }

    def _start(self, name: str, kind: SpanKind, attributes: Mapping[str, Any], links: Sequence[Link] = ()) -> Span:
        try:
            return self._tracer.start_span(name, kind=kind, attributes=attributes, links=links)
        except Exception:  # a sampler or processor of the host's: its fault must not cost the job
            log.exception("span %r could not be started", name)
            return trace.INVALID_SPAN


class _Unseen:
    """Around the enqueue of one job of which no span can come: a span that is none would be a third of its time."""

    __slots__ = ("_began", "_measure", "_queue")

    def __init__(self, measure: Callable[[str, int, float, BaseException | None], None], queue: str) -> None:
        self._measure = measure
        self._queue = queue

    def __enter__(self) -> dict[str, str]:
        self._began = time.perf_counter()
        return _carried(otel_context.get_current())

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        seconds = time.perf_counter() - self._began
        if not _inside_sdk():  # measures may be wanted, though spans are not
            with OF_HOST:
                self._measure(self._queue, 1, seconds, error)


class _OfHost:
    """Around what a provider of the host's does: a fault of its parts must cost neither the job nor its answer."""

    def __enter__(self) -> None: ...

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> bool:
        if isinstance(error, Exception):
            log.error("a span or a measurement of an enqueue was lost", exc_info=error)
        return isinstance(error, Exception)


OF_HOST: Final = _OfHost()


def context_of(span: Span) -> SpanContext:
    """The span's, or an invalid one."""
    try:
        return span.get_span_context()
    except Exception:
        return trace.INVALID_SPAN_CONTEXT


def _inside_sdk() -> bool:
    """Whether this call interrupts the SDK, in a signal handler or finalizer, or is made by a part of it.

    Its locks are not reentrant: what holds one waits below us, and would wait for ever. Such a job goes without a span.
    """
    if _SDK[0] not in sys.modules:  # a walk through a deep stack would be the larger part of an enqueue
        return False
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if str(frame.f_globals.get("__name__")).startswith(_SDK):
            return True
        frame = frame.f_back
    return False


def _failed_send(error: BaseException) -> dict[str, str]:
    return {names.OPERATION_TYPE: "send", names.ERROR_TYPE: error_type(error)}


def headers_of(span: Span) -> dict[str, str]:
    """traceparent, tracestate and baggage, or whatever the global propagator writes, for this span as the parent."""
    return _carried(trace.set_span_in_context(span))


def _carried(context: otel_context.Context) -> dict[str, str]:
    carrier: dict[str, str] = {}
    try:
        propagate.inject(carrier, context)
    except (KeyboardInterrupt, JobInterrupted):
        raise
    except BaseException:  # a propagator of the host's, or what baggage holds
        log.exception("the trace context could not be written into the job's headers")
    if all(type(key) is str and type(value) is str for key, value in carrier.items()):
        return carrier
    return {text_of(key): text_of(value) for key, value in carrier.items()}


def operation_duration(meter: metrics.Meter) -> metrics.Histogram:
    """messaging.client.operation.duration: send, receive and settle, not processing."""
    return meter.create_histogram(
        names.OPERATION_DURATION,
        unit="s",
        description="Duration of an operation with the engine.",
        explicit_bucket_boundaries_advisory=names.SHORT_BUCKETS,
    )
