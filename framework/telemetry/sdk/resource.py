"""The OpenTelemetry resource of a process, to which its series and spans are attributed."""

from __future__ import annotations

import json
import os
import socket
import time
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from typing import Any, Final
from urllib.parse import unquote

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.version import __version__

from framework.process.scoreboard import process_start
from framework.telemetry import ProcessIdentity
from framework.telemetry.conventions import SCHEMA_URL
from framework.telemetry.names import DISTRIBUTION, version

INSTANCE: Final = "service.instance.id"
PID: Final = "process.pid"
CREATED: Final = "process.creation.time"
SDK: Final = ("telemetry.sdk.name", "telemetry.sdk.version")
_OF_PROCESS: Final = (PID, CREATED, *SDK)
_NAMESPACE = uuid.UUID("6f3c1f0e-52d1-5c0f-9a4f-6a1f2f0a6b11")


def resource_of(identity: ProcessIdentity, *, pid: int | None = None, host: str | None = None) -> Resource:
    """Return this process's resource. OTEL_RESOURCE_ATTRIBUTES adds service.namespace, service.version and the like.

    Args:
        identity: the process.
        pid, host: for tests; this process and this machine by default.
    """
    known, schema = _known(identity, host, ("opentelemetry", __version__))
    pid = os.getpid() if pid is None else pid
    return Resource({**known, **of_process(pid, created_at(pid))}, schema)


def ring_resource(identity: ProcessIdentity) -> tuple[dict[str, Any], str]:
    """Return the resource under which the exporter sends a slot's spans, but for `of_process`, and its schema URL."""
    return _known(identity, None, (DISTRIBUTION, version()))


def of_series(resource: Mapping[str, Any]) -> dict[str, Any]:
    """Return the resource of a slot's series, which outlive its processes: a pid would start new ones.

    Of one slot the exporter and the SDK send series. They need one resource, so it does not tell which of them sent.
    """
    return {key: value for key, value in resource.items() if key not in _OF_PROCESS}


def of_process(pid: int, created: int) -> dict[str, Any]:
    """Return the attributes of one process of a slot. `created`: ns since the epoch; 0: unknown."""
    if not created:
        return {PID: pid}
    moment = datetime.fromtimestamp(created / 1e9, UTC).isoformat(timespec="milliseconds")
    return {PID: pid, CREATED: moment.replace("+00:00", "Z")}


def about_of(resource: Mapping[str, Any], pid: int) -> bytes:
    """Return what a process says about itself for its rescuer: its resource but for what encodes the telemetry."""
    return json.dumps({**of_series(resource), **of_process(pid, created_at(pid))}).encode()


def attributes_of(about: bytes) -> dict[str, Any]:
    """Return the resource in what a dead process said about itself; empty: it is unknown."""
    try:
        found = json.loads(about) if about else {}
    except ValueError:  # of a later version
        return {}
    return found if isinstance(found, dict) and INSTANCE in found else {}


@cache
def created_at(pid: int) -> int:
    """Return when a process was created, in ns since the epoch; 0: unknown. Read once: the clock may change."""
    ticks = process_start(pid)
    if not ticks or not hasattr(time, "CLOCK_BOOTTIME"):
        return 0
    booted = time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    return booted + ticks * 1_000_000_000 // os.sysconf("SC_CLK_TCK")


def _known(identity: ProcessIdentity, host: str | None, sdk: tuple[str, str]) -> tuple[dict[str, Any], str]:
    """Return what the processes of a slot have in common, and the schema of it.

    Without detectors it is made without the SDK's pool of threads, because each worker needs it.

    Args:
        sdk: name and version of what encodes the telemetry.
    """
    given, schema = environment_attributes(), SCHEMA_URL
    known: dict[str, Any] = {"telemetry.sdk.language": "python", **dict(zip(SDK, sdk, strict=True))}
    known |= {"telemetry.distro.name": DISTRIBUTION, "telemetry.distro.version": version()}
    if _detects():
        found = Resource.create()
        known = {**found.attributes, **known}
        schema = found.schema_url or schema
    known |= given
    known["service.name"] = os.environ.get("OTEL_SERVICE_NAME") or given.get("service.name") or identity.app
    known[INSTANCE] = instance_id(identity, host=given.get(INSTANCE) or host)
    return {key: value for key, value in known.items() if value != "" and key not in (PID, CREATED)}, schema


def _detects() -> bool:
    return bool(os.environ.get("OTEL_EXPERIMENTAL_RESOURCE_DETECTORS", "").strip())


def instance_id(identity: ProcessIdentity, *, host: str | None = None) -> str:
    """Return `service.instance.id`: one per slot, the same for each process that fills it.

    So a crash loop makes no new series. A value from the environment (a pod's uid) replaces the host's name: all
    processes of the pod see the same value, and used directly it would merge their series.
    """
    parts = (host or socket.gethostname(), identity.app, str(identity.instance), identity.role, identity.slot)
    return str(uuid.uuid5(_NAMESPACE, "\0".join(parts)))


def environment_attributes(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return OTEL_RESOURCE_ATTRIBUTES as a mapping; malformed parts are left out (the SDK warns of them)."""
    text = (os.environ if environ is None else environ).get("OTEL_RESOURCE_ATTRIBUTES", "")
    pairs = (item.split("=", 1) for item in text.split(",") if "=" in item)
    return {key.strip(): unquote(value.strip()) for key, value in pairs}
