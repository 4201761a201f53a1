"""The traps of the SDK (and what others lost by them), each in real processes against a real receiver."""

from __future__ import annotations

import time

import pytest

from tests.support.programs import free_port
from tests.support.receiver import Receiver
from tests.telemetry.helpers import TREE, json_lines, run, spawn


def test_counters_of_forked_workers_are_not_doubled_and_each_has_its_own_identity(receiver):
    run(
        TREE
        + """
def worker(slot):
    telemetry = start(identity(slot=slot), load_settings())
    run_jobs(telemetry, 5)
    telemetry.shutdown(10)
reap(*[forked(lambda: worker(f"deliveries/{i}")) for i in range(3)])
""",
        receiver.env() | {"WORKER_LOG_LEVEL": "error"},
    )
    attempts = receiver.latest("worker.job.attempts")
    assert [point.value for point in attempts] == [5, 5, 5]
    assert len({point.resource["service.instance.id"] for point in attempts}) == 3
    spans = receiver.spans("process deliveries")
    assert len(spans) == 15
    assert len({span.resource["process.pid"] for span in spans}) == 3


def test_a_handler_that_forks_neither_doubles_counters_nor_loses_the_spans_of_its_child(receiver):
    run(
        """
        from opentelemetry import trace, metrics
        telemetry = start(identity(), load_settings())
        run_jobs(telemetry, 5)
        def child():
            with trace.get_tracer("service").start_as_current_span("in the child"): pass
            trace.get_tracer_provider().force_flush()
            metrics.get_meter_provider().force_flush()
        run_jobs(telemetry, 1, "fork", lambda ctx: reap(forked(child)))
        telemetry.shutdown(10)
        """,
        receiver.env(fast=False),
    )
    assert receiver.value("worker.job.attempts") == 6
    (child,) = receiver.spans("in the child")
    assert child.parent_id in {span.span_id for span in receiver.spans("process deliveries")}
    assert len(receiver.spans("process deliveries")) == 6


def test_one_job_per_process_gives_a_span_per_job_and_no_new_series(receiver):
    run(
        TREE
        + """
def worker():
    telemetry = start(identity(), load_settings())
    run_jobs(telemetry, 1)
    telemetry.shutdown(10)
for _ in range(20):
    reap(forked(worker))
""",
        receiver.env(fast=False) | {"WORKER_LOG_LEVEL": "error"},
    )
    assert len({span.span_id for span in receiver.spans("process deliveries")}) == 20
    assert len({span.resource["service.instance.id"] for span in receiver.spans()}) == 1


def test_the_supervisor_has_no_provider_and_no_thread_and_has_imported_what_children_need(receiver):
    out = run(
        TREE
        + """
from opentelemetry import trace, metrics
assert isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)
assert "Proxy" in type(metrics.get_meter_provider()).__name__
assert len(os.listdir("/proc/self/task")) == 1
assert "opentelemetry.exporter.otlp.proto.http.trace_exporter" in sys.modules
assert "grpc" not in sys.modules
from framework.model.events import SupervisorNote
supervisor.subscribe(SupervisorNote("hello"))
supervisor.shutdown(1)
""",
        receiver.env(),
    )
    (line,) = json_lines(out)
    assert (line["event"], line["process"]) == ("hello", "supervisor")
    assert receiver.asked == 0


@pytest.mark.parametrize("trouble", ["dead", "silent", "503"])
@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_leaving_keeps_its_budget_whatever_the_collector_does(trouble, protocol):
    """The SDK's own shutdown takes 7 to 30 s here. The process measures itself; the margin is for a busy machine."""
    with Receiver() as receiver:
        env = receiver.env(fast=False) | {"OTEL_EXPORTER_OTLP_PROTOCOL": protocol, "WORKER_LOG_LEVEL": "error"}
        if trouble == "dead":
            receiver.close()
        elif trouble == "silent":
            receiver.hang()
        else:
            receiver.status = 503
        began = time.monotonic()
        out = run(
            """
            telemetry = start(identity(), load_settings())
            run_jobs(telemetry, 10)
            began = time.monotonic()
            telemetry.shutdown(0.5)
            print(time.monotonic() - began)
            sys.stdout.flush()
            telemetry.shutdown(0.5)  # a second call has nothing left to do
            """,
            env,
        )
        assert float(out) < 5
        assert time.monotonic() - began < 7  # nothing waits in atexit or for a thread either
        receiver.resume()


def test_a_process_that_ends_without_leaving_properly_does_not_wait_for_the_collector_either(receiver):
    """The SDK's atexit hooks would: 10 s for each signal."""
    receiver.hang()
    began = time.monotonic()
    run(
        "run_jobs(start(identity(), load_settings()), 1)",
        receiver.env(fast=False) | {"WORKER_LOG_LEVEL": "error"},
    )
    assert time.monotonic() - began < 7
    receiver.resume()


def test_leaving_delivers_everything_when_the_collector_is_well(receiver):
    run(
        """
        telemetry = start(identity(), load_settings())
        run_jobs(telemetry, 1000)
        telemetry.shutdown(10)
        os._exit(0)
        """,
        receiver.env(fast=False) | {"WORKER_LOG_LEVEL": "error"},
    )
    assert len(receiver.spans("process deliveries")) == 1000
    assert receiver.value("worker.job.attempts") == 1000
    assert receiver.value("worker.telemetry.dropped") == 0


