"""A test of every way in which telemetry leaves: it sends one item with each exporter that the service would use."""

from __future__ import annotations

import os
import secrets
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any, Literal

from framework.doctor.answers import Answer, Heard, interpret
from framework.doctor.facts import Way, facts_of
from framework.model.text.redaction import redact
from framework.telemetry import ProcessIdentity
from framework.telemetry.conventions import SCHEMA_URL
from framework.telemetry.export.health import SIGNALS
from framework.telemetry.export.otlp import destination
from framework.telemetry.names import SCOPE
from framework.telemetry.ring import rings
from framework.telemetry.ring.ring import SIZE
from framework.telemetry.sdk import exporters
from framework.telemetry.sdk.instrumented import has_provider
from framework.telemetry.sdk.resource import resource_of


@dataclass(frozen=True)
class Examination:
    """The results of all tests: the path of telemetry and why it is so, and by signal, why OTLP does not send it.

    Attributes:
        facts: conventions, resource, scrape and kill, each in a sentence.
    """

    path: Way | Literal[""]
    why: str
    facts: dict[str, str]
    trace_id: str
    sent: list[Probe]
    off: dict[str, str]

    @property
    def ok(self) -> bool:
        """Return whether something was sent and all of it arrived."""
        return bool(self.sent) and all(probe.answer.state == "arrived" for probe in self.sent)


def examine(
    identity: ProcessIdentity, *, slots: int, directory: str, limit: float, version: str, scraped: str = ""
) -> Examination:
    """Send the tests, all at the same time.

    Args:
        slots: the number of processes that emit; each has a ring in `directory`.
        limit: seconds to wait for an answer; a smaller value in the variables applies instead.
        version: the version of the scope.
        scraped: WORKER_METRICS.
    """
    off = {signal: why for signal in SIGNALS if (why := _off(signal))}
    path, why = _path(slots, directory, scraped)
    trace_id = uuid.uuid4().hex
    ways: tuple[Way, ...] = ("ring", "sdk") if path == "ring" else ("sdk",) if path else ()
    sent = [Probe(signal, way, limit) for signal in SIGNALS for way in ways if signal not in off]
    sent = [probe for probe in sent if (probe.signal, probe.via) != ("logs", "ring")]
    for probe in sent:
        probe.start(partial(_items, identity, trace_id, version))
    for probe in sent:
        probe.finish()
    return Examination(path, why, facts_of(identity, path, scraped), trace_id, sent, off)


def _off(signal: str) -> str:
    if exporters.is_disabled():
        return "OTEL_SDK_DISABLED=true"
    if "otlp" in exporters.wanted(signal):
        return ""
    variable = f"OTEL_{signal.upper()}_EXPORTER"
    value = os.environ.get(variable)
    return f"{variable}={value}" if value else f"{variable} is {exporters.DEFAULTS[signal]} unless it is set"


def _path(slots: int, directory: str, scraped: str) -> tuple[Way | Literal[""], str]:
    """Return the way in which the framework's own telemetry leaves, decided as `rings.prepare` does, and why."""
    if exporters.is_disabled():
        return "", "OTEL_SDK_DISABLED=true: nothing is made and nothing is sent"
    if not any("otlp" in exporters.wanted(signal) for signal in SIGNALS) and not scraped:
        return "", "no signal is sent by OTLP"
    if not (exporters.wanted("traces") or exporters.wanted("metrics") or scraped):
        return "sdk", "only logs are sent"
    reason = rings.unfit()
    if reason:
        other = "; the tests go by the variables, not through it" if has_provider() else ""
        return "sdk", f"{reason}: each process sends by itself, what a killed one had not sent is lost{other}"
    nearest = directory
    while nearest and not os.path.isdir(nearest):
        nearest = os.path.dirname(nearest)
    found = os.statvfs(nearest) if nearest else None
    if found is not None and found.f_bavail * found.f_frsize < slots * SIZE:
        return "sdk", f"{directory} has no room for {slots} rings of {SIZE >> 20} MiB: each process sends by itself"
    return "ring", "one exporter process sends; what a killed worker said of its jobs survives it"


