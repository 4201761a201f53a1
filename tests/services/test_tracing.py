"""A delivery in a trace: process span → CLIENT span here → SERVER span at the receiver."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence

import httpx
import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from framework import Reject
from framework.testing import context
from services.example_worker import WebhookRelay, receiver, relay
from services.example_worker.queues import Delivery
from services.example_worker.telemetry import configured
from tests.services.conftest import StartReceiver

Tell = Callable[..., None]
Make = Callable[[httpx.AsyncClient], WebhookRelay]


class Recorded(InMemorySpanExporter):
    """Finished spans; `served` is set once the receiver's is among them."""

    def __init__(self) -> None:
        super().__init__()
        self.served = threading.Event()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = super().export(spans)
        if any(span.kind is SpanKind.SERVER for span in spans):
            self.served.set()
        return result


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Recorded:
    """What both sides record; a provider of this test's own, the global one can be set only once in a process."""
    exporter = Recorded()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    for module in (receiver, relay):
        monkeypatch.setattr(module, "tracer", provider.get_tracer(module.__name__))
    return exporter


def deliver(make: Make) -> None:
    async def run() -> None:
        async with httpx.AsyncClient(trust_env=False) as client:
            with relay.tracer.start_as_current_span("process deliveries", kind=SpanKind.CONSUMER):
                await make(client).deliver(Delivery(subscriber="shop", event="push", body="{}"), context(attempt=3))

    asyncio.run(run())


def by_kind(exporter: Recorded) -> dict[SpanKind, ReadableSpan]:
    return {span.kind: span for span in exporter.get_finished_spans()}


def test_client_and_server_are_one_chain(
    spans: Recorded, start_receiver: StartReceiver, environment: Tell, relay: Make
) -> None:
    server = start_receiver("201=1")
    environment(server)
    deliver(relay)
    assert spans.served.wait(10)  # the answer is read here before the receiver's span ends there
    found = by_kind(spans)
    process, client, served = (found[kind] for kind in (SpanKind.CONSUMER, SpanKind.CLIENT, SpanKind.SERVER))
    assert client.parent is not None
    assert client.parent.span_id == process.context.span_id
    assert served.parent is not None
    assert served.parent.span_id == client.context.span_id
    assert {span.context.trace_id for span in found.values()} == {process.context.trace_id}
    assert dict(client.attributes or {}) == {
        "http.request.method": "POST",
        "server.address": "127.0.0.1",
        "server.port": server.server_port,
        "http.request.body.size": 2,
        "http.request.resend_count": 2,
        "http.response.status_code": 201,
    }
    assert client.status.status_code is StatusCode.UNSET
    assert (served.attributes or {})["http.response.status_code"] == 201
    assert server.counts.traced == 1


def test_a_refusal_marks_the_client_span(
    spans: Recorded, start_receiver: StartReceiver, environment: Tell, relay: Make
) -> None:
    environment(start_receiver("404=1"))
    with pytest.raises(Reject):
        deliver(relay)
    client = by_kind(spans)[SpanKind.CLIENT]
    assert client.status.status_code is StatusCode.ERROR
    assert (client.attributes or {})["error.type"] == "404"


def test_a_connection_error_marks_the_client_span(
    spans: Recorded, start_receiver: StartReceiver, environment: Tell, relay: Make
) -> None:
    environment(start_receiver("hang=1", hang=0))
    with pytest.raises(httpx.RemoteProtocolError):
        deliver(relay)
    assert by_kind(spans)[SpanKind.CLIENT].status.status_code is StatusCode.ERROR


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:4318/v1/traces"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318", "OTEL_SDK_DISABLED": "True"}, False),
    ],
)
def test_hosts_export_only_where_a_collector_is_named(
    environ: dict[str, str], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_SDK_DISABLED"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert configured() is expected
