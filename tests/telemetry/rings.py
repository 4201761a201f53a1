"""Parts of the ring's path for tests: rings, a worker's station that writes into one, an exporter by OTEL_*."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from framework.service.settings import Settings
from framework.telemetry import ProcessIdentity
from framework.telemetry.export.exporting import Exporter
from framework.telemetry.export.health import CollectorHealth, SharedState
from framework.telemetry.kinds import open_exporter
from framework.telemetry.logs.logs import Logs
from framework.telemetry.logs.writer import LineWriter
from framework.telemetry.ring import ring as ring_module
from framework.telemetry.ring.rings import Rings
from tests.telemetry.helpers import IDENTITY, Station, station

EXPORTER = ProcessIdentity(app="relay", role="exporter", slot="exporter", instance=0, system="spool")


def rings_in(place: Path, *slots: str, number: int = 0, mark: str = "m", capacity: int = ring_module.CAPACITY) -> Rings:
    """Rings under `place`, made."""
    run = place / "run"
    for directory in (run, place / "instances"):
        directory.mkdir(parents=True, exist_ok=True)
    rings = Rings(str(run), number, mark, slots or (IDENTITY.slot,))
    for slot in rings.slots:
        ring_module.create(rings.path(slot), capacity=capacity)
    return rings


def ring_station(place: Path, rings: Rings, *, identity: ProcessIdentity = IDENTITY, **settings: Any) -> Station:
    """Like `helpers.station`, but what it says of attempts goes into a ring."""
    name = f"out-{identity.slot.replace('/', '-')}-{len(list(place.glob('out-*')))}"
    return station(place, identity=identity, name=name, rings=rings, **settings)


@dataclass
class Post:
    """An exporter and what it says."""

    exporter: Exporter
    out: Path

    def flush(self, seconds: float = 10) -> None:
        """Folds and sends everything, and ends."""
        self.exporter.start()
        self.exporter.close(seconds)


def post(place: Path, rings: Rings) -> Post:
    """An exporter of these rings, as the environment says; not started."""
    out = place / "exporter.log"
    writer = LineWriter(os.open(out, os.O_CREAT | os.O_WRONLY | os.O_APPEND))
    logs = Logs(Settings(log_format="json"), writer, process="exporter")
    return Post(open_exporter(EXPORTER, rings, logs, CollectorHealth(SharedState(), logs.say)), out)
