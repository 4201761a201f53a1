"""The producer's spans and the headers that carry them."""

from __future__ import annotations

import asyncio

import pytest
from opentelemetry import baggage, trace
from opentelemetry import context as otel_context

from framework.model.errors import EnqueueFailed, QueueFull
from framework.telemetry.sending import SendSpans
from tests.telemetry.helpers import Relay, lease_of, run


def test_one_job_is_a_producer_span_whose_context_goes_into_its_headers(receiver, stations):
    station = stations()
    with station.telemetry.sending.one("deliveries", "job-1", 42) as headers:
        inside = trace.get_current_span().get_span_context()
    station.close()
    (span,) = receiver.spans("send deliveries")
    assert (span.kind, span.status, span.parent_id) == ("producer", "unset", "")
    assert headers["traceparent"].split("-")[1:3] == [span.trace_id, span.span_id]
    assert f"{inside.span_id:016x}" == span.span_id
    assert span.attributes == {
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "messaging.system.name": "spool",
        "messaging.destination.name": "deliveries",
        "messaging.message.id": "job-1",
        "messaging.message.body.size": 42,
    }
    assert receiver.value("messaging.client.sent.messages", messaging__destination__name="deliveries") == 1
    assert receiver.value("messaging.client.operation.duration", messaging__operation__name="send") == 1
    assert otel_context.get_current() == otel_context.Context()


def test_a_batch_is_a_create_span_per_job_and_one_client_span_that_links_to_them_all(receiver, stations):
    station = stations()
    ids = [f"job-{i}" for i in range(256)]  # the producer's batch; the SDK by itself keeps 128 links
    with station.telemetry.sending.many("deliveries", ids) as headers:
        pass
    station.close()
    creates, (send,) = receiver.spans("create deliveries"), receiver.spans("send deliveries")
    assert send.kind == "client"
    assert {span.kind for span in creates} == {"producer"}
    by_id = {span.attributes["messaging.message.id"]: span for span in creates}
    assert [header["traceparent"].split("-")[2] for header in headers] == [by_id[i].span_id for i in ids]
    linked = [(link.span_id, link.attributes["messaging.message.id"]) for link in send.links]
    assert linked == [(by_id[i].span_id, i) for i in ids]
    assert send.attributes["messaging.batch.message_count"] == 256
    assert receiver.value("messaging.client.sent.messages") == 256


def test_a_send_that_fails_is_an_error_and_not_counted_as_sent(receiver, stations):
    station = stations()
    with pytest.raises(QueueFull), station.telemetry.sending.one("deliveries", "job-1", 42):
        raise QueueFull("queue 'deliveries' holds 100,000 jobs")
    station.close()
    (span,) = receiver.spans()
    assert (span.status, span.attributes["error.type"]) == ("error", "framework.QueueFull")
    assert receiver.value("messaging.client.sent.messages") == 0
    assert receiver.value("messaging.client.operation.duration", error__type="framework.QueueFull") == 1
    assert otel_context.get_current() == otel_context.Context()


def test_of_a_batch_that_fails_in_the_middle_what_was_stored_is_counted(receiver, stations):
    station = stations()
    with pytest.raises(EnqueueFailed), station.telemetry.sending.many("deliveries", ["a", "b", "c"]):
        raise EnqueueFailed("disk full", enqueued=("a", "b"))
    station.close()
    assert receiver.value("messaging.client.sent.messages") == 2
    (send,) = receiver.spans("send deliveries")
    assert send.status == "error"


async def test_a_cancelled_send_ends_its_span_and_passes_the_cancellation_on(receiver, stations):
    station = stations()
    with pytest.raises(asyncio.CancelledError), station.telemetry.sending.one("deliveries", "job-1", 1):
        raise asyncio.CancelledError
    station.close()
    (span,) = receiver.spans()
    assert (span.status, span.attributes["error.type"]) == ("error", "asyncio.exceptions.CancelledError")


def test_a_job_enqueued_by_a_handler_continues_the_trace_and_carries_its_baggage(receiver, stations):
    station = stations()
    carried = {}

    def enqueue(_: object) -> None:
        token = otel_context.attach(baggage.set_baggage("tenant", "blue"))
        with station.telemetry.sending.one("digests", "next", 1) as headers:
            carried.update(headers)
        otel_context.detach(token)

    app = Relay()
    app.behaviours = {"enqueue": enqueue}
    attempt, _ = station.run(app, lease_of("enqueue"))
    station.close()
    (send,) = receiver.spans("send digests")
    assert (send.trace_id, send.parent_id) == (attempt.identity.trace_id, attempt.identity.span_id)
    assert carried["baggage"] == "tenant=blue"


def test_in_a_host_without_a_provider_nothing_is_configured_sent_or_imported(receiver):
    out = run(
        """
        import logging
        sending = for_host("spool")
        with sending.one("deliveries", "id", 3) as headers:
            assert headers == {}, headers
        with sending.many("deliveries", ["a", "b"]) as headers:
            assert headers == [{}, {}], headers
        from opentelemetry import trace, metrics
        assert isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)
        assert logging.getLogger().handlers == []
        assert threading.active_count() == 1
        """,
        receiver.env(),
    )
    assert out == ""
    assert receiver.asked == 0


