"""One test of one way out: a thread sends a marked item, and the answer is read from the connection."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from framework.doctor.answers import Heard, Verdict, date_of, judge
from framework.model.text.redaction import redact
from framework.telemetry import ProcessIdentity
from framework.telemetry.export.otlp import Destination, GrpcDestination, destination
from framework.telemetry.names import SCOPE
from framework.telemetry.ring import wire
from framework.telemetry.sdk import exporters
from framework.telemetry.sdk.resource import resource_of

CHECKS: Final = "worker.doctor.checks"
Path = Literal["ring", "sdk"]


@dataclass(frozen=True)
class Sent:
    """The result of one test, with what was sent.

    Attributes:
        via: ring: the exporter process sends; sdk: each process sends.
        carries: what the service sends in this way.
        seconds: time until the answer; None where there was none.
        skew: seconds by which our clock is ahead of the receiver's; None where the answer has no date.
    """

    signal: str
    via: Path
    carries: str
    protocol: str
    endpoint: str
    verdict: Verdict
    seconds: float | None = None
    skew: float | None = None


class Test:
    """The items of a test. They are marked, so that they are not mistaken for real work."""

    def __init__(self, identity: ProcessIdentity, trace_id: str, version: str) -> None:
        self.resource = resource_of(identity)
        self.trace_id = trace_id
        self.version = version
        self.name = f"doctor {identity.app}"
        self.attributes = {"worker.doctor": True}

    def encoded(self, signal: str) -> bytes:
        """Return a request as the exporter process makes it."""
        if signal == "traces":
            now = time.time_ns()
            span = wire.block(1, bytes.fromhex(self.trace_id)) + wire.block(2, os.urandom(8)) + wire.text(5, self.name)
            span += wire.number(6, 1) + wire.fixed64(7, now) + wire.fixed64(8, now)
            span += wire.attributes(wire.SPAN_ATTRIBUTES, self.attributes)
            resource = wire.resource_of(dict(self.resource.attributes))
            return wire.resource_spans(resource, wire.scope_of(SCOPE, self.version), wire.span_block(span))
        from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics

        encoded: bytes = encode_metrics(self.items("metrics")).SerializeToString()
        return encoded

    def items(self, signal: str, exporter: Any = None) -> Any:
        """Return the same as the SDK makes it, in the form that an exporter takes."""
        return {"traces": self._spans, "metrics": self._metrics, "logs": self._logs}[signal](exporter)

    def _spans(self, _: Any) -> Sequence[Any]:
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.sampling import ALWAYS_ON

        # Always sampled: the test is about the way out, not about the sampler's decision.
        provider = TracerProvider(ALWAYS_ON, self.resource, shutdown_on_exit=False)
        span: Any = provider.get_tracer(SCOPE, self.version).start_span(
            self.name, self._context(), attributes=self.attributes
        )
        span.end()
        return [span]

    def _metrics(self, exporter: Any) -> Any:
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import InMemoryMetricReader

        reader = InMemoryMetricReader(
            getattr(exporter, "_preferred_temporality", None), getattr(exporter, "_preferred_aggregation", None)
        )
        provider = MeterProvider([reader], self.resource, shutdown_on_exit=False)
        meter = provider.get_meter(SCOPE, self.version)
        meter.create_counter(CHECKS, "{check}", "Tests by `worker doctor`.").add(1, self.attributes)
        return reader.get_metrics_data()

    def _logs(self, _: Any) -> Sequence[Any]:
        from opentelemetry._logs import LogRecord, SeverityNumber
        from opentelemetry.sdk._logs import LoggerProvider
        from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor

        memory: Any = InMemoryLogRecordExporter()  # type: ignore[no-untyped-call]
        provider = LoggerProvider(self.resource, shutdown_on_exit=False)
        provider.add_log_record_processor(SimpleLogRecordProcessor(memory))
        record = LogRecord(
            timestamp=time.time_ns(), context=self._context(), severity_text="info",
            severity_number=SeverityNumber.INFO, body=self.name, attributes=self.attributes,
        )  # fmt: skip
        provider.get_logger(SCOPE, self.version).emit(record)
        return list(memory.get_finished_logs())

    def _context(self) -> Any:
        from opentelemetry import trace

        flags = trace.TraceFlags(trace.TraceFlags.SAMPLED)
        parent = trace.SpanContext(int(self.trace_id, 16), 0xD0C, is_remote=True, trace_flags=flags)
        return trace.set_span_in_context(trace.NonRecordingSpan(parent))


Send = Callable[[], object]


def by_ring(signal: str, test: Test, heard: Heard) -> tuple[Send, Send]:
    """Return functions that send and stop, for the exporter process's own way out."""
    found: Destination | None = destination(signal)  # type: ignore[arg-type]
    assert found is not None
    body = test.encoded(signal)
    if isinstance(found, GrpcDestination):
        found.overhear(lambda call: _overheard(call, heard))
    return lambda: found.send(body, found.timeout), lambda: None


