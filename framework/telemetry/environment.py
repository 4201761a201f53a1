"""Checks of the OpenTelemetry variables: a value that the SDK cannot use is taken out of the environment first.

Each such variable gets one line that names it. Jobs never depend on telemetry. This module imports nothing of
OpenTelemetry, because some variables are read when its packages are first imported.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Callable, Iterable
from importlib.metadata import entry_points
from typing import Final
from urllib.parse import unquote, urlsplit

from framework.model.text.exceptions import describe
from framework.telemetry import config_file

# How a reason begins when no part of the value stays in force.
IGNORED: Final = ("is ignored", "cannot be followed")
# (why the value cannot be used, the part of it that stays in force); with an empty reason all of it stays.
Checked = tuple[str, str]
Check = Callable[[str], Checked]

OTLP: Final = "OTEL_EXPORTER_OTLP_"
SIGNALS: Final = ("TRACES", "METRICS", "LOGS")
SAMPLERS: Final = (
    "always_on", "always_off", "traceidratio",
    "parentbased_always_on", "parentbased_always_off", "parentbased_traceidratio",
)  # fmt: skip
# The API reads these at its first use, so also in a process that is not started by the framework.
OF_API: Final = (
    "OTEL_PYTHON_CONTEXT", "OTEL_PROPAGATORS",
    "OTEL_PYTHON_TRACER_PROVIDER", "OTEL_PYTHON_METER_PROVIDER", "OTEL_PYTHON_LOGGER_PROVIDER",
)  # fmt: skip
_CODES: Final = (
    "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
    "PERMISSION_DENIED", "UNAUTHENTICATED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE",
    "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS",
)  # fmt: skip
_MOST: Final = 2**31 - 1
_MOST_MILLISECONDS: Final = 10**9  # eleven days; a thread cannot wait much longer
_LONGEST_NAME: Final = 1024
_LONGEST_TIMEOUT: Final = 600  # seconds
_PROPAGATE: Final = "opentelemetry.propagate"
_HEADER: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


def settle(names: Iterable[str] | None = None) -> dict[str, str]:
    """Take every value that cannot be used out of the environment of this process and of those it starts.

    Args:
        names: check only these variables; None: check all known ones.

    Returns:
        By name, why each variable is ignored or used only in part; every call returns all of them again.
    """
    environ = os.environ
    if names is None and environ.get(config_file.FILE, "").strip() and not _is_instrumented():
        _follow(environ.pop(config_file.FILE))
    for name in CHECKS if names is None else names:
        value = environ.get(name)
        if value is None:
            continue
        # A blank value counts as not set, but the SDK would read it.
        why, kept = _checked(name, value) if value.strip() else ("", "")
        if kept != value:
            _given.setdefault(name, value)
        if kept:
            environ[name] = kept
        else:
            environ.pop(name, None)
        if why:
            _said[name] = _shown(name, value), why
    if names is None:
        for kind in ("BSP", "BLRP"):
            _fit_batch(kind)
        global _settled
        _settled = _variables()
    return {name: why for name, (_, why) in _said.items()}


def _is_instrumented() -> bool:
    """Return whether the SDK has read the file already: with opentelemetry-instrument."""
    if "opentelemetry.sdk" not in sys.modules:
        return False
    settle(OF_API)  # asking for a provider reads these
    return bool(importlib.import_module("framework.telemetry.sdk.instrumented").has_provider())


def _follow(path: str) -> None:
    """Let the variables that a configuration file means take the place of all others, as the specification says."""
    _given.setdefault(config_file.FILE, path)
    try:
        found, left = config_file.read(path.strip())
    except ValueError as error:
        _said[config_file.FILE] = _shown(config_file.FILE, path), f"is ignored: {error}"
        return
    for name in [name for name in CHECKS if name in os.environ and not name.startswith("OTEL_SEMCONV_")]:
        ignore(name, f"{config_file.FILE} takes its place")
    os.environ.update(found)
    if left:
        what = f"is followed, but for {', '.join(left)}, which no variable can say"
        _said[config_file.FILE] = _shown(config_file.FILE, path), what


def lines() -> list[str]:
    """Return a line for each variable that `settle` found wrong."""
    return [f"{name}{shown} {why}" for name, (shown, why) in _said.items()]


def ignore(name: str, why: str) -> None:
    """Take a variable out of the environment. `why` is the reason in the line that names it."""
    value = os.environ.pop(name)
    _given.setdefault(name, value)
    _said[name] = _shown(name, value), f"is ignored: {why}"


def given() -> dict[str, str]:
    """Return the environment as it was before this module took anything out of it."""
    return {**os.environ, **_given}


def is_settled() -> bool:
    """Return whether `settle` has checked all these values, in this process or in the one that it was forked from."""
    return _settled == _variables()


def _variables() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith("OTEL_")}


_settled: dict[str, str] | None = None
_given: dict[str, str] = {}
_said: dict[str, tuple[str, str]] = {}  # by name: the part of the value that may be shown, and why it cannot be used


def _checked(name: str, value: str) -> Checked:
    if not _is_text(value) and not name.endswith(_FILES):
        return "is ignored: it is not UTF-8", ""
    try:
        return CHECKS[name](value.strip())
    except Exception as error:  # a value at which even its check fails
        return f"is ignored: {type(error).__name__}", ""


def _shown(name: str, value: str) -> str:
    """Return the value for a line; empty where it may contain a secret."""
    if name.startswith(OTLP) and name.endswith(("_HEADERS", "_ENDPOINT")):
        return ""
    return f"={value[:100] + '…' if len(value) > 100 else value!r}" if _is_text(value) else ""


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _fit_batch(kind: str) -> None:
    """Limit the batch size to the queue size: the SDK refuses a larger one, even when only the queue size was given."""
    environ = os.environ
    size, queue = f"OTEL_{kind}_MAX_EXPORT_BATCH_SIZE", f"OTEL_{kind}_MAX_QUEUE_SIZE"
    most = int(environ.get(queue) or 2048)
    if int(environ.get(size) or 512) <= most:
        return
    if size in environ:
        _said[size] = f"={environ[size]!r}", f"is ignored: it is more than {queue}, {most} is used"
    environ[size] = str(most)


# --- checks ---------------------------------------------------------------------------------------------------------


def _whole(least: int, most: int) -> Check:
    def check(value: str) -> Checked:
        try:
            number = int(value)
        except ValueError:
            return "is ignored: no whole number", ""
        if least <= number <= most:
            return "", value
        return f"is ignored: it must be {least} to {most}", ""

    return check


def _number(least: float, most: float, *, above: bool = False) -> Check:
    """Return a check for a number between two bounds. `above`: `least` itself is too small."""

    def check(value: str) -> Checked:
        try:
            number = float(value)
        except ValueError:
            return "is ignored: no number", ""
        if least <= number <= most and not (above and number == least):  # false for NaN
            return "", value
        return f"is ignored: it must be {'above' if above else 'from'} {least:g} to {most:g}", ""

    return check


def _seconds(value: str) -> Checked:
    """Check a timeout in seconds.

    The specification uses milliseconds: 10000, read as seconds, would block a signal for hours at a silent collector.
    """
    problem, kept = _number(0, _LONGEST_TIMEOUT, above=True)(value)
    return problem and f"{problem} seconds, as the SDK for Python reads it (milliseconds were meant?)", kept


def _one_of(*known: str) -> Check:
    """Return a check for a fixed set of values. It writes them in lower case, because the SDK requires it for some."""

    def check(value: str) -> Checked:
        if value.lower() in known:
            return "", value.lower()
        return f"is ignored: use {', '.join(known[:-1])} or {known[-1]}", ""

    return check


def _codes(value: str) -> Checked:
    unknown = [code.strip() for code in value.split(",") if code.strip().upper() not in ("", *_CODES)]
    return (f"is ignored: {unknown[0]!r} is no code of gRPC", "") if unknown else ("", value)


def _any(value: str) -> Checked:
    return "", value


def _short(value: str) -> Checked:
    too_long = len(value.encode()) > _LONGEST_NAME
    return (f"is ignored: longer than {_LONGEST_NAME} bytes", "") if too_long else ("", value)


def _address(value: str) -> Checked:
    """Check an address. The error's text is not repeated, because it may contain a part of the password."""
    bad = ("is ignored: it is no address", "")
    try:
        parts = urlsplit(value if "//" in value else f"//{value}")
        host, _ = parts.hostname, parts.port
    except ValueError:
        return bad
    if not host:
        return ("", value) if parts.scheme not in ("", "http", "https") else bad
    return bad if len(host) > 253 or " " in value or not value.isprintable() else ("", value)


