"""Who emits: the identity of a process. Known before OpenTelemetry is imported."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Role = Literal["worker", "maintenance", "hooks", "exporter", "supervisor"]


@dataclass(frozen=True)
class ProcessIdentity:
    """Which process of the tree this is.

    Attributes:
        app: the service's name; `service.name` unless the environment names another.
        role: what the process does.
        slot: the place that it fills, `deliveries/0`; stable when the process is replaced.
        instance: number of the supervisor among those that share a store.
        system: `messaging.system`, the engine: `spool`.
    """

    app: str
    role: Role
    slot: str
    instance: int
    system: str