def test_with_nothing_listening_the_whole_tree_says_so_in_one_line_and_jobs_run(tmp_path):
    out = run(
        TREE
        + """
def worker(i):
    telemetry = start(identity(slot=f"deliveries/{i}"), load_settings())
    for _ in range(12):
        run_jobs(telemetry, 5)
        time.sleep(0.1)
    telemetry.shutdown(0.5)
reap(*[forked(lambda: worker(i)) for i in range(4)])
""",
        {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://user:secret@127.0.0.1:{free_port()}",
            "OTEL_BSP_SCHEDULE_DELAY": "50",
            "OTEL_METRIC_EXPORT_INTERVAL": "100",
        },
    )
    lines = json_lines(out)
    (warning,) = [line for line in lines if line["event"] != "job_finished"]
    assert (warning["event"], warning["level"]) == ("telemetry_unreachable", "warning")
    assert "127.0.0.1" in warning["endpoint"]
    assert "refused" in warning["cause"]
    assert "secret" not in str(warning)
    assert len(lines) == 1 + 4 * 12 * 5


def test_a_run_shorter_than_one_export_still_says_that_nothing_listens():
    out = run(
        """
        telemetry = start(identity(), load_settings())
        run_jobs(telemetry, 1)
        telemetry.shutdown(1)
        """,
        {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{free_port()}"},
    )
    assert [line["event"] for line in json_lines(out)] == ["job_finished", "telemetry_unreachable"]


def test_nothing_listening_is_said_over_grpc_too():
    out = run(
        """
        telemetry = start(identity(), load_settings())
        run_jobs(telemetry, 1)
        telemetry.shutdown(1)
        os._exit(0)
        """,
        {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{free_port()}", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
    )
    assert [line["event"] for line in json_lines(out)] == ["job_finished", "telemetry_unreachable"]


def test_a_collector_that_comes_back_is_reported_once():
    port = free_port()
    process = spawn(
        """
        telemetry = start(identity(), load_settings())
        run_jobs(telemetry, 1)
        sys.stdin.readline()
        run_jobs(telemetry, 1)
        sys.stdin.readline()
        telemetry.shutdown(5)
        os._exit(0)
        """,
        {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}"}
        | {"OTEL_BSP_SCHEDULE_DELAY": "50", "OTEL_METRIC_EXPORT_INTERVAL": "300"},
        stdin=-1,
    )
    assert process.stdout is not None
    assert process.stdin is not None
    seen = [json_lines(process.stdout.readline())[0]["event"] for _ in range(2)]
    with Receiver(port) as receiver:
        process.stdin.write("\n")
        process.stdin.flush()
        receiver.wait_for(lambda: len(receiver.spans("process deliveries")) >= 2 and receiver.metrics(), 20)
        process.stdin.write("\n")
        process.stdin.flush()
        out, err = process.communicate(timeout=20)
    seen += [line["event"] for line in json_lines(out)]
    assert (process.returncode, err) == (0, "")
    assert seen == ["job_finished", "telemetry_unreachable", "job_finished", "telemetry_recovered"]


def test_a_collector_that_refuses_one_signal_is_named_with_its_answer():
    with Receiver() as receiver:
        out = run(
            """
            telemetry = start(identity(), load_settings())
            run_jobs(telemetry, 1)
            telemetry.shutdown(5)
            """,
            receiver.env() | {"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": f"http://127.0.0.1:{receiver.port}/nowhere"},
        )
    (warning,) = [line for line in json_lines(out) if line["event"] != "job_finished"]
    assert warning["problem"] == "refuses metrics"
    assert "404" in warning["cause"]


def test_a_provider_that_was_there_before_is_used_and_flushed(receiver):
    """As under opentelemetry-instrument: planned ids reach its spans, and no second provider is made."""
    run(
        """
        from opentelemetry import trace, metrics
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
        theirs = Resource({"service.name": "theirs"})
        provider = TracerProvider(resource=theirs)
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        trace.set_tracer_provider(provider)
        metrics.set_meter_provider(MeterProvider([PeriodicExportingMetricReader(OTLPMetricExporter())], theirs))
        telemetry = start(identity(), load_settings())
        seen = []
        def look(ctx):
            seen.append(trace.get_current_span().get_span_context().span_id)
            with trace.get_tracer("service").start_as_current_span("inner"): pass
        run_jobs(telemetry, 1, "look", look)
        assert trace.get_tracer_provider() is provider
        telemetry.shutdown(10)
        os._exit(0)
        """,
        receiver.env(fast=False),
    )
    (span,), (inner,) = receiver.spans("process deliveries"), receiver.spans("inner")
    assert inner.parent_id == span.span_id != inner.span_id
    assert span.resource["service.name"] == "theirs"
    (duration,) = receiver.latest("messaging.process.duration")
    assert duration.bounds[0] == 0.005


def test_what_handlers_do_with_the_api_goes_through_the_same_provider(receiver):
    run(
        """
        from opentelemetry import trace, metrics
        tracer, counter = trace.get_tracer("service"), metrics.get_meter("service").create_counter("orders")
        telemetry = start(identity(), load_settings())
        def work(ctx):
            counter.add(2)
            with tracer.start_as_current_span("inner"): pass
        run_jobs(telemetry, 1, "work", work)
        telemetry.shutdown(10)
        """,
        receiver.env(),
    )
    assert receiver.value("orders") == 2
    (inner,), (span,) = receiver.spans("inner"), receiver.spans("process deliveries")
    assert inner.parent_id == span.span_id
