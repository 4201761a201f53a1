"""Where the rings of a tree lie, whether the environment can be served through them, and who reads them."""

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

from framework.process.lock import FileLock, locked
from framework.telemetry.environment import SAMPLERS
from framework.telemetry.ring import ring
from framework.telemetry.sdk import exporters
from framework.telemetry.sdk.instrumented import has_provider

# What a ring's series and spans are attributed to: with other values of these it is another ring.
_OF_RESOURCE: Final = ("OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES", "OTEL_EXPERIMENTAL_RESOURCE_DETECTORS")
# Variables that only the SDK's own exporters understand, and the values that change nothing.
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
        number: of the instance.
        mark: stands for the resource that its series have.
        slots: that emit: workers and maintenance.
    """

    run: str
    number: int
    mark: str
    slots: tuple[str, ...]

    def path(self, slot: str) -> Path:
        """The ring of a slot."""
        return Path(self.run) / f"{self.number}.{quote(slot, safe='')}.{self.mark}.ring"


def number_of(entry: str) -> int | None:
    """Of the instance whose ring has this name."""
    first = entry.partition(".")[0]
    return int(first) if first.isdigit() else None


def unfit() -> str:
    """Why the environment asks for something that only the SDK can do; empty: it does not."""
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


def prepare(run: Path, number: int, *, app: str, system: str, slots: Sequence[str]) -> tuple[Rings | None, str]:
    """Makes the rings of a tree, in the supervisor, before its first child. No provider, no thread.

    Args:
        run: where the board lies.
        slots: all that emit: workers and maintenance.

    Returns:
        (the rings, "") or (None, why the SDK has to send from each process); (None, "") where nothing is to be sent.
    """
    if exporters.is_disabled() or not (exporters.wanted("traces") or exporters.wanted("metrics")):
        return None, ""
    reason = unfit()
    if reason:
        return None, reason
    parts = [app, system, socket.gethostname(), *(os.environ.get(name, "") for name in _OF_RESOURCE)]
    mark = blake2b("\0".join(parts).encode("utf-8", "replace"), digest_size=4).hexdigest()
    rings = Rings(str(run), number, mark, tuple(slots))
    new = [rings.path(slot) for slot in slots if not rings.path(slot).exists()]
    try:
        for slot in slots:
            ring.create(rings.path(slot))
    except OSError as error:
        for path in new:  # the others hold what the last tree had not sent
            with suppress(OSError):
                os.unlink(path)
        return None, f"{run} cannot hold {len(slots)} rings of {ring.SIZE >> 20} MiB: {error.strerror or error}"
    return rings, ""


def known(rings: Rings, wanted: Mapping[str, float]) -> set[str]:
    """Return the span ids of those attempts that are in any ring on the store.

    Args:
        wanted: when each started, seconds since the epoch, by span id.
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
    """Return the lock of who reads the rings of an instance: one process at a time, whatever trees come and go."""
    return FileLock(run / f"{number}.reader")


def instance_is_free(run: Path, number: int) -> bool:
    """Whether the whole tree of that number is gone. A supervisor that looks for a number at this very moment takes the
    next one."""
    path = run.parent / "instances" / f"{number}.lock"
    descriptor = locked(path)
    if descriptor is None:
        return False
    os.close(descriptor)
    return True
