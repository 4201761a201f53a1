"""The identity of the process that emits telemetry. It is known before OpenTelemetry is imported."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Role = Literal["worker", "maintenance", "hooks", "exporter", "supervisor"]


@dataclass(frozen=True)
class ProcessIdentity:
    """The identity of one process in its tree.

    Attributes:
        app: the service's name; `service.name` unless the environment names another.
        role: what the process does.
        slot: the slot that the process fills, such as `deliveries/0`; its replacement has the same.
        instance: number of the supervisor among those that share a store.
        system: `messaging.system`, the engine's name, such as `spool`.
    """

    app: str
    role: Role
    slot: str
    instance: int
    system: str