def test_importing_the_door_for_a_host_loads_neither_sdk_nor_structlog():
    code = "import sys\nfor name in ('opentelemetry.sdk', 'structlog', 'requests', 'grpc'): print(name in sys.modules)"
    import subprocess
    import sys

    from tests.telemetry.helpers import ROOT

    source = f"from framework.telemetry import for_host\nfor_host('spool')\n{code}"
    out = subprocess.run([sys.executable, "-c", source], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert out.split() == ["False"] * 4


def test_in_a_host_the_provider_that_it_sets_later_is_used(receiver):
    run(
        """
        sending = for_host("spool")
        from opentelemetry import trace, metrics
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
        provider = TracerProvider()
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        trace.set_tracer_provider(provider)
        metrics.set_meter_provider(MeterProvider([PeriodicExportingMetricReader(OTLPMetricExporter())]))
        with trace.get_tracer("web").start_as_current_span("POST /orders"):
            with sending.one("deliveries", "id", 3) as headers:
                assert "traceparent" in headers
        provider.shutdown()
        metrics.get_meter_provider().shutdown()
        """,
        receiver.env() | {"OTEL_SERVICE_NAME": "web"},
    )
    (send,), (request,) = receiver.spans("send deliveries"), receiver.spans("POST /orders")
    assert send.parent_id == request.span_id
    assert send.resource["service.name"] == "web"
    (duration,) = receiver.latest("messaging.client.operation.duration")
    assert duration.bounds[0] == 0.005  # seconds: the host's provider has no view of ours
    assert duration.bounds[-1] == 10


class Faulty:
    """A part of a host's that raises at whatever is asked of it."""

    def __getattr__(self, name: str) -> object:
        def fail(*_: object, **__: object) -> None:
            raise RuntimeError(name)

        return fail


class FaultyTracer:
    def start_span(self, *_: object, **__: object) -> Faulty:
        return Faulty()


class FaultyMeter:
    def create_counter(self, *_: object, **__: object) -> Faulty:
        return Faulty()

    create_histogram = create_counter


def test_no_fault_of_a_hosts_provider_costs_a_job_or_its_answer():
    sending = SendSpans(FaultyTracer(), FaultyMeter, "spool")
    with sending.one("deliveries", "job-1", 1) as headers:
        assert isinstance(headers, dict)
    with sending.many("deliveries", ["a", "b"]) as all_headers:
        assert len(all_headers) == 2
    with pytest.raises(QueueFull), sending.one("deliveries", "job-1", 1):
        raise QueueFull("it holds 100,000 jobs")
    assert otel_context.get_current() == otel_context.Context()


def test_a_provider_that_the_host_sets_after_the_first_enqueue_is_used(receiver):
    """Before, no span is made at all; measures, the propagator and what is current are heard all the same."""
    run(
        """
        from opentelemetry import baggage, context, metrics, propagate, trace
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import InMemoryMetricReader
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

        sending = for_host("spool")
        with sending.one("deliveries", "id", 3) as headers:
            assert headers == {}, headers

        reader = InMemoryMetricReader()
        metrics.set_meter_provider(MeterProvider([reader]))
        with sending.one("deliveries", "id", 3):
            pass
        try:
            with sending.one("deliveries", "id", 3):
                raise ValueError
        except ValueError:
            pass
        found = {}
        for metric in reader.get_metrics_data().resource_metrics[0].scope_metrics[0].metrics:
            for point in metric.data.data_points:
                found[metric.name, point.attributes.get("error.type")] = getattr(point, "value", None) or point.count
        assert found == {
            ("messaging.client.sent.messages", None): 1,
            ("messaging.client.operation.duration", None): 1,
            ("messaging.client.operation.duration", "ValueError"): 1,
        }, found

        token = context.attach(baggage.set_baggage("tenant", "blue"))
        with sending.one("deliveries", "id", 3) as headers:
            assert headers == {"baggage": "tenant=blue"}, headers
        context.detach(token)
        parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        token = context.attach(propagate.extract({"traceparent": parent}))
        with sending.one("deliveries", "id", 3) as headers:
            assert headers == {"traceparent": parent}, headers
        context.detach(token)

        class Own(propagate.get_global_textmap().__class__):
            def inject(self, carrier, context=None, setter=None):
                carrier["own"] = "1"

        before = propagate.get_global_textmap()
        propagate.set_global_textmap(Own([]))
        with sending.one("deliveries", "id", 3) as headers:
            assert headers == {"own": "1"}, headers
        propagate.set_global_textmap(before)

        exporter, provider = InMemorySpanExporter(), TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        trace.set_tracer_provider(provider)
        with sending.one("deliveries", "id", 3) as headers:
            assert trace.get_current_span().is_recording()
        (span,) = exporter.get_finished_spans()
        assert span.name == "send deliveries"
        assert headers["traceparent"].split("-")[2] == f"{span.context.span_id:016x}"
        """,
        receiver.env(),
    )
