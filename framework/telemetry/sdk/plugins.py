"""Tests of the plugins that the environment names by entry points, each in a separate process first.

A plugin may raise, hang or end the process that loads it. The supervisor must neither wait for it nor keep a
half-loaded one in its memory.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import entry_points
from typing import Any, Final, TypeVar

from framework.telemetry.environment import ignore

T = TypeVar("T")

LIMIT: Final = 10.0  # seconds for all plugins
_GROUPS: Final = {
    "OTEL_PYTHON_CONTEXT": "opentelemetry_context",
    "OTEL_PYTHON_TRACER_PROVIDER": "opentelemetry_tracer_provider",
    "OTEL_PYTHON_METER_PROVIDER": "opentelemetry_meter_provider",
    "OTEL_PYTHON_LOGGER_PROVIDER": "opentelemetry_logger_provider",
    "OTEL_PROPAGATORS": "opentelemetry_propagator",
    "OTEL_EXPERIMENTAL_RESOURCE_DETECTORS": "opentelemetry_resource_detector",
}
_CREDENTIALS: Final = "opentelemetry_otlp_credential_provider"
# Names that the API and the SDK provide themselves.
_OWN: Final = frozenset({
    "contextvars_context", "default_tracer_provider", "default_meter_provider", "default_logger_provider",
    "tracecontext", "baggage", "none", "otel", "process", "os", "host", "service_instance",
})  # fmt: skip


def try_all(limit: float = LIMIT) -> None:
    """Take variables out of the environment whose plugin cannot be loaded and used.

    Call it before the first import of a module that reads them.
    """
    left = [name for name in _named() if not set(_values(name)) <= _OWN]
    while left:
        found = _asked(left, limit)
        for name, why in found.items():
            if why:
                ignore(name, why)
        silent = [name for name in left if name not in found]
        if silent:
            ignore(silent[0], f"it does not load within {limit:g} s, or ends the process that loads it")
        left = silent[1:]


def within(call: Callable[[], T], limit: float) -> T:
    """Make the call, in a process that the framework did not start. Raises TimeoutError, or what the call raises.

    A plugin that the environment names may hang: the call then runs in a thread, which is left after `limit` seconds.
    """
    if not any(set(_values(name)) - _OWN for name in _named()):
        return call()
    made: list[T] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            made.append(call())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run, name="opentelemetry", daemon=True)
    thread.start()
    thread.join(limit)
    if failed:
        raise failed[0]
    if not made:
        raise TimeoutError
    return made[0]


def _named() -> list[str]:
    credentials = [name for name in os.environ if name.endswith("_CREDENTIAL_PROVIDER")]
    return [name for name in (*_GROUPS, *credentials) if os.environ.get(name, "").strip()]


def _values(name: str) -> list[str]:
    return [value.strip() for value in os.environ.get(name, "").split(",") if value.strip()]


def _asked(names: list[str], limit: float) -> dict[str, str]:
    """Return, by variable, why it cannot be used, or an empty text; variables without a result are missing.

    The answer goes into a file, because a process that the plugin has started would keep a pipe open.
    """
    command = [sys.executable, "-c", "from framework.telemetry.sdk.plugins import main; main()", *names]
    with tempfile.TemporaryFile() as answer:
        environ = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        with subprocess.Popen(
            command, env=environ, stdin=subprocess.DEVNULL, stdout=answer, stderr=subprocess.DEVNULL
        ) as process:
            try:
                process.wait(limit)
            except subprocess.TimeoutExpired:
                process.kill()
        answer.seek(0)
        found = {}
        for line in answer.read().splitlines():
            with suppress(ValueError):  # the plugin has printed something
                name, why = json.loads(line)
                found[name] = why
    return found


def main() -> None:
    """Try the plugins; this runs in the separate process."""
    out = os.dup(1)
    os.dup2(2, 1)  # plugins may print
    for name in sys.argv[1:]:
        try:
            for value in _values(name):
                _try(name, value)
            why = ""
        except Exception as error:
            why = f"{type(error).__name__} in {os.environ[name][:100]!r}"
        os.write(out, json.dumps([name, why]).encode() + b"\n")
    os._exit(0)


def _try(name: str, value: str) -> None:
    """Load a plugin and make the first calls that telemetry makes."""
    if value == "*" or value in _OWN:
        return
    for entry in entry_points(group=_GROUPS.get(name, _CREDENTIALS), name=value):
        made: Any = entry.load()()
        if name == "OTEL_PROPAGATORS":
            made.inject({})
            made.extract({})
        elif name == "OTEL_EXPERIMENTAL_RESOURCE_DETECTORS":
            made.detect()
        elif name == "OTEL_PYTHON_CONTEXT":
            made.detach(made.attach(made.get_current()))
