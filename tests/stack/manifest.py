"""The manifest for the collector's builder: exactly the components that otel-collector.yaml names."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

_CORE = "go.opentelemetry.io/collector"
_CONTRIB = "github.com/open-telemetry/opentelemetry-collector-contrib"
# Component types of the core repository; every other comes from contrib.
_IN_CORE = {
    "receiver": {"otlp"},
    "processor": {"batch", "memorylimiter"},
    "exporter": {"otlp", "otlphttp", "debug", "nop"},
    "connector": {"forward"},
    "extension": {"zpages"},
}
# Since 0.144 the types have names with underscores; the modules kept theirs, and the two exporters were renamed.
_MODULE_OF = {"otlp_grpc": "otlp", "otlp_http": "otlphttp"}


def manifest(config: Mapping[str, Any], version: str) -> str:
    """As JSON, which is YAML.

    Args:
        config: otel-collector.yaml.
        version: of the collector and all components, `v0.159.0`.
    """
    parts: dict[str, Any] = {"dist": {"name": "otelcol", "output_path": ".", "version": version.removeprefix("v")}}
    for kind in _IN_CORE:
        types = sorted({name.partition("/")[0] for name in config.get(f"{kind}s", {})})
        if types:
            parts[f"{kind}s"] = [{"gomod": f"{_module(kind, name)} {version}"} for name in types]
    return json.dumps(parts, indent=1, sort_keys=True)


def _module(kind: str, name: str) -> str:
    short = _MODULE_OF.get(name, name.replace("_", ""))
    return f"{_CORE if short in _IN_CORE[kind] else _CONTRIB}/{kind}/{short}{kind}"
