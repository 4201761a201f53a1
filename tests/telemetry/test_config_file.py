"""OTEL_CONFIG_FILE: what arrives is what the file says, and what is not followed is named."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from framework.telemetry import config_file
from tests.support.receiver import Receiver
from tests.telemetry.helpers import json_lines, run

FULL = """
file_format: "1.0-rc.1"
resource:
  attributes:
    - {name: service.name, value: from-file}
    - {name: service.namespace, value: "a, b"}
propagator: {composite: [{tracecontext: {}}, {baggage: {}}]}
tracer_provider:
  processors:
    - batch:
        schedule_delay: 50
        exporter: {otlp_http: {endpoint: "${WHERE}/v1/traces", timeout: 5000, headers: [{name: x-key, value: "k 1"}]}}
    - batch: {exporter: {console: {}}}
  sampler: {parent_based: {root: {trace_id_ratio_based: {ratio: 1.0}}}}
  limits: {event_count_limit: 7}
meter_provider:
  readers:
    - periodic: {interval: 200, exporter: {otlp_http: {endpoint: "${WHERE}/v1/metrics"}}}
  views: [{selector: {instrument_name: x}, stream: {name: y}}]
"""

WORK = """
telemetry = start(identity("supervisor", "supervisor"), load_settings())
def worker():
    telemetry = start(identity(), load_settings())
    run_jobs(telemetry, 2)
    telemetry.shutdown(10)
reap(forked(worker))
print(json.dumps({"event": "variables", "names": sorted(key for key in os.environ if key.startswith("OTEL_"))}))
"""


def test_what_arrives_is_what_the_file_says(receiver: Receiver, tmp_path: Path) -> None:
    (file := tmp_path / "otel.yaml").write_text(FULL)
    where = receiver.env()["OTEL_EXPORTER_OTLP_ENDPOINT"]
    over = {"OTEL_SERVICE_NAME": "from-variable", "OTEL_TRACES_EXPORTER": "none", "OTEL_LOGS_EXPORTER": "otlp"}
    out = run(WORK, over | {"OTEL_CONFIG_FILE": str(file), "WHERE": where, "WORKER_LOG_FORMAT": "json"}, timeout=60)
    spans = receiver.spans("process deliveries")
    assert len(spans) == receiver.value("worker.job.attempts") == 2
    assert {(span.resource["service.name"], span.resource["service.namespace"]) for span in spans} == {
        ("from-file", "a, b")
    }
    assert receiver.logs() == []
    lines = json_lines(out)
    said = [line["event"] for line in lines]
    (line,) = [line for line in said if line.startswith("OTEL_CONFIG_FILE")]
    assert "OTEL_SERVICE_NAME='from-variable' is ignored: OTEL_CONFIG_FILE takes its place" in said
    assert "is followed, but for meter_provider.views[0]" in line
    (known,) = [line["names"] for line in lines if line["event"] == "variables"]
    assert "OTEL_SERVICE_NAME" not in known


def test_the_variables_that_a_file_means(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHERE", "http://there")
    (file := tmp_path / "otel.yaml").write_text(FULL)
    found, left = config_file.read(str(file))
    assert found == {
        "OTEL_RESOURCE_ATTRIBUTES": "service.name=from-file,service.namespace=a%2C%20b",
        "OTEL_PROPAGATORS": "tracecontext,baggage",
        "OTEL_TRACES_EXPORTER": "otlp",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://there/v1/traces",
        "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
        "OTEL_EXPORTER_OTLP_TRACES_HEADERS": "x-key=k%201",
        "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT": "5",
        "OTEL_BSP_SCHEDULE_DELAY": "50",
        "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
        "OTEL_TRACES_SAMPLER_ARG": "1.0",
        "OTEL_SPAN_EVENT_COUNT_LIMIT": "7",
        "OTEL_METRICS_EXPORTER": "otlp",
        "OTEL_METRIC_EXPORT_INTERVAL": "200",
        "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://there/v1/metrics",
        "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL": "http/protobuf",
        "OTEL_LOGS_EXPORTER": "none",
    }
    assert left == ["meter_provider.views[0].selector.instrument_name", "meter_provider.views[0].stream.name"]


@pytest.mark.parametrize(
    ("text", "why"),
    [(None, "it cannot be read (No such file"), ("no: [", ""), ('file_format: "1.0-rc.1"\nresource: 7', "")],
)
def test_a_file_that_cannot_be_used_leaves_the_variables_in_force(
    receiver: Receiver, tmp_path: Path, text: str | None, why: str
) -> None:
    file = tmp_path / "otel.yaml"
    if text is not None:
        file.write_text(text)
    out = run(WORK, receiver.env() | {"OTEL_CONFIG_FILE": str(file), "WORKER_LOG_FORMAT": "json"}, timeout=60)
    assert len(receiver.spans("process deliveries")) == 2
    (line,) = [line for line in json_lines(out) if "OTEL_CONFIG_FILE" in line["event"]]
    assert line["event"].startswith(f"OTEL_CONFIG_FILE={os.fspath(file)!r} is ignored: ")
    assert why in line["event"]


def test_without_the_library_one_line_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['opentelemetry.configuration'] = None")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ValueError, match=r"pip install 'continuum-worker\[config\]'"):
        config_file.read(__file__)