def _headers(value: str) -> Checked:
    """Remove parts that no request can carry: each request would fail, or the part would be logged as it is."""
    parts = [part.strip() for part in value.split(",") if part.strip()]
    kept = [part for part in parts if _is_header(part)]
    lost = len(parts) - len(kept)
    return (f"has {lost} of {len(parts)} parts that are no header (name=value): left out" if lost else ""), ",".join(
        kept
    )


def _is_header(part: str) -> bool:
    name, sign, value = part.partition("=")
    found = unquote(value.strip())
    return bool(sign) and bool(_HEADER.fullmatch(unquote(name).strip())) and found.isascii() and found.isprintable()


def _attributes(value: str) -> Checked:
    parts = [part for part in value.split(",") if part.strip()]
    kept = [part for part in parts if part.partition("=")[1] and part.partition("=")[0].strip()]
    lost = len(parts) - len(kept)
    return (f"has {lost} of {len(parts)} parts without key=value: left out" if lost else ""), ",".join(kept)


def _file(value: str) -> Checked:
    """Check that a file can be read. The value stays in force: no other certificate may replace it."""
    try:
        with open(value, "rb"):
            return "", value
    except (OSError, ValueError) as error:
        return f"cannot be read ({getattr(error, 'strerror', None) or 'no path'}): what needs it is not sent", value