def by_sdk(signal: str, test: Test, heard: Heard) -> tuple[Send, Send]:
    """Return functions that send and stop, for the SDK's exporter, which retries until it is shut down."""
    exporter = exporters.otlp(signal)
    batch = test.items(signal, exporter)
    if exporters.protocol(signal) == "grpc":
        stub = getattr(exporter, "_client", None)
        if stub is not None:
            stub.Export = _overheard(stub.Export, heard)
    return lambda: exporter.export(batch), exporter.shutdown


class Probe:
    """One way out of one signal, tried in a daemon thread, because a connection may hang for longer than the limit."""

    def __init__(
        self, signal: str, via: Path, carries: str, make: Callable[[str, Test, Heard], tuple[Send, Send]], limit: float
    ) -> None:
        self._signal, self._via, self._carries, self._make, self._limit = signal, via, carries, make, limit
        self._heard = Heard()
        self._broken: Verdict | None = None
        self._thread: threading.Thread | None = None
        self._stop: Send = lambda: None

    def start(self, test: Test) -> None:
        try:
            send, self._stop = self._make(self._signal, test, self._heard)
        except Exception as error:  # in the service, this error would turn the signal off
            text = redact(f"cannot be made: {type(error).__name__}: {error}")[:300]
            self._broken = Verdict(
                "broken", text, "the signal stays off; the variables are those of OTEL_EXPORTER_OTLP_"
            )
            return
        self._thread = threading.Thread(target=self._run, args=(send,), daemon=True)
        self._began = time.monotonic()
        self._thread.start()

    def _run(self, send: Send) -> None:
        _hearing.now = self._heard
        try:
            send()
        except Exception as error:
            self._heard.error = self._heard.error or error
        self._heard.done.set()

    def result(self) -> Sent:
        grpc, where = exporters.protocol(self._signal) == "grpc", exporters.endpoint(self._signal)
        verdict = self._broken
        if verdict is None:
            self._heard.done.wait(max(0.0, self._began + self._limit - time.monotonic()))
            verdict = judge(self._heard, self._signal, grpc=grpc, url=where, limit=self._limit)
            verdict = replace(verdict, answer=redact(verdict.answer))
            threading.Thread(target=self._stop, daemon=True).start()  # afterwards, because it ends a running request
        answered = self._heard.status is not None
        skew = self._heard.at - self._heard.date if self._heard.date is not None else None
        return Sent(
            self._signal, self._via, self._carries, exporters.protocol(self._signal), where, verdict,
            self._heard.seconds if answered else None, skew,
        )  # fmt: skip


# --- reading the answers --------------------------------------------------------------------------------------------

_hearing = threading.local()


@contextmanager
def listening() -> Generator[None, None, None]:
    """Record what requests sends and gets: the SDK does not return the status and hides a partial success."""
    import requests

    inner = requests.Session.send

    def send(session: Any, request: Any, **options: Any) -> Any:
        heard: Heard | None = getattr(_hearing, "now", None)
        if heard is None or heard.done.is_set():
            return inner(session, request, **options)
        began = time.monotonic()
        try:
            response = inner(session, request, **options)
        except BaseException as error:
            heard.error, heard.seconds = error, time.monotonic() - began
            heard.done.set()
            raise
        heard.seconds, heard.at = time.monotonic() - began, time.time()
        heard.status, heard.reason = response.status_code, response.reason or ""
        heard.content, heard.content_type = response.content or b"", response.headers.get("Content-Type", "")
        heard.date = date_of(response.headers.get("Date"))
        heard.done.set()
        return response

    session: Any = requests.Session
    session.send = send
    try:
        yield
    finally:
        session.send = inner


def _overheard(call: Callable[..., Any], heard: Heard) -> Callable[..., Any]:
    """Wrap a unary call of gRPC and record its first result."""

    def export(*args: Any, **options: Any) -> Any:
        began = time.monotonic()
        try:
            answer = call(*args, **options)
        except Exception as error:
            if not heard.done.is_set():
                heard.seconds = time.monotonic() - began
                code = getattr(error, "code", None)
                if callable(code):
                    heard.status, heard.reason = code().name, error.details() or ""  # type: ignore[attr-defined]
                else:
                    heard.error = error
                heard.done.set()
            raise
        heard.seconds, heard.status = time.monotonic() - began, "OK"
        heard.content = answer if isinstance(answer, bytes) else answer.SerializeToString()
        heard.done.set()
        return answer

    return export
