"""The compose stack without Docker: its schema, and what must hold between its parts."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from framework.service.settings import Settings
from services.example_worker.answers import Shares
from services.example_worker.settings import RelaySettings

ROOT = Path(__file__).parents[2]


def load(path: str) -> Any:
    return YAML(typ="safe").load(ROOT / path)


COMPOSE = load("docker-compose.yml")
COLLECTOR = load("otel-collector.yaml")
SERVICES: dict[str, Any] = COMPOSE["services"]
OURS = ("worker", "receiver", "traffic")
ON_POSTGRES = ("migrate", "worker-postgres", "traffic-postgres")


def seconds(duration: str) -> float:
    match = re.fullmatch(r"(?:(\d+)m)?(?:(\d+)s)?", duration)
    assert match
    assert duration
    return 60 * int(match[1] or 0) + int(match[2] or 0)


def test_the_file_fits_the_compose_schema() -> None:
    command = [str(Path(sys.executable).with_name("check-jsonschema")), "--builtin-schema", "vendor.compose-spec"]
    result = subprocess.run([*command, str(ROOT / "docker-compose.yml")], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_service_of_the_stack_is_there() -> None:
    assert set(SERVICES) == {
        *OURS,
        *ON_POSTGRES,
        "web",
        "postgres",
        "otel-collector",
        "jaeger",
        "prometheus",
        "victorialogs",
        "grafana",
    }


@pytest.mark.parametrize("name", SERVICES)
def test_images_are_pinned(name: str) -> None:
    service = SERVICES[name]
    if name in (*OURS, *ON_POSTGRES, "web"):
        assert service["build"] == "."
    else:
        assert re.fullmatch(r"[a-z/-]+:v?\d+\.\d+(\.\d+)?", service["image"])


def test_the_base_image_is_pinned() -> None:
    bases = re.findall(r"^FROM (\S+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert bases
    assert all(re.fullmatch(r"python:3\.\d+-slim-[a-z]+", base) for base in bases)


@pytest.mark.parametrize("name", SERVICES)
def test_ports_are_published_on_the_loopback_only(name: str) -> None:
    for port in SERVICES[name].get("ports", []):
        assert re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port)
    assert "network_mode" not in SERVICES[name]


def test_what_is_mounted_exists() -> None:
    mounts = [mount for service in SERVICES.values() for mount in service.get("volumes", [])]
    for mount in mounts:
        source, target, *mode = mount.split(":")
        assert target.startswith("/")
        if source.startswith("."):
            assert (ROOT / source).exists(), source
            assert mode == ["ro"], f"{mount}: the stack must not write into the working tree"
        else:
            assert source in COMPOSE["volumes"]
    assert len(mounts) >= 8


def test_the_worker_may_finish_its_drain() -> None:
    worker = SERVICES["worker"]
    drain = float(worker["environment"]["WORKER_DRAIN"])
    assert drain == Settings.model_fields["drain"].default
    assert seconds(worker["stop_grace_period"]) >= drain + 10  # flushes, and a machine that is busy stopping the rest


def test_ours_are_one_user_and_not_root() -> None:
    users = {SERVICES[name]["user"] for name in (*OURS, *ON_POSTGRES, "web")}
    assert users == {"10001:10001"}
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert "--uid 10001" in dockerfile
    assert re.search(r"install -d -o relay -g relay -m 0700 /spool", dockerfile)
    assert dockerfile.index("USER relay") < dockerfile.index("CMD")
    for name in OURS:
        assert SERVICES[name]["cap_drop"] == ["ALL"]
        assert SERVICES[name]["read_only"]


def test_worker_and_traffic_share_the_spool() -> None:
    worker, traffic = SERVICES["worker"], SERVICES["traffic"]
    assert worker["volumes"] == traffic["volumes"] == ["spool:/spool"]
    urls = {service["environment"]["WORKER_ENGINE_URL"] for service in (worker, traffic)}
    assert urls == {"spool:/spool"}


def test_the_web_page_starts_with_its_command_and_is_closed(tmp_path: Path) -> None:
    web = SERVICES["web"]
    assert web["volumes"] == ["spool:/spool"]
    assert web["ports"] == ["127.0.0.1:8321:8321"]
    _, *args = web["command"]
    token = re.sub(r"\$\{\w+:-(.*)\}", r"\1", web["environment"]["WORKER_WEB_TOKEN"])
    environ = {**os.environ, "WORKER_MODULE": web["environment"]["WORKER_MODULE"], "WORKER_WEB_TOKEN": token}
    process = subprocess.Popen(
        [Path(sys.executable).with_name("worker"), *(arg.replace(":8321", ":0") for arg in args)],
        env=environ | {"WORKER_ENGINE_URL": f"spool:{tmp_path}"}, cwd=ROOT, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stderr is not None
        found = next(filter(None, (re.search(r"0\.0\.0\.0:(\d+)/", line) for line in process.stderr)))
        base = f"http://127.0.0.1:{found[1]}"
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        assert opener.open(f"{base}/healthz", timeout=60).read() == b"ok\n"
        with pytest.raises(urllib.error.HTTPError, match="401"):
            opener.open(f"{base}/", timeout=60)
        shown = urllib.request.Request(f"{base}/", headers={"authorization": f"Bearer {token}"})
        assert b"development" in opener.open(shown, timeout=60).read()
    finally:
        process.kill()
        process.communicate()


def test_the_profile_runs_two_workers_on_postgresql_and_else_the_same_service() -> None:
    assert {name for name, service in SERVICES.items() if service.get("profiles") == ["postgres"]} == {
        *ON_POSTGRES, "postgres"
    }  # fmt: skip
    worker, other = SERVICES["worker"], SERVICES["worker-postgres"]
    assert other["deploy"]["replicas"] == 2
    assert {**other["environment"], "WORKER_ENGINE_URL": "spool:/spool"} == worker["environment"]
    assert (other["command"], other["healthcheck"], other["stop_grace_period"]) == (
        worker["command"], worker["healthcheck"], worker["stop_grace_period"]
    )  # fmt: skip
    [url] = {SERVICES[name]["environment"]["WORKER_ENGINE_URL"] for name in ON_POSTGRES}
    assert url.partition("@")[2] == "postgres/postgres?local_dir=/tmp/worker"
    assert "/tmp" in other["tmpfs"]
    assert ".[example,postgres,web]" in (ROOT / "Dockerfile").read_text()


def test_relay_and_receiver_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    worker, receiver = SERVICES["worker"]["environment"], SERVICES["receiver"]["environment"]
    assert worker["RELAY_SUBSCRIBERS__DEMO__SECRET"] == receiver["RECEIVER_SECRET"]
    for name, value in worker.items():
        if name.startswith("RELAY_"):
            monkeypatch.setenv(name, value)
    url = RelaySettings().subscribers["demo"].url
    assert (url.host, url.port, url.path) == ("receiver", 8900, "/hooks")
    options = dict(option[2:].split("=", 1) for option in SERVICES["receiver"]["command"] if option.startswith("--"))
    assert options["port"] == "8900"
    assert options["host"] == "0.0.0.0"
    Shares.parse(options["shares"])


def test_every_worker_variable_is_one_that_is_read() -> None:
    known = {f"WORKER_{name.upper()}" for name in Settings.model_fields} | {"WORKER_MODULE"}
    for name in (*OURS, "web"):
        for variable in set(SERVICES[name]["environment"]) - {"WORKER_WEB_TOKEN"}:
            assert not variable.startswith("WORKER_") or variable in known


@pytest.mark.parametrize("name", OURS)
def test_ours_export_to_the_collector(name: str) -> None:
    environment = SERVICES[name]["environment"]
    assert environment["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://otel-collector:4318"
    assert environment["OTEL_METRIC_EXPORT_INTERVAL"] == "15000"
    assert environment["OTEL_SERVICE_NAME"] == f"example-{name}"


def test_what_can_be_asked_for_its_health_is() -> None:
    with_check = {name for name, service in SERVICES.items() if "healthcheck" in service}
    # Traffic has nothing to ask, the collector's image no program to ask with.
    assert with_check == set(SERVICES) - {"traffic", "otel-collector", "migrate", "traffic-postgres"}
    for name, service in SERVICES.items():
        for other, how in service.get("depends_on", {}).items():
            assert how["condition"] != "service_healthy" or other in with_check, (name, other)


def test_the_collector_sends_to_services_of_the_stack() -> None:
    exporters = COLLECTOR["exporters"]
    assert exporters["otlp_grpc/jaeger"]["endpoint"] == "jaeger:4317"
    assert exporters["otlp_http/prometheus"]["endpoint"] == "http://prometheus:9090/api/v1/otlp"
    for protocol in COLLECTOR["receivers"]["otlp"]["protocols"].values():
        assert protocol["endpoint"].startswith("0.0.0.0:")
    assert COLLECTOR["extensions"]["health_check"]["endpoint"].startswith("0.0.0.0:")
    assert COLLECTOR["connectors"]["span_metrics"]["metrics_expiration"]
    assert COLLECTOR["connectors"]["span_metrics"]["exemplars"] == {"enabled": True}


def test_a_replaced_process_neither_starts_nor_disturbs_a_series() -> None:
    key = COLLECTOR["connectors"]["span_metrics"]["resource_metrics_key_attributes"]
    assert {"service.name", "service.instance.id"} <= set(key)
    assert "process.pid" not in key
    assert "resource/slots" in COLLECTOR["service"]["pipelines"]["metrics"]["processors"]
    assert COLLECTOR["processors"]["resource/slots"]["attributes"] == [{"key": "process.pid", "action": "delete"}]


def test_spans_are_counted_before_they_are_sampled() -> None:
    pipelines, connectors = COLLECTOR["service"]["pipelines"], COLLECTOR["connectors"]
    sampling = [name for name, pipeline in pipelines.items() if "tail_sampling" in pipeline["processors"]]
    assert sampling == ["traces/sampled"]
    assert set(pipelines["traces/sampled"]["receivers"]) == {"forward/sampling"} <= set(connectors)
    assert set(pipelines["traces"]["exporters"]) == {"span_metrics", "forward/sampling"}
    assert pipelines["traces/sampled"]["exporters"] == ["otlp_grpc/jaeger"]
    kept = {policy["name"]: policy for policy in COLLECTOR["processors"]["tail_sampling"]["policies"]}
    assert kept["failed"]["status_code"] == {"status_codes": ["ERROR"]}
    assert kept["share"]["probabilistic"]["sampling_percentage"] == "${env:TRACES_KEPT:-25}"
    assert SERVICES["otel-collector"]["environment"] == {"TRACES_KEPT": "${TRACES_KEPT:-25}"}


def test_lines_go_to_the_log_store_and_the_worker_sends_them() -> None:
    exporter = COLLECTOR["exporters"]["otlp_http/victorialogs"]
    assert exporter["logs_endpoint"] == "http://victorialogs:9428/insert/opentelemetry/v1/logs"
    assert "process.pid" not in exporter["headers"]["VL-Stream-Fields"]
    assert COLLECTOR["service"]["pipelines"]["logs"]["exporters"] == ["otlp_http/victorialogs"]
    assert SERVICES["worker"]["environment"]["OTEL_LOGS_EXPORTER"] == "otlp"
    plugin = SERVICES["grafana"]["environment"]["GF_PLUGINS_PREINSTALL_SYNC"]
    assert re.fullmatch(r"victoriametrics-logs-datasource@\d+\.\d+\.\d+", plugin)


def test_the_memory_limiter_is_first_in_every_pipeline_from_outside() -> None:
    pipelines = COLLECTOR["service"]["pipelines"]
    parts = {"connectors", "receivers", "exporters"}
    known = {name for part in parts for name in COLLECTOR[part]}
    for pipeline in pipelines.values():
        from_outside = set(pipeline["receivers"]) & set(COLLECTOR["receivers"])
        assert (pipeline["processors"][0] == "memory_limiter") == bool(from_outside)
        assert {*pipeline["receivers"], *pipeline["exporters"]} <= known


def test_prometheus_takes_what_the_collector_pushes() -> None:
    command = SERVICES["prometheus"]["command"]
    assert "--web.enable-otlp-receiver" in command
    assert "--enable-feature=exemplar-storage" in command
    config = load("observability/prometheus/prometheus.yml")
    assert set(config["otlp"]["promote_resource_attributes"]) == {
        "service.name", "service.namespace", "service.instance.id", "service.version", "deployment.environment.name"
    }  # fmt: skip
    assert config["storage"]["tsdb"]["out_of_order_time_window"] == "10m"
    mounted = [mount for mount in SERVICES["prometheus"]["volumes"] if mount.startswith(".")]
    for rules in config["rule_files"]:
        assert f"./observability/prometheus/{rules}:/etc/prometheus/{rules}:ro" in mounted


def test_jaeger_finds_its_metrics_and_does_not_trace_itself() -> None:
    config = load("observability/jaeger/config.yaml")
    extensions = config["extensions"]
    backend = extensions["jaeger_storage"]["metric_backends"][extensions["jaeger_query"]["storage"]["metrics"]]
    assert backend["prometheus"] == {
        "endpoint": "http://prometheus:9090",
        "normalize_calls": True,
        "normalize_duration": True,
    }
    assert extensions["jaeger_query"]["storage"]["traces"] in extensions["jaeger_storage"]["backends"]
    assert SERVICES["jaeger"]["environment"]["OTEL_TRACES_SAMPLER"] == "always_off"