def _installed(group: str) -> Check:
    def check(value: str) -> Checked:
        return ("", value) if entry_points(group=group, name=value) else (f"is ignored: no {group} of that name", "")

    return check


def _detectors(value: str) -> Checked:
    names = [name.strip() for name in value.split(",") if name.strip()]
    group = "opentelemetry_resource_detector"
    lost = [name for name in names if name not in ("*", "otel") and not entry_points(group=group, name=name)]
    kept = ",".join(name for name in names if name not in lost)
    return (f"names {', '.join(lost)}, which is not installed: left out" if lost else ""), kept


def _propagators(value: str) -> Checked:
    """Check the propagators. The first import of `opentelemetry.propagate` reads them and fails at an unknown name."""
    try:
        importlib.import_module(_PROPAGATE)
    except (Exception, SystemExit) as error:
        del os.environ["OTEL_PROPAGATORS"]
        importlib.import_module(_PROPAGATE)
        return f"cannot be followed ({describe(error)[0][:200]}): tracecontext and baggage are used", ""
    return "", value


def _sampler(value: str) -> Checked:
    """Check the sampler. opentelemetry-instrument can load an installed one, so its name stays in force."""
    if entry_points(group="opentelemetry_traces_sampler", name=value):
        return "", value
    return _one_of(*SAMPLERS)(value)


def _argument(value: str) -> Checked:
    sampler = os.environ.get("OTEL_TRACES_SAMPLER", "").strip().lower()
    return ("", value) if sampler and sampler not in SAMPLERS else _number(0, 1)(value)


def _exceptions(value: str) -> Checked:
    """Check where exceptions are to go: they must not be lost because no log record is sent."""
    if not {"logs", "logs/dup"} & {part.strip().lower() for part in value.split(",")}:
        return "is ignored: use logs or logs/dup", ""
    if os.environ.get("OTEL_LOGS_EXPORTER", "").strip().lower() in ("", "none"):
        return "is ignored: logs are not sent, so exceptions stay on their spans; set OTEL_LOGS_EXPORTER=otlp", ""
    return "", value


_FILES: Final = ("_CERTIFICATE", "_CLIENT_KEY")