def _items(identity: ProcessIdentity, trace_id: str, version: str, signal: str, exporter: Any) -> Any:
    """Return what an exporter takes, marked, so that it is not mistaken for real work."""
    from opentelemetry import trace
    from opentelemetry._logs import LogRecord, SeverityNumber
    from opentelemetry.sdk._logs import ReadableLogRecord
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope

    resource, scope = resource_of(identity), InstrumentationScope(SCOPE, version, SCHEMA_URL)
    name, marks, now = f"doctor {identity.app}", {"worker.doctor": True}, time.time_ns()
    if signal == "metrics":
        preferred = (getattr(exporter, f"_preferred_{option}", None) for option in ("temporality", "aggregation"))
        reader = InMemoryMetricReader(*preferred)
        meter = MeterProvider([reader], resource, shutdown_on_exit=False).get_meter(SCOPE, version, SCHEMA_URL)
        meter.create_counter("worker.doctor.checks", "{check}", "Tests by `worker doctor`.").add(1, marks)
        return reader.get_metrics_data()
    flags = trace.TraceFlags(trace.TraceFlags.SAMPLED)
    context = trace.SpanContext(int(trace_id, 16), secrets.randbits(64) or 1, False, flags)
    if signal == "traces":
        return [ReadableSpan(
            name, context, resource=resource, attributes=marks, start_time=now, end_time=now,
            instrumentation_scope=scope,
        )]  # fmt: skip
    record = LogRecord(
        timestamp=now, context=trace.set_span_in_context(trace.NonRecordingSpan(context)), severity_text="info",
        severity_number=SeverityNumber.INFO, body=name, attributes=marks,
    )  # fmt: skip
    return [ReadableLogRecord(record, resource, scope)]


@dataclass
class Probe:
    """One way out of one signal, tried in a daemon thread, because a connection may hang for longer than the limit.

    Attributes:
        via: ring: the exporter process sends; sdk: each process sends.
        limit: seconds to wait for the answer. answer: the result, once `finish` has returned.
    """

    signal: str
    via: Way
    limit: float
    heard: Heard = field(default_factory=Heard)
    answer: Answer = field(init=False)

    def __post_init__(self) -> None:
        self.protocol, self.endpoint = exporters.protocol(self.signal), exporters.endpoint(self.signal)

    def start(self, items: Callable[[str, Any], Any]) -> None:
        self._began = time.monotonic()
        self._stop: Callable[[], object] = lambda: None
        try:
            send = self._sender(items)
        except Exception as error:  # in the service, this error would turn the signal off
            text = redact(f"cannot be made: {type(error).__name__}: {error}")[:300]
            hint = "the signal stays off; the variables are those of OTEL_EXPORTER_OTLP_"
            self.answer = Answer("broken", text, hint)
        else:
            threading.Thread(target=self._run, args=(send,), daemon=True).start()

    def finish(self) -> None:
        """Wait for the answer, and interpret it."""
        if not hasattr(self, "answer"):
            self.heard.done.wait(max(0.0, self._began + self.limit - time.monotonic()))
            grpc = self.protocol == "grpc"
            answer = interpret(self.heard, self.signal, grpc=grpc, url=self.endpoint, limit=self.limit)
            self.answer = replace(answer, text=redact(answer.text))
            threading.Thread(target=self._stop, daemon=True).start()  # afterwards, because it ends a running request

    def _sender(self, items: Callable[[str, Any], Any]) -> Callable[[], object]:
        """Return a function that sends: as the exporter process does, or by the SDK, which tries until its shutdown."""
        from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
        from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans

        ring = self.via == "ring"
        sender: Any = destination(self.signal) if ring else exporters.otlp(self.signal)  # type: ignore[arg-type]
        if self.protocol != "grpc":
            (session,) = sender.leave.args  # of requests; both senders have it there
            session.send = self._overheard(session.send)
        elif ring:
            sender.overhear(self._overheard)
        elif stub := getattr(sender, "_client", None):
            stub.Export = self._overheard(stub.Export)
        batch = items(self.signal, sender)
        if not ring:
            self._stop = sender.shutdown
            return lambda: sender.export(batch)
        encode: Any = encode_spans if self.signal == "traces" else encode_metrics
        body = encode(batch).SerializeToString()
        return lambda: sender.send(body, sender.timeout)

    def _run(self, send: Callable[[], object]) -> None:
        try:
            send()
        except Exception as error:
            self.heard.error = self.heard.error or error
        self.heard.done.set()

    def _overheard(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap a call of requests or gRPC, and record its first answer, of which the SDK hides the status."""
        heard = self.heard

        def send(*args: Any, **options: Any) -> Any:
            if heard.done.is_set():
                return call(*args, **options)
            began = time.monotonic()
            try:
                answer = call(*args, **options)
                self._note(answer)
                return answer
            except BaseException as error:
                if callable(code := getattr(error, "code", None)):  # of gRPC
                    heard.status, heard.reason = code().name, error.details() or ""  # type: ignore[attr-defined]
                else:
                    heard.error = error
                raise
            finally:
                heard.seconds = time.monotonic() - began
                heard.done.set()

        return send

    def _note(self, answer: Any) -> None:
        heard = self.heard
        if self.protocol == "grpc":
            heard.status, heard.content = "OK", answer if isinstance(answer, bytes) else answer.SerializeToString()
            return
        with suppress(ValueError):  # it has no date
            heard.skew = time.time() - parsedate_to_datetime(answer.headers.get("Date")).timestamp()
        heard.content, heard.content_type = answer.content or b"", answer.headers.get("Content-Type", "")
        heard.status, heard.reason = answer.status_code, answer.reason or ""
