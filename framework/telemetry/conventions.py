"""The OpenTelemetry semantic conventions that are emitted, and the two variables that choose between their versions.

All processes of a tree have the same environment, so each variable is read once.
"""

from __future__ import annotations

import os
from functools import cache
from typing import Final, Literal

from framework.telemetry import names

VERSION: Final = "1.45.0"
SCHEMA_URL: Final = f"https://opentelemetry.io/schemas/{VERSION}"  # of every scope and resource of ours
STABILITY: Final = "OTEL_SEMCONV_STABILITY_OPT_IN"
EXCEPTION_SIGNAL: Final = "OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN"
BOTH: Final = "messaging/dup"  # of STABILITY: the name before 1.45 as well
OLD_SYSTEM: Final = "messaging.system"

ExceptionSignal = Literal["events", "logs", "logs/dup"]


def scope() -> tuple[str, str, str]:
    """Return name, version and schema of the instrumentation scope, as `get_tracer` and `get_meter` take them."""
    return names.SCOPE, names.version(), SCHEMA_URL


def listed(value: str) -> list[str]:
    """Return the parts of a comma-separated list, in lower case."""
    return [part.strip().lower() for part in value.split(",") if part.strip()]


def emits_both() -> bool:
    """Return whether attributes that 1.45 renamed are emitted under both names."""
    return BOTH in listed(os.environ.get(STABILITY, ""))


@cache
def of_system(system: str) -> dict[str, str]:
    """Return the attributes that name the engine. The caller must not change them."""
    return {names.SYSTEM: system, OLD_SYSTEM: system} if emits_both() else {names.SYSTEM: system}


@cache
def exception_signal() -> ExceptionSignal:
    """Return where the exception of an attempt goes: an event of its span, a log record, or both."""
    wanted = listed(os.environ.get(EXCEPTION_SIGNAL, ""))
    return "logs/dup" if "logs/dup" in wanted else "logs" if "logs" in wanted else "events"