def _checks() -> dict[str, Check]:
    """Return the checks by variable, in the order in which they must run: the API's variables first."""
    group = "opentelemetry_otlp_credential_provider"
    found: dict[str, Check] = {"OTEL_PYTHON_CONTEXT": _installed("opentelemetry_context")}
    for kind in ("tracer", "meter", "logger"):
        found[f"OTEL_PYTHON_{kind.upper()}_PROVIDER"] = _installed(f"opentelemetry_{kind}_provider")
    found["OTEL_PROPAGATORS"] = _propagators
    found |= {"OTEL_SDK_DISABLED": _one_of("true", "false"), "OTEL_SERVICE_NAME": _short}
    found |= {"OTEL_RESOURCE_ATTRIBUTES": _attributes, "OTEL_EXPERIMENTAL_RESOURCE_DETECTORS": _detectors}
    for option, check in _OF_OTLP.items():
        found |= {f"{OTLP}{signal}{option}": check for signal in ("", *(f"{name}_" for name in SIGNALS))}
    for protocol in ("GRPC", "HTTP"):
        for signal in ("", *(f"{name}_" for name in SIGNALS)):
            found[f"OTEL_PYTHON_EXPORTER_OTLP_{protocol}_{signal}CREDENTIAL_PROVIDER"] = _installed(group)
    found |= {name: _whole(0, _MOST) for name in _LIMITS}
    for kind in ("BSP", "BLRP"):
        found |= {f"OTEL_{kind}_{name}": _whole(1, _MOST) for name in ("MAX_QUEUE_SIZE", "MAX_EXPORT_BATCH_SIZE")}
        found |= {f"OTEL_{kind}_{name}": _whole(1, _MOST_MILLISECONDS) for name in ("SCHEDULE_DELAY", "EXPORT_TIMEOUT")}
    return found | _OTHERS


_LIMITS: Final = (
    "OTEL_ATTRIBUTE_COUNT_LIMIT", "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT",
    "OTEL_LINK_ATTRIBUTE_COUNT_LIMIT", "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT",
    "OTEL_SPAN_EVENT_COUNT_LIMIT", "OTEL_SPAN_LINK_COUNT_LIMIT",
    "OTEL_LOGRECORD_ATTRIBUTE_COUNT_LIMIT", "OTEL_LOGRECORD_ATTRIBUTE_VALUE_LENGTH_LIMIT",
)  # fmt: skip
_OF_OTLP: Final[dict[str, Check]] = {
    "ENDPOINT": _address,
    "HEADERS": _headers,
    "TIMEOUT": _seconds,
    "COMPRESSION": _one_of("gzip", "deflate", "none"),
    "INSECURE": _one_of("true", "false"),
    "CERTIFICATE": _file,
    "CLIENT_CERTIFICATE": _file,
    "CLIENT_KEY": _file,
    "PROTOCOL": _any,  # `exporters.complaints` checks it
}
_OTHERS: Final[dict[str, Check]] = {
    config_file.FILE: _any,  # `settle` has taken it out, where it can be used
    "OTEL_TRACES_EXPORTER": _any,
    "OTEL_METRICS_EXPORTER": _any,
    "OTEL_LOGS_EXPORTER": _any,
    "OTEL_TRACES_SAMPLER": _sampler,
    "OTEL_TRACES_SAMPLER_ARG": _argument,
    "OTEL_METRIC_EXPORT_INTERVAL": _number(0, _MOST_MILLISECONDS, above=True),
    "OTEL_METRIC_EXPORT_TIMEOUT": _number(0, _MOST_MILLISECONDS, above=True),
    "OTEL_METRICS_EXEMPLAR_FILTER": _one_of("always_on", "always_off", "trace_based"),
    f"{OTLP}METRICS_TEMPORALITY_PREFERENCE": _one_of("cumulative", "delta", "lowmemory"),
    f"{OTLP}METRICS_DEFAULT_HISTOGRAM_AGGREGATION": _one_of(
        "explicit_bucket_histogram", "base2_exponential_bucket_histogram"
    ),
    "OTEL_SEMCONV_STABILITY_OPT_IN": _any,  # other libraries' categories stand in it as well
    "OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN": _exceptions,
    "OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED": _one_of("true", "false"),
    "OTEL_PYTHON_EXPORTER_OTLP_GRPC_RETRYABLE_ERROR_CODES": _codes,
}
CHECKS: Final = _checks()
