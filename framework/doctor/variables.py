"""The telemetry variables that are in force, and those that are set without effect, for `worker doctor`.

Secrets stay hidden: values of headers, credentials in addresses, and the value of any unknown variable.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from framework.model.text.redaction import HIDDEN, address
from framework.service.settings import PREFIX, unknown_variables
from framework.telemetry.environment import CHECKS, IGNORED, SAMPLERS
from framework.telemetry.export.health import SIGNALS
from framework.telemetry.sdk import exporters

_OTLP: Final = "OTEL_EXPORTER_OTLP_"
_OF_OTLP: Final = (
    "ENDPOINT", "PROTOCOL", "HEADERS", "TIMEOUT", "COMPRESSION", "INSECURE", "CERTIFICATE", "CLIENT_CERTIFICATE",
    "CLIENT_KEY",
)  # fmt: skip
_TLS: Final = ("CERTIFICATE", "CLIENT_CERTIFICATE", "CLIENT_KEY")
# Only the SDK's private configurator reads these, and only opentelemetry-instrument starts it.
_INSTRUMENT_ONLY: Final = (
    "OTEL_CONFIG_FILE", "OTEL_LOG_LEVEL", "OTEL_PYTHON_CONFIGURATOR", "OTEL_PYTHON_DISTRO", "OTEL_PYTHON_ID_GENERATOR",
    "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS", "OTEL_PYTHON_LOGGING_AUTO_INSTRUMENTATION_ENABLED",
    "OTEL_PYTHON_LOGGER_CONFIGURATOR", "OTEL_PYTHON_METER_CONFIGURATOR", "OTEL_PYTHON_TRACER_CONFIGURATOR",
)  # fmt: skip
_OURS: Final = ("LOG_LEVEL", "LOG_FORMAT", "TELEMETRY_FLUSH", "TRACE_LINKAGE", "TRACE_PARENT_WITHIN")


def _about(name: str) -> tuple[str, ...]:
    """Return the signals that a variable affects; empty = all."""
    if name.endswith("_EXPORTER") or name.startswith("OTEL_PYTHON_SDK_"):
        return ()
    if name.startswith(("OTEL_BLRP_", "OTEL_LOGRECORD_")) or "_LOGS_" in name:
        return ("logs",)
    if name.startswith("OTEL_METRIC_") or "_METRICS_" in name:
        return ("metrics",)
    return ("traces",) if name.startswith("OTEL_BSP_") or "_TRACES_" in name or name.endswith("_LIMIT") else ()


# Every OpenTelemetry variable that some code here reads.
KNOWN: Final = {name: _about(name) for name in (*CHECKS, *_INSTRUMENT_ONLY)}


@dataclass(frozen=True)
class Variable:
    """A variable that is set.

    Attributes:
        value: the value to show; its secret parts are hidden.
        ignored: why it has no effect, and what to do; empty = it is in force.
        note: another fact about it.
    """

    name: str
    value: str
    ignored: str = ""
    note: str = ""


def variables(
    environ: Mapping[str, str], *, instrumented: bool = False, settled: Mapping[str, str] | None = None
) -> list[Variable]:
    """Return all telemetry variables that are set, and WORKER_* variables without effect, by name.

    Args:
        environ: the environment that `framework.telemetry.sdk.exporters` also reads.
        instrumented: opentelemetry-instrument has configured this process.
        settled: by name, why a variable is not used, see `environment.settle`.
    """
    off = environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    found = []
    for name in sorted(environ):
        why = (settled or {}).get(name, "")
        if why and not off:
            ignored = why.removeprefix("is ignored: ") if why.startswith(IGNORED) else ""
            found.append(Variable(name, shown(name, environ[name]), ignored, "" if ignored else why))
        elif name.startswith("OTEL_"):
            found.append(_of_opentelemetry(name, environ, off=off, instrumented=instrumented))
        elif name.removeprefix(PREFIX) in _OURS and name.startswith(PREFIX):
            tracing = off and name.startswith(f"{PREFIX}TRACE_")
            found.append(Variable(name, environ[name], "OTEL_SDK_DISABLED=true: there are no spans" if tracing else ""))
    for line in unknown_variables(environ):
        name, _, why = line.partition(" is set, but ")
        found.append(Variable(name, HIDDEN, why))
    return sorted(found, key=lambda variable: (bool(variable.ignored), variable.name))


def shown(name: str, value: str) -> str:
    """Return a value without its secret parts."""
    if name not in KNOWN:
        return HIDDEN
    if name.endswith("_HEADERS"):
        pairs = [part.partition("=") for part in value.split(",") if part.strip()]
        return ",".join(f"{key.strip()}={HIDDEN}" if sign else HIDDEN for key, sign, _ in pairs)
    if name.endswith("_ENDPOINT"):
        return address(value)
    return value


def _of_opentelemetry(name: str, environ: Mapping[str, str], *, off: bool, instrumented: bool) -> Variable:
    value = environ[name]
    why = _ignored(name, value.strip(), environ, off=off, instrumented=instrumented)
    return Variable(name, shown(name, value), why, "" if why else _note(name, value.strip(), environ))


def _ignored(name: str, value: str, environ: Mapping[str, str], *, off: bool, instrumented: bool) -> str:
    if name not in KNOWN:
        return _unknown(name, instrumented=instrumented)
    if not value:
        return "empty counts as not set"
    if name == "OTEL_SDK_DISABLED":
        return "" if value.lower() in ("true", "false") else "only true turns telemetry off"
    if off:
        return "OTEL_SDK_DISABLED=true turns everything off"
    if name in _INSTRUMENT_ONLY and not instrumented:
        if name == "OTEL_LOG_LEVEL":
            return "nothing reads it here; use WORKER_LOG_LEVEL"
        return "only opentelemetry-instrument reads it: opentelemetry-instrument worker run MODULE"
    about = KNOWN[name]
    if about and not any(exporters.wanted(signal) for signal in about):
        return f"OTEL_{about[0].upper()}_EXPORTER={_exporter(about[0], environ)}: that signal is off"
    for rule in _RULES:
        why = rule(name, value, environ)
        if why:
            return why
    return ""


def _unknown(name: str, *, instrumented: bool) -> str:
    if name.startswith(("OTEL_EXPORTER_ZIPKIN_", "OTEL_EXPORTER_PROMETHEUS_", "OTEL_EXPORTER_JAEGER_")):
        return "that exporter is not known here; use OTLP, which a collector turns into anything"
    near = difflib.get_close_matches(name, KNOWN, n=1, cutoff=0.8)
    if near:
        return f"nothing reads it; did you mean {near[0]}?"
    if name.startswith(("OTEL_PYTHON_", "OTEL_INSTRUMENTATION_", "OTEL_SEMCONV_")):
        return "" if instrumented else "only instrumentation packages read it, and none is started here"
    return "nothing reads it"


def _exporter(signal: str, environ: Mapping[str, str]) -> str:
    return environ.get(f"OTEL_{signal.upper()}_EXPORTER") or exporters.DEFAULTS[signal]


# --- rules: why a known variable has no effect all the same; empty = it has one --------------------------------------


def _exporters_known(name: str, value: str, _: Mapping[str, str]) -> str:
    if name not in {f"OTEL_{signal.upper()}_EXPORTER" for signal in SIGNALS}:
        return ""
    given = [part.strip().lower() for part in value.split(",") if part.strip()]
    unknown = [part for part in given if part not in exporters.KNOWN]
    if not unknown:
        return ""
    rest = ": that signal is off" if len(unknown) == len(given) else ""
    return f"{', '.join(unknown)} is not known here{rest}; use otlp, console or none"


def _protocol_known(name: str, value: str, _: Mapping[str, str]) -> str:
    if name.endswith("_PROTOCOL") and value.lower() not in exporters.PROTOCOLS:
        return f"use {' or '.join(exporters.PROTOCOLS)}; {exporters.PROTOCOLS[0]} is used now"
    return ""


def _sent_by_otlp(name: str, _value: str, environ: Mapping[str, str]) -> str:
    signals = _signals_of(name)
    if signals and not any("otlp" in exporters.wanted(signal) for signal in signals):
        return "no signal is sent by OTLP" if len(signals) > 1 else f"{signals[0]} are not sent by OTLP"
    return ""


def _overridden(name: str, _value: str, environ: Mapping[str, str]) -> str:
    option = name.removeprefix(_OTLP)
    if not name.startswith(_OTLP) or option not in _OF_OTLP:
        return ""
    sent = [signal for signal in SIGNALS if "otlp" in exporters.wanted(signal)]
    over = [f"{_OTLP}{signal.upper()}_{option}" for signal in sent]
    if sent and all(environ.get(other) for other in over):
        return f"{' and '.join(over)} {'take' if len(over) > 1 else 'takes'} its place"
    return ""


def _of_protocol(name: str, value: str, environ: Mapping[str, str]) -> str:
    signals = [signal for signal in _signals_of(name) if "otlp" in exporters.wanted(signal)]
    if name.endswith("_INSECURE"):
        if all(exporters.protocol(signal) != "grpc" for signal in signals):
            return "only grpc reads it; over http the endpoint says http:// or https://"
        if value.lower() not in ("true", "false"):
            return "write true or false"
        if all(exporters.endpoint(signal).startswith("https:") for signal in signals):
            return "the endpoint says https://"
    if name.endswith(_TLS) and all(_is_plain(signal, environ) for signal in signals):
        return "the endpoint says http://, so nothing is encrypted"
    return ""


def _sampling(name: str, value: str, environ: Mapping[str, str]) -> str:
    sampler = environ.get("OTEL_TRACES_SAMPLER", "").strip().lower()
    if name == "OTEL_TRACES_SAMPLER_ARG":
        if "ratio" not in sampler and (not sampler or sampler in SAMPLERS):
            return f"OTEL_TRACES_SAMPLER={sampler or 'parentbased_always_on'} takes no argument"
        if sampler in SAMPLERS and not _is_number(value):
            return "no number: every trace is kept"
    return ""


_RULES: Final[tuple[Callable[[str, str, Mapping[str, str]], str], ...]] = (
    _exporters_known, _protocol_known, _sent_by_otlp, _overridden, _of_protocol, _sampling,
)  # fmt: skip


def _signals_of(name: str) -> tuple[str, ...]:
    """Return the signals that an OTEL_EXPORTER_OTLP_* variable affects; none for any other variable."""
    return (KNOWN[name] or SIGNALS) if name.startswith(_OTLP) else ()


def _is_plain(signal: str, environ: Mapping[str, str]) -> bool:
    where = exporters.endpoint(signal)
    if where.startswith("https:"):
        return False
    own = environ.get(f"{_OTLP}{signal.upper()}_INSECURE") or environ.get(f"{_OTLP}INSECURE") or ""
    return where.startswith("http:") and not (exporters.protocol(signal) == "grpc" and own.strip().lower() == "false")


# --- notes ----------------------------------------------------------------------------------------------------------


def _note(name: str, value: str, environ: Mapping[str, str]) -> str:
    if name.startswith(_OTLP):
        return _note_of_sending(name, value, environ)
    if name == "OTEL_TRACES_SAMPLER" and value.lower() not in SAMPLERS:
        return "not one of the SDK's own: if it is not installed, parentbased_always_on is used"
    if name == "OTEL_RESOURCE_ATTRIBUTES":
        lost = [part for part in value.split(",") if part.strip() and "=" not in part]
        if lost:
            return f"{len(lost)} of its parts without = are left out"
        if "service.name=" in value and environ.get("OTEL_SERVICE_NAME"):
            return "OTEL_SERVICE_NAME takes the place of its service.name"
    return ""


def _note_of_sending(name: str, value: str, environ: Mapping[str, str]) -> str:
    over_http = [signal for signal in _signals_of(name) if exporters.protocol(signal) != "grpc"]
    if name.endswith("_TIMEOUT") and not _is_number(value):
        return "no number: what is sent so stays off"
    if name.endswith("_CERTIFICATE") and not name.endswith("_CLIENT_CERTIFICATE") and over_http:
        other = next((other for other in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE") if environ.get(other)), "")
        if other:
            return f"{other} is set: requests takes it instead in what the SDK sends; unset it for the service"
    with_path = urlsplit(value).path.rstrip("/").endswith(tuple(f"/v1/{signal}" for signal in SIGNALS))
    if name == f"{_OTLP}ENDPOINT" and over_http and with_path:
        return f"the base is wanted: /v1/{over_http[0]} is appended"
    if name.endswith("_HEADERS") and any("=" not in part for part in value.split(",") if part.strip()):
        return "parts without = are left out"
    return ""


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
