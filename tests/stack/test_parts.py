"""The parts of `make stack-test` that need no program, in `make test`: so they keep up with the files they read."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.stack.layout import Layout
from tests.stack.manifest import manifest
from tests.stack.pins import ROOT, Pins, load

BACKENDS = ("otel-collector", "jaeger", "prometheus", "victorialogs")


def test_the_manifest_has_a_module_for_each_component_and_no_other() -> None:
    config = load("otel-collector.yaml")
    made = json.loads(manifest(config, "v0.159.0"))
    for kind in ("receiver", "processor", "exporter", "connector", "extension"):
        types = {name.partition("/")[0] for name in config.get(f"{kind}s", {})}
        modules = [entry["gomod"] for entry in made.get(f"{kind}s", [])]
        assert len(modules) == len(types)
        assert all(re.fullmatch(rf"\S+/{kind}/[a-z]+{kind} v0\.159\.0", module) for module in modules)
    assert made["dist"]["version"] == "0.159.0"


@pytest.mark.parametrize(
    ("kind", "name", "module"),
    [
        ("exporter", "otlp_grpc/jaeger", "go.opentelemetry.io/collector/exporter/otlpexporter"),
        ("connector", "forward/sampling", "go.opentelemetry.io/collector/connector/forwardconnector"),
        (
            "processor",
            "tail_sampling",
            "github.com/open-telemetry/opentelemetry-collector-contrib/processor/tailsamplingprocessor",
        ),
        ("exporter", "otlp_http", "go.opentelemetry.io/collector/exporter/otlphttpexporter"),
        ("processor", "memory_limiter", "go.opentelemetry.io/collector/processor/memorylimiterprocessor"),
        (
            "extension",
            "health_check",
            "github.com/open-telemetry/opentelemetry-collector-contrib/extension/healthcheckextension",
        ),
    ],
)
def test_where_a_component_lives(kind: str, name: str, module: str) -> None:
    made = json.loads(manifest({f"{kind}s": {name: None}}, "v1.2.3"))
    assert made[f"{kind}s"] == [{"gomod": f"{module} v1.2.3"}]


def test_the_pins_become_versions_of_modules() -> None:
    pins = Pins.read()
    assert re.fullmatch(r"v0\.\d+\.\d+", pins.collector)
    assert pins.collector.removeprefix("v") in pins.images["otel-collector"]
    assert re.fullmatch(r"v0\.3\d\d\.\d+", pins.prometheus)
    assert re.fullmatch(r"v1\.\d+\.\d+", pins.jaeger)
    assert pins.images["victorialogs"].endswith(f":{pins.victorialogs}")


@pytest.mark.parametrize("service", BACKENDS)
def test_nothing_of_a_container_is_left_in_files_and_commands(service: str, tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    mounted = layout.mounted(service)
    texts = [path.read_text() for path in mounted.values() if path.is_file()]
    assert texts or service == "victorialogs"
    hosts = "|".join(layout.services)
    for text in (re.sub(r"#.*", "", text) for text in texts):
        assert not re.search(rf"0\.0\.0\.0|\b({hosts}):\d", text)
    for argument in layout.command(service):
        value = argument.partition("=")[2]
        assert not value.startswith("/") or Path(value).exists(), argument


def test_only_places_are_substituted(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    config = layout.mounted("otel-collector")["/etc/otelcol/config.yaml"]
    before = (ROOT / "otel-collector.yaml").read_text().splitlines()
    after = config.read_text().splitlines()
    assert len(before) == len(after)
    changed = [line for line, other in zip(before, after, strict=True) if line != other]
    assert changed
    assert all("endpoint:" in line for line in changed)


def test_the_same_port_of_a_service_is_the_same_everywhere(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    [exporter] = [
        line for line in _lines(layout, "otel-collector", "/etc/otelcol/config.yaml") if "/api/v1/otlp" in line
    ][:1]
    assert layout.address("prometheus", 9090) in exporter
    assert layout.environ("worker")["OTEL_EXPORTER_OTLP_ENDPOINT"] == f"http://{layout.address('otel-collector', 4318)}"
    assert layout.address("jaeger", 4317) != layout.address("otel-collector", 4317)


def _lines(layout: Layout, service: str, target: str) -> list[Any]:
    return layout.mounted(service)[target].read_text().splitlines()
