"""The OpenTelemetry resource of a process, to which its series and spans are attributed."""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.version import __version__

from framework.telemetry import ProcessIdentity

_NAMESPACE = uuid.UUID("6f3c1f0e-52d1-5c0f-9a4f-6a1f2f0a6b11")


def resource_of(identity: ProcessIdentity, *, pid: int | None = None, host: str | None = None) -> Resource:
    """Return this process's resource. OTEL_RESOURCE_ATTRIBUTES adds service.namespace, service.version and the like.

    Args:
        identity: the process.
        pid, host: for tests; this process and this machine by default.
    """
    attributes: dict[str, Any] = {
        "process.pid": os.getpid() if pid is None else pid,
        **slot_resource(identity, host=host),
    }
    return Resource.create(attributes) if _detects() else Resource(attributes)


def slot_resource(identity: ProcessIdentity, *, host: str | None = None) -> dict[str, Any]:
    """Return the resource of a slot's series: the resource of its processes without the pid.

    Without detectors it is what `Resource.create` returns, made without its pool of threads and without objects of the
    SDK, because each worker needs it.
    """
    given = environment_attributes()
    known: dict[str, Any] = {"telemetry.sdk.language": "python", "telemetry.sdk.name": "opentelemetry"}
    known |= {"telemetry.sdk.version": __version__, **given}
    if _detects():
        known = {**Resource.create().attributes}
        known.pop("process.pid", None)
    known["service.name"] = os.environ.get("OTEL_SERVICE_NAME") or given.get("service.name") or identity.app
    known["service.instance.id"] = instance_id(identity, host=given.get("service.instance.id") or host)
    return known


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
