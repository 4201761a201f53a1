"""OTEL_* variables: the documented ones are followed, wrong ones are named, none stops a job."""

from __future__ import annotations

import subprocess
import sys

import pytest

from framework.telemetry.sdk.exporters import complaints, endpoint
from tests.support.receiver import GrpcReceiver
from tests.telemetry.helpers import TREE, environment, json_lines, run


def test_sdk_disabled_makes_no_provider_no_thread_and_costs_next_to_nothing(receiver):
    out = run(
        """
        telemetry = start(identity(), load_settings())
        run_jobs(telemetry, 3, "talk", lambda ctx: ctx.log.info("hello"))
        from opentelemetry import trace
        assert isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)
        assert threading.active_count() == 1
        with telemetry.sending.one("deliveries", "id", 1) as headers:
            assert headers == {}
        telemetry.observe_slots(lambda: (1, 1), "deliveries")
        telemetry.shutdown(1)
        """,
        receiver.env() | {"OTEL_SDK_DISABLED": "true"},
    )
    lines = json_lines(out)
    assert [line["event"] for line in lines] == ["hello", "job_finished"] * 3
    assert lines[0]["job_id"] == lines[1]["job_id"]
    assert receiver.asked == 0


@pytest.mark.parametrize(
    ("variables", "spans", "metrics"),
    [
        ({}, True, True),
        ({"OTEL_TRACES_EXPORTER": "none"}, False, True),
        ({"OTEL_METRICS_EXPORTER": "none"}, True, False),
        ({"OTEL_TRACES_EXPORTER": "otlp,console", "OTEL_METRICS_EXPORTER": "console"}, True, False),
        ({"OTEL_EXPORTER_OTLP_COMPRESSION": "gzip"}, True, True),
        ({"OTEL_EXPORTER_OTLP_HEADERS": "api-key=abc"}, True, True),
    ],
)
def test_the_documented_variables_are_followed(receiver, variables, spans, metrics):
    out = run(
        """
        telemetry = start(identity(), load_settings())
        run_jobs(telemetry, 1)
        telemetry.shutdown(10)
        """,
        receiver.env() | variables,
    )
    assert bool(receiver.spans("process deliveries")) == spans
    assert bool(receiver.metrics("worker.job.attempts")) == metrics
    if "console" in variables.get("OTEL_TRACES_EXPORTER", ""):
        assert '"name": "process deliveries"' in out
        assert "worker.job.attempts" in out
    if "gzip" in str(variables):
        assert {headers["content-encoding"] for headers in receiver.headers} == {"gzip"}
    if "api-key" in str(variables):
        assert {headers["api-key"] for headers in receiver.headers} == {"abc"}


def test_grpc_carries_all_three_signals():
    with GrpcReceiver() as receiver:
        run(
            TREE
            + """
def worker():
    telemetry = start(identity(), load_settings())
    run_jobs(telemetry, 3)
    telemetry.shutdown(10)
reap(forked(worker), forked(worker))
""",
            receiver.env() | {"OTEL_LOGS_EXPORTER": "otlp"},
        )
        assert len(receiver.spans("process deliveries")) == 6
        assert receiver.metrics("worker.job.attempts")
        assert len(receiver.logs()) == 6


def test_an_unknown_value_is_one_warning_per_tree_that_names_the_variable(receiver):
    out = run(
        TREE + "reap(*[forked(lambda: start(identity(), load_settings()).shutdown(5)) for _ in range(2)])",
        receiver.env() | {"OTEL_TRACES_EXPORTER": "zipkin", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"},
    )
    events = [line["event"] for line in json_lines(out)]
    assert len(events) == 2
    assert events[0].startswith("OTEL_TRACES_EXPORTER='zipkin'")
    assert events[1].startswith("OTEL_EXPORTER_OTLP_PROTOCOL='http/json'")


def bare(source: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Without the prelude of `run`, which has imported everything before the script begins."""
    command = [sys.executable, "-c", source]
    return subprocess.run(command, env=environment(env), capture_output=True, text=True, timeout=30, check=True)


def test_a_propagator_that_is_not_installed_costs_no_start_and_no_job(receiver):
    done = bare(
        """
from framework.service.settings import load_settings
from framework.telemetry import ProcessIdentity, start
start(ProcessIdentity("relay", "supervisor", "supervisor", 0, "spool"), load_settings())
from tests.telemetry.helpers import IDENTITY, PRELUDE
exec(PRELUDE)
telemetry = start(IDENTITY, load_settings())
run_jobs(telemetry, 1)
with telemetry.sending.one("deliveries", "id", 1) as headers:
    assert list(headers) == ["traceparent"]
telemetry.shutdown(5)
""",
        receiver.env() | {"OTEL_PROPAGATORS": "tracecontext,b3x"},
    )
    events = [line["event"] for line in json_lines(done.stdout)]
    assert events[0].startswith("OTEL_PROPAGATORS='tracecontext,b3x' cannot be followed")
    assert events[1:] == ["job_finished"]
    assert receiver.spans("process deliveries")


def test_a_producer_outlives_a_propagator_that_is_not_installed(receiver):
    done = bare(
        """
from framework.telemetry import for_host
with for_host("spool").one("deliveries", "id", 1) as headers:
    assert headers == {}
""",
        receiver.env() | {"OTEL_PROPAGATORS": "b3x"},
    )
    assert done.stderr.startswith("OTEL_PROPAGATORS='b3x' cannot be followed")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("", "http://localhost:4318"),
        ("http://user:secret@collector:4318/v1/traces?key=secret", "http://collector:4318"),
        ("collector:4317", "collector:4317"),
    ],
)
def test_an_endpoint_is_shown_without_what_is_secret_in_it(monkeypatch, value, shown):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", value)
    assert endpoint("traces") == shown
    assert complaints() == []
