"""The exporters that the documented variables name, each watched for failures."""

from __future__ import annotations

import importlib
import os
import threading
from functools import partial
from typing import Any, Final

from framework.model.text.redaction import address
from framework.telemetry import environment
from framework.telemetry.export.health import CollectorHealth, Drops, watched

KNOWN: Final = ("otlp", "console", "none")
PROTOCOLS: Final = ("http/protobuf", "grpc")
# Limits for every sender: bytes of an answer, compressed and decompressed; seconds between two tries.
BODY: Final = 64 << 10
SHORTEST, LONGEST = 1.0, 60.0
DEFAULTS: Final = {"traces": "otlp", "metrics": "otlp", "logs": "none"}

GRPC_OPTIONS: Final = (("grpc.max_receive_message_length", BODY), ("grpc.max_metadata_size", BODY))

_MODULES: Final = {
    ("traces", "http/protobuf"): ("opentelemetry.exporter.otlp.proto.http.trace_exporter", "OTLPSpanExporter"),
    ("metrics", "http/protobuf"): ("opentelemetry.exporter.otlp.proto.http.metric_exporter", "OTLPMetricExporter"),
    ("logs", "http/protobuf"): ("opentelemetry.exporter.otlp.proto.http._log_exporter", "OTLPLogExporter"),
    ("traces", "grpc"): ("opentelemetry.exporter.otlp.proto.grpc.trace_exporter", "OTLPSpanExporter"),
    ("metrics", "grpc"): ("opentelemetry.exporter.otlp.proto.grpc.metric_exporter", "OTLPMetricExporter"),
    ("logs", "grpc"): ("opentelemetry.exporter.otlp.proto.grpc._log_exporter", "OTLPLogExporter"),
}
_CONSOLE: Final = {
    "traces": ("opentelemetry.sdk.trace.export", "ConsoleSpanExporter"),
    "metrics": ("opentelemetry.sdk.metrics.export", "ConsoleMetricExporter"),
    "logs": ("opentelemetry.sdk._logs.export", "ConsoleLogRecordExporter"),
}


def is_disabled() -> bool:
    return os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"


def wanted(signal: str) -> list[str]:
    """Return the names of a signal's exporters without unknown ones (`complaints` lists those)."""
    value = os.environ.get(f"OTEL_{signal.upper()}_EXPORTER") or DEFAULTS[signal]
    return [name for name in _listed(value) if name in KNOWN and name != "none"]


def protocol(signal: str) -> str:
    """Return http/protobuf or grpc; http/protobuf for any other value."""
    value = of_signal(signal, "PROTOCOL").strip().lower()
    return value if value in PROTOCOLS else PROTOCOLS[0]


def endpoint(signal: str) -> str:
    """Return the address to which a signal is sent, in a form for people."""
    port = 4317 if protocol(signal) == "grpc" else 4318
    return address(of_signal(signal, "ENDPOINT") or f"http://localhost:{port}")


def exporters(signal: str, health: CollectorHealth, drops: Drops, *, owner: int) -> list[Any]:
    """Return the watched exporters of a signal. Raises what an exporter raises for a variable that it cannot read.

    Args:
        owner: pid of the only process that may send metrics, see `watched`.
    """
    made = []
    for name in wanted(signal):
        if name == "console":
            made.append(_class(*_CONSOLE[signal])())
        else:
            exporter = otlp(signal)
            made.append(watched(exporter, signal, endpoint=endpoint(signal), health=health, drops=drops, owner=owner))
    return made


def otlp(signal: str) -> Any:
    """Return the SDK's exporter of a signal. Raises what it raises for a variable that it cannot read."""
    make = _class(*_MODULES[signal, protocol(signal)])
    if protocol(signal) != "grpc":
        exchange = importlib.import_module("framework.telemetry.export.exchange")
        session = exchange.session_of(signal)
        exporter = make(session=session)
        exporter.leave = partial(exchange.leave, session)
        return exporter
    options: dict[str, Any] = {"channel_options": GRPC_OPTIONS}
    if of_signal(signal, "COMPRESSION").strip().lower() in ("none", "deflate"):
        # The specification allows "none", but the SDK's grpc exporters refuse both.
        options["compression"] = importlib.import_module("grpc").Compression.NoCompression
    exporter = make(**options)
    # A RetryInfo may ask for no pause at all. The SDK waits for this event between two tries; there is no other hook.
    exporter._shutdown_in_progress = Patient()
    return exporter


class Patient(threading.Event):
    """An event on which every wait lasts within the limits, whatever the caller asks for."""

    def wait(self, timeout: float | None = None) -> bool:
        return super().wait(min(LONGEST, max(SHORTEST, timeout or 0.0)))


def complaints() -> list[str]:
    """Return a line for each variable with an unusable value."""
    environment.settle()
    lines = environment.lines()
    for signal, default in DEFAULTS.items():
        variable = f"OTEL_{signal.upper()}_EXPORTER"
        unknown = [name for name in _listed(os.environ.get(variable) or default) if name not in KNOWN]
        if unknown:
            lines.append(f"{variable}={','.join(unknown)!r} is not known here and ignored: use otlp, console or none")
    for variable in ("PROTOCOL", "TRACES_PROTOCOL", "METRICS_PROTOCOL", "LOGS_PROTOCOL"):
        value = os.environ.get(f"OTEL_EXPORTER_OTLP_{variable}", "").strip()
        if value and value.lower() not in PROTOCOLS:
            known = " or ".join(PROTOCOLS)
            lines.append(f"OTEL_EXPORTER_OTLP_{variable}={value!r}: use {known}; http/protobuf is used now")
    return lines


def preload() -> None:
    """Import what children will need, so that they find it in memory after the fork. Starts no thread.

    grpc is not imported: its library must not be in use in a process that forks.
    """
    for signal in DEFAULTS:
        if "otlp" in wanted(signal) and protocol(signal) != "grpc":
            importlib.import_module(_MODULES[signal, "http/protobuf"][0])
            importlib.import_module("framework.telemetry.export.exchange")


def _class(module: str, name: str) -> Any:
    return getattr(importlib.import_module(module), name)


def _listed(value: str) -> list[str]:
    return [name.strip().lower() for name in value.split(",") if name.strip()]


def of_signal(signal: str, name: str) -> str:
    """Return the value of an OTEL_EXPORTER_OTLP_* variable: the signal's own, else the common one, else empty."""
    prefix = "OTEL_EXPORTER_OTLP"
    return os.environ.get(f"{prefix}_{signal.upper()}_{name}") or os.environ.get(f"{prefix}_{name}") or ""
