"""OTEL_CONFIG_FILE: the declarative configuration of OpenTelemetry, turned into the variables that mean the same.

The library `opentelemetry-configuration` reads and checks the file, in a process of its own: it imports packages of
OpenTelemetry, which read variables when they are imported. What no variable can say is named and not followed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from enum import Enum
from typing import Any, Final
from urllib.parse import quote

FILE: Final = "OTEL_CONFIG_FILE"
LIMIT: Final = 20.0  # seconds
_MISSING: Final = "opentelemetry-configuration is not installed: pip install 'continuum-worker[config]'"
_COMMAND: Final = "from framework.telemetry.config_file import main; main()"
_SIGNALS: Final = {"tracer_provider": "TRACES", "meter_provider": "METRICS", "logger_provider": "LOGS"}
_PROTOCOLS: Final = {"otlp_http": "http/protobuf", "otlp_grpc": "grpc"}
_RENAMED: Final = {"always_on": "always_on", "always_off": "always_off", "trace_id_ratio_based": "traceidratio"}
_BATCH: Final = {
    "schedule_delay": "SCHEDULE_DELAY", "export_timeout": "EXPORT_TIMEOUT",
    "max_queue_size": "MAX_QUEUE_SIZE", "max_export_batch_size": "MAX_EXPORT_BATCH_SIZE",
}  # fmt: skip
_LIMITS: Final = {
    "attribute_value_length_limit": "ATTRIBUTE_VALUE_LENGTH_LIMIT", "attribute_count_limit": "ATTRIBUTE_COUNT_LIMIT",
    "event_count_limit": "EVENT_COUNT_LIMIT", "link_count_limit": "LINK_COUNT_LIMIT",
}  # fmt: skip

Node = dict[str, Any]


def read(path: str) -> tuple[dict[str, str], list[str]]:
    """Return the variables that a file means, and the parts of it that are not followed.

    Raises ValueError: why the file cannot be used.
    """
    try:
        with open(path, "rb"):
            pass
    except (OSError, ValueError) as error:
        raise ValueError(f"it cannot be read ({getattr(error, 'strerror', None) or 'no path'})") from None
    with tempfile.TemporaryFile() as answer:  # not a pipe: what the library may start would keep it open
        environ = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        command = [sys.executable, "-c", _COMMAND, path]
        try:
            subprocess.run(
                command, env=environ, stdin=subprocess.DEVNULL, stdout=answer, stderr=subprocess.DEVNULL, timeout=LIMIT
            )
        except subprocess.TimeoutExpired:
            raise ValueError(f"reading it took longer than {LIMIT:g} s") from None
        answer.seek(0)
        lines = answer.read().splitlines()
    try:
        found = json.loads(lines[-1])
    except (IndexError, ValueError):
        raise ValueError("it could not be read") from None
    if found["error"]:
        raise ValueError(found["error"])
    return found["variables"], found["left"]


def main() -> None:
    """Read the file that the first argument names; this runs in the separate process."""
    variables: dict[str, str] = {}
    left: list[str] = []
    error = ""
    try:
        from opentelemetry.configuration import load_config_file  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        error = _MISSING
    else:
        try:
            config = _bare(asdict(load_config_file(sys.argv[1])))
            variables = variables_of(config)
            left = sorted(_left(config))
        except Exception as problem:  # whatever is wrong in the file
            error = str(problem).splitlines()[0][:300] or type(problem).__name__
    print(json.dumps({"error": error, "variables": variables, "left": left}))


def _bare(value: Any) -> Any:
    """Return the configuration as plain dicts and lists without what is not set."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, dict):
        return {key: _bare(one) for key, one in value.items() if one is not None}
    return [_bare(one) for one in value] if isinstance(value, (list, tuple)) else value


def _left(node: Any, path: str = "") -> Iterator[str]:
    """Yield the paths of what nothing has taken out."""
    if isinstance(node, dict):
        for key, one in node.items():
            yield from _left(one, f"{path}.{key}" if path else key)
    elif isinstance(node, list):
        for number, one in enumerate(node):
            yield from _left(one, f"{path}[{number}]")
    else:
        yield path


