"""The telemetry variables that are in force, and those that are set without effect, for `worker doctor`.

It knows the variables that this product reads or checks. Secrets stay hidden: values of headers, credentials in
addresses, and the value of any unknown variable.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from framework.model.text.redaction import HIDDEN, address
from framework.service.settings import PREFIX, unknown_variables
from framework.telemetry.environment import CHECKS as KNOWN
from framework.telemetry.environment import IGNORED, OTLP, SAMPLERS
from framework.telemetry.export.health import SIGNALS
from framework.telemetry.sdk import exporters

_OURS: Final = ("METRICS", "LOG_LEVEL", "LOG_FORMAT", "TELEMETRY_FLUSH", "TRACE_LINKAGE", "TRACE_PARENT_WITHIN")
_BUNDLES: Final = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
_PATHS: Final = tuple(f"/v1/{signal}" for signal in SIGNALS)


@dataclass(frozen=True)
class Variable:
    """A variable that is set, its value without secrets, why it has no effect, and another fact about it."""

    name: str
    value: str
    ignored: str = ""
    note: str = ""


def variables(environ: Mapping[str, str], *, settled: Mapping[str, str] | None = None) -> list[Variable]:
    """Return the telemetry variables that are set, and WORKER_* variables without effect: first those in force.

    Args:
        environ: the environment that `framework.telemetry.sdk.exporters` also reads.
        settled: by name, why a value cannot be used, see `environment.settle`.
    """
    found = []
    for name, value in environ.items():
        why = "" if exporters.is_disabled() else (settled or {}).get(name, "")
        ignored = note = ""
        if why.startswith(IGNORED):
            ignored = why.removeprefix("is ignored: ")
        elif name in KNOWN:
            given = name, value.strip(), environ
            ignored = "" if why else next((one for check in _CHECKS for one in check(*given)), "")
            note = why or ("" if ignored else next(_notes(*given), ""))
        elif name.startswith(PREFIX) and name.removeprefix(PREFIX) in _OURS:
            if exporters.is_disabled() and name.startswith(f"{PREFIX}TRACE_"):
                ignored = "OTEL_SDK_DISABLED=true: there are no spans"
        elif name.startswith("OTEL_") and (near := difflib.get_close_matches(name, KNOWN, n=1, cutoff=0.9)):
            ignored = f"nothing reads it; did you mean {near[0]}?"
        else:
            continue
        found.append(Variable(name, shown(name, value), ignored, note))
    for line in unknown_variables(environ):
        name, _, why = line.partition(" is set, but ")
        found.append(Variable(name, HIDDEN, why))
    return sorted(found, key=lambda variable: (bool(variable.ignored), variable.name))


def shown(name: str, value: str) -> str:
    """Return a value without its secret parts."""
    if name not in KNOWN and name.removeprefix(PREFIX) not in _OURS:
        return HIDDEN
    if name.endswith("_HEADERS"):
        pairs = [part.partition("=") for part in value.split(",") if part.strip()]
        return ",".join(f"{key.strip()}={HIDDEN}" if sign else HIDDEN for key, sign, _ in pairs)
    return address(value) if name.endswith("_ENDPOINT") else value


# --- checks, each of which yields why a variable has no effect; the first reason counts ------------------------------


def _is_off(name: str, value: str, environ: Mapping[str, str]) -> Iterator[str]:
    if not value:
        yield "empty counts as not set"
    if exporters.is_disabled() and name != "OTEL_SDK_DISABLED":
        yield "OTEL_SDK_DISABLED=true turns everything off"
    signal = _signal(name)
    if signal and not exporters.wanted(signal) and not name.endswith("_EXPORTER"):
        variable = f"OTEL_{signal.upper()}_EXPORTER"
        yield f"{variable}={environ.get(variable) or exporters.DEFAULTS[signal]}: that signal is off"


def _has_no_use(name: str, value: str, environ: Mapping[str, str]) -> Iterator[str]:
    names = [part.strip().lower() for part in value.split(",") if part.strip()]
    unknown = [part for part in names if part not in exporters.KNOWN]
    if name.endswith("_EXPORTER") and unknown:
        off = ": that signal is off" if len(unknown) == len(names) else ""
        yield f"{', '.join(unknown)} is not known here{off}; use otlp, console or none"
    if name.endswith("_PROTOCOL") and value.lower() not in exporters.PROTOCOLS:
        yield f"use {' or '.join(exporters.PROTOCOLS)}; {exporters.PROTOCOLS[0]} is used now"
    sampler = environ.get("OTEL_TRACES_SAMPLER", "").strip().lower() or "parentbased_always_on"
    if name == "OTEL_TRACES_SAMPLER_ARG" and "ratio" not in sampler and sampler in SAMPLERS:
        yield f"OTEL_TRACES_SAMPLER={sampler} takes no argument"


def _is_not_sent(name: str, _: str, environ: Mapping[str, str]) -> Iterator[str]:
    if not name.startswith(OTLP):
        return
    signal, sent = _signal(name), _sent(name)
    if not sent:
        yield f"{signal} are not sent by OTLP" if signal else "no signal is sent by OTLP"
    over = [f"{OTLP}{one.upper()}_{name.removeprefix(OTLP)}" for one in sent]
    if not signal and all(environ.get(other) for other in over):
        yield f"{' and '.join(over)} {'take' if len(over) > 1 else 'takes'} its place"
    if name.endswith("_INSECURE") and all(exporters.protocol(one) != "grpc" for one in sent):
        yield "only grpc reads it; over http the endpoint says http:// or https://"
    if name.endswith("_INSECURE") and all(exporters.endpoint(one).startswith("https:") for one in sent):
        yield "the endpoint says https://"
    plain = [one for one in sent if exporters.endpoint(one).startswith("http:")]
    tls = [one for one in plain if (exporters.protocol(one), exporters.of_signal(one, "INSECURE")) == ("grpc", "false")]
    if name.endswith(("_CERTIFICATE", "_CLIENT_KEY")) and plain == sent and not tls:
        yield "the endpoint says http://, so nothing is encrypted"


_CHECKS: Final = (_is_off, _has_no_use, _is_not_sent)


def _notes(name: str, value: str, environ: Mapping[str, str]) -> Iterator[str]:
    """Yield facts about a variable that is in force."""
    if name == "OTEL_RESOURCE_ATTRIBUTES" and "service.name=" in value and environ.get("OTEL_SERVICE_NAME"):
        yield "OTEL_SERVICE_NAME takes the place of its service.name"
    over_http = [signal for signal in _sent(name) if exporters.protocol(signal) != "grpc"]
    other = next((bundle for bundle in _BUNDLES if environ.get(bundle)), "")
    if name.endswith("_CERTIFICATE") and not name.endswith("_CLIENT_CERTIFICATE") and over_http and other:
        yield f"{other} is set: requests takes it instead in what the SDK sends; unset it for the service"
    if name == f"{OTLP}ENDPOINT" and over_http and urlsplit(value).path.rstrip("/").endswith(_PATHS):
        yield f"the base is wanted: /v1/{over_http[0]} is appended"


def _signal(name: str) -> str:
    """Return the only signal that a variable affects; empty = it affects all."""
    if name.startswith(("OTEL_BLRP_", "OTEL_LOGRECORD_")) or "_LOGS_" in name:
        return "logs"
    if name.startswith("OTEL_METRIC_") or "_METRICS_" in name:
        return "" if name.startswith("OTEL_PYTHON_SDK_") else "metrics"
    return "traces" if name.startswith("OTEL_BSP_") or "_TRACES_" in name or name.endswith("_LIMIT") else ""


def _sent(name: str) -> list[str]:
    """Return the signals that a variable affects and OTLP sends."""
    return [signal for signal in SIGNALS if _signal(name) in ("", signal) and "otlp" in exporters.wanted(signal)]
