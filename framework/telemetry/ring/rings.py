"""The location of a tree's rings, the test whether they suffice for the environment, and the lock of their reader."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Final
from urllib.parse import quote

from framework.engine.flocks import FileLock, locked
from framework.telemetry.conventions import SCHEMA_URL, STABILITY
from framework.telemetry.environment import SAMPLERS
from framework.telemetry.ring import ring
from framework.telemetry.sdk import exporters
from framework.telemetry.sdk.instrumented import has_provider

# The resource and the attributes of a ring's series depend on these: other values mean another ring.
_OF_RESOURCE: Final = (
    "OTEL_SERVICE_NAME",
    "OTEL_RESOURCE_ATTRIBUTES",
    "OTEL_EXPERIMENTAL_RESOURCE_DETECTORS",
    STABILITY,
)
# Variables that only the SDK's own exporters support, with the value that changes nothing.
_SDK_ONLY: Final = {
    "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": "cumulative",
    "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION": "explicit_bucket_histogram",
    "OTEL_METRICS_EXEMPLAR_FILTER": "trace_based",
    "OTEL_TRACES_SAMPLER": "parentbased_always_on",
}


@dataclass(frozen=True)
class Rings:
    """The rings of one tree.

    Attributes:
        run: the directory; all trees on a store share it.
        number: the instance's number.
        mark: identifies the resource of the series.
        slots: the slots that emit: workers and maintenance.
    """

    run: str
    number: int
    mark: str
    slots: tuple[str, ...]

    def path(self, slot: str) -> Path:
        """Return the path of a slot's ring."""
        return Path(self.run) / f"{self.number}.{quote(slot, safe='')}.{self.mark}.ring"

    def snapshot(self, slot: str) -> Path:
        """Return the path of what the SDK measures in a slot's process, for who scrapes it."""
        return snapshot_of(self.path(slot))


def snapshot_of(ring: Path) -> Path:
    return ring.with_suffix(".metrics")


def number_of(entry: str) -> int | None:
    """Return the number of the instance whose ring has this file name; None for other files."""
    first = entry.partition(".")[0]
    return int(first) if first.isdigit() else None


def unfit() -> str:
    """Return why the environment needs the SDK to send; empty: it does not."""
    if has_provider():
        return "a provider of OpenTelemetry was set before"
    for signal in ("traces", "metrics"):
        if "console" in exporters.wanted(signal):
            return f"OTEL_{signal.upper()}_EXPORTER=console"
    for name, plain in _SDK_ONLY.items():
        value = os.environ.get(name, "").strip().lower()
        known = SAMPLERS if name == "OTEL_TRACES_SAMPLER" else (plain,)
        if value and value not in known:
            return f"{name}={value}"
    providers = [name for name in os.environ if name.startswith("OTEL_PYTHON_EXPORTER_OTLP")]
    return providers[0] if providers else ""


def prepare(
    run: Path, number: int, *, app: str, system: str, slots: Sequence[str], scraped: bool = False
) -> tuple[Rings | None, str]:
    """Make the rings of a tree. The supervisor calls it before its first child; it makes no provider and no thread.

    Args:
        run: the directory of the board.
        slots: all slots that emit: workers and maintenance.
        scraped: the exporter is to serve metrics, too.

    Returns:
        (the rings, "") or (None, why the SDK must send from each process); (None, "") where there is nothing to send.
    """
    _remove_snapshots(run, number)
    if exporters.is_disabled():
        return None, "OTEL_SDK_DISABLED=true" if scraped else ""
    if not (exporters.wanted("traces") or exporters.wanted("metrics") or scraped):
        return None, ""
    reason = unfit()
    if reason:
        return None, reason
    parts = [app, system, socket.gethostname(), SCHEMA_URL, *(os.environ.get(name, "") for name in _OF_RESOURCE)]
    mark = blake2b("\0".join(parts).encode("utf-8", "replace"), digest_size=4).hexdigest()
    rings = Rings(str(run), number, mark, tuple(slots))
    new = [rings.path(slot) for slot in slots if not rings.path(slot).exists()]
    try:
        for slot in slots:
            ring.create(rings.path(slot))
    except OSError as error:
        for path in new:  # the others hold what the previous tree has not sent
            with suppress(OSError):
                os.unlink(path)
        return None, f"{run} cannot hold {len(slots)} rings of {ring.SIZE >> 20} MiB: {error.strerror or error}"
    return rings, ""


def _remove_snapshots(run: Path, number: int) -> None:
    """Remove what processes of the tree before measured, and what they had not finished writing: it is no news."""
    for pattern in (f"{number}.*.metrics", f".{number}.*.metrics*"):
        for path in run.glob(pattern):
            with suppress(OSError):
                path.unlink()


def known(rings: Rings, wanted: Mapping[str, float]) -> set[str]:
    """Return the span ids of those attempts that are in any ring on the store.

    Args:
        wanted: by span id, when each attempt started, seconds since the epoch.
    """
    left = {bytes.fromhex(span_id): since for span_id, since in wanted.items()}
    found: set[str] = set()
    for path in Path(rings.run).glob("*.ring"):
        with suppress(OSError, ValueError):
            file = ring.RingFile(path)
            try:
                here = file.known(left)
            finally:
                file.close()
            found |= {span_id.hex() for span_id in here}
            left = {span_id: since for span_id, since in left.items() if span_id not in here}
    return found


def readers_lock(run: Path, number: int) -> FileLock:
    """Return the reader's lock for an instance: one process at a time reads its rings, across restarts of the tree."""
    return FileLock(run / f"{number}.reader")


def instance_is_free(run: Path, number: int) -> bool:
    """Return whether the whole tree with that number is gone.

    A supervisor that looks for a free number at this very moment takes the next one.
    """
    path = run.parent / "instances" / f"{number}.lock"
    descriptor = locked(path)
    if descriptor is None:
        return False
    os.close(descriptor)
    return True
