"""The OpenTelemetry resource of a process: what its series and spans are attributed to."""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Mapping
from functools import lru_cache
from urllib.parse import unquote

from opentelemetry.sdk.resources import Resource

from framework.telemetry.identity import ProcessIdentity

_TEXT = "OTEL_RESOURCE_ATTRIBUTES"
_NAMESPACE = uuid.UUID("6f3c1f0e-52d1-5c0f-9a4f-6a1f2f0a6b11")


def resource_of(identity: ProcessIdentity, *, pid: int | None = None, host: str | None = None) -> Resource:
    """The resource of this process; service.namespace, service.version and the like come from OTEL_RESOURCE_ATTRIBUTES.

    Args:
        identity: the process.
        pid, host: this process and this machine unless a test says otherwise.
    """
    given = environment_attributes()
    attributes: dict[str, str | int] = {
        "process.pid": os.getpid() if pid is None else pid,
        "service.instance.id": instance_id(identity, host=given.get("service.instance.id") or host),
    }
    # Code beats the variables in the SDK, so the name is passed only where no variable gives one.
    if not os.environ.get("OTEL_SERVICE_NAME") and not given.get("service.name"):
        attributes["service.name"] = identity.app
    return detect().merge(Resource(attributes))


def detect() -> Resource:
    """What the SDK finds out by itself. The supervisor asks for its children: it takes half a megabyte."""
    return _detected(tuple(sorted((name, value) for name, value in os.environ.items() if name.startswith("OTEL_"))))


@lru_cache(maxsize=1)
def _detected(environ: tuple[tuple[str, str], ...]) -> Resource:
    return Resource.create()


def instance_id(identity: ProcessIdentity, *, host: str | None = None) -> str:
    """`service.instance.id`: one per process, the same for each process that fills the slot, so a crash loop makes no
    new series.

    A value given by the environment (a pod's uid) takes the place of the host's name: all processes of the pod see the
    same value, and used as it stands it would make their series one.
    """
    parts = (host or socket.gethostname(), identity.app, str(identity.instance), identity.role, identity.slot)
    return str(uuid.uuid5(_NAMESPACE, "\0".join(parts)))


def environment_attributes(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """OTEL_RESOURCE_ATTRIBUTES as a mapping; malformed parts are left out (the SDK warns of them)."""
    text = (os.environ if environ is None else environ).get(_TEXT, "")
    pairs = (item.split("=", 1) for item in text.split(",") if "=" in item)
    return {key.strip(): unquote(value.strip()) for key, value in pairs}