def variables_of(config: Node) -> dict[str, str]:
    """Return the variables that mean the same; take out of the configuration what they say."""
    config.pop("file_format", None)
    found = {"OTEL_SDK_DISABLED": "true"} if config.pop("disabled", False) else {}
    found |= _resource(config.get("resource", {}))
    found |= _taken(config.get("attribute_limits", {}), _LIMITS, "OTEL_")
    found |= _propagators(config.get("propagator", {}))
    for section, signal in _SIGNALS.items():
        found |= _signal(config.get(section, {}), signal)
    traces = config.get("tracer_provider", {})
    found |= _taken(traces.get("limits", {}), _LIMITS, "OTEL_SPAN_") | _sampler(traces.get("sampler", {}))
    exemplars = config.get("meter_provider", {}).pop("exemplar_filter", None)
    return found | ({"OTEL_METRICS_EXEMPLAR_FILTER": exemplars} if exemplars else {})


def _taken(node: Node, names: dict[str, str], prefix: str) -> dict[str, str]:
    return {prefix + name: str(node.pop(key)) for key, name in names.items() if key in node}


def _resource(node: Node) -> dict[str, str]:
    parts = [part for part in str(node.pop("attributes_list", "")).split(",") if part]
    parts += _pairs(node.pop("attributes", []))
    return {"OTEL_RESOURCE_ATTRIBUTES": ",".join(parts)} if parts else {}


def _pairs(found: list[Node]) -> list[str]:
    return [f"{one['name']}={quote(str(one.get('value', '')), safe='')}" for one in found]


def _propagators(node: Node) -> dict[str, str]:
    names = [name for one in node.pop("composite", []) for name in one]
    names += [name for name in str(node.pop("composite_list", "")).split(",") if name]
    return {"OTEL_PROPAGATORS": ",".join(dict.fromkeys(names))} if names else {}


def _signal(provider: Node, signal: str) -> dict[str, str]:
    """Return the variables of one signal: its first exporter, and how often it sends. Without any it is off."""
    parts: list[Node] = provider.get("processors") or provider.get("readers") or []
    for one in parts:
        part = one.get("batch") or one.get("simple") or one.get("periodic") or {}
        exporter = part.get("exporter", {})
        kind = next((kind for kind in (*_PROTOCOLS, "console") if kind in exporter), "")
        if not kind:
            continue
        kept: dict[str, str] = {}
        if signal == "METRICS":
            kept = _taken(part, {"interval": "INTERVAL", "timeout": "TIMEOUT"}, "OTEL_METRIC_EXPORT_")
        else:
            kept = _taken(part, _BATCH, "OTEL_BSP_" if signal == "TRACES" else "OTEL_BLRP_")
        if kind == "console":
            return kept | {f"OTEL_{signal}_EXPORTER": "console"}
        otlp = {**_otlp(exporter[kind]), "PROTOCOL": _PROTOCOLS[kind]}
        prefix = f"OTEL_EXPORTER_OTLP_{signal}_"
        return kept | {f"OTEL_{signal}_EXPORTER": "otlp", **{prefix + key: value for key, value in otlp.items()}}
    return {f"OTEL_{signal}_EXPORTER": "none"}


def _otlp(node: Node) -> dict[str, str]:
    names = {"endpoint": "ENDPOINT", "compression": "COMPRESSION", "temporality_preference": "TEMPORALITY_PREFERENCE"}
    names["default_histogram_aggregation"] = "DEFAULT_HISTOGRAM_AGGREGATION"
    found = _taken(node, names, "")
    if "TEMPORALITY_PREFERENCE" in found:
        found["TEMPORALITY_PREFERENCE"] = found["TEMPORALITY_PREFERENCE"].replace("_", "")
    if (timeout := node.pop("timeout", None)) is not None:
        found["TIMEOUT"] = f"{timeout / 1000:g}"  # the SDK for Python reads seconds
    headers = [part for part in str(node.pop("headers_list", "")).split(",") if part]
    headers += _pairs(node.pop("headers", []))
    if headers:
        found["HEADERS"] = ",".join(headers)
    tls = node.get("tls", {})
    found |= _taken(tls, {"ca_file": "CERTIFICATE", "cert_file": "CLIENT_CERTIFICATE", "key_file": "CLIENT_KEY"}, "")
    if "insecure" in tls:
        found["INSECURE"] = str(tls.pop("insecure")).lower()
    return found


def _sampler(node: Node) -> dict[str, str]:
    inner, prefix = node, ""
    if "parent_based" in node:
        inner, prefix = node["parent_based"].get("root", {}), "parentbased_"
    kind = next((kind for kind in _RENAMED if kind in inner), "")
    if not kind:
        return {}
    options = inner.pop(kind) or {}
    ratio = {"OTEL_TRACES_SAMPLER_ARG": str(options["ratio"])} if "ratio" in options else {}
    return {"OTEL_TRACES_SAMPLER": prefix + _RENAMED[kind], **ratio}
