"""A test of every way in which telemetry leaves: it sends one item with each exporter that the service would use.

It runs in a process of its own (`worker doctor`), with threads and patched libraries; workers must not use it.
"""

from __future__ import annotations

import os
import uuid
from dataclasses import dataclass
from typing import Final, Literal

from framework.doctor.probing import Path, Probe, Sent, Test, by_ring, by_sdk, listening
from framework.telemetry import ProcessIdentity
from framework.telemetry.export.health import SIGNALS
from framework.telemetry.ring import rings
from framework.telemetry.ring.ring import SIZE
from framework.telemetry.sdk import exporters
from framework.telemetry.sdk.instrumented import has_provider

# What each way carries; `worker doctor` prints it.
CARRIES: Final = {
    ("traces", "ring"): "attempts of jobs",
    ("metrics", "ring"): "counts and durations of jobs",
    ("traces", "sdk"): "what handlers and producers make",
    ("metrics", "sdk"): "depth, slots, processes, handlers' own",
    ("logs", "sdk"): "log lines",
}
CARRIES_ALL: Final = {"traces": "all spans", "metrics": "all metrics", "logs": "log lines"}


@dataclass(frozen=True)
class Examination:
    """The results of all tests.

    Attributes:
        path: ring, sdk, or empty where nothing is sent.
        why: the reason for that path.
        trace_id: the trace id of every test span and log record.
        off: by signal, why OTLP does not send it.
    """

    path: Path | Literal[""]
    why: str
    trace_id: str
    sent: tuple[Sent, ...]
    off: dict[str, str]

    @property
    def ok(self) -> bool:
        """Return whether something was sent and all of it arrived."""
        return bool(self.sent) and all(sent.verdict.state == "arrived" for sent in self.sent)


def examine(identity: ProcessIdentity, *, slots: int, place: str, limit: float, version: str) -> Examination:
    """Send the tests, all at the same time.

    Args:
        identity: the doctor's; its resource is the service's.
        slots: the number of processes that emit; each has a ring.
        place: the directory in which the rings would be.
        limit: seconds to wait for an answer; a smaller value in the variables applies instead.
        version: the version of the scope.
    """
    off = {signal: why for signal in SIGNALS if (why := _off(signal))}
    trace_id = uuid.uuid4().hex
    path, why = _path(slots, place)
    if not path:
        return Examination("", why, trace_id, (), off)
    probes = []
    for signal in SIGNALS:
        if signal in off:
            continue
        if path == "ring" and signal != "logs":
            probes.append(Probe(signal, "ring", CARRIES[signal, "ring"], by_ring, limit))
        carries = CARRIES[signal, "sdk"] if path == "ring" else CARRIES_ALL[signal]
        probes.append(Probe(signal, "sdk", carries, by_sdk, limit))
    test = Test(identity, trace_id, version)
    with listening():
        for probe in probes:
            probe.start(test)
        found = tuple(probe.result() for probe in probes)
    return Examination(path, why, trace_id, found, off)


def _off(signal: str) -> str:
    if exporters.is_disabled():
        return "OTEL_SDK_DISABLED=true"
    if "otlp" in exporters.wanted(signal):
        return ""
    variable = f"OTEL_{signal.upper()}_EXPORTER"
    value = os.environ.get(variable)
    return f"{variable}={value}" if value else f"{variable} is {exporters.DEFAULTS[signal]} unless it is set"


def _path(slots: int, place: str) -> tuple[Path | Literal[""], str]:
    """Return the way in which the framework's own telemetry leaves, decided as `rings.prepare` does, and why."""
    if exporters.is_disabled():
        return "", "OTEL_SDK_DISABLED=true: nothing is made and nothing is sent"
    if not any("otlp" in exporters.wanted(signal) for signal in SIGNALS):
        return "", "no signal is sent by OTLP"
    if not (exporters.wanted("traces") or exporters.wanted("metrics")):
        return "sdk", "only logs are sent"
    reason = rings.unfit()
    if reason:
        other = "; the tests go by the variables, not through it" if has_provider() else ""
        return "sdk", f"{reason}: each process sends by itself, what a killed one had not sent is lost{other}"
    room = _room(place)
    if room is not None and room < slots * SIZE:
        return "sdk", f"{place} has no room for {slots} rings of {SIZE >> 20} MiB: each process sends by itself"
    return "ring", "one exporter process sends; what a killed worker said of its jobs survives it"


def _room(place: str) -> int | None:
    """Return the free bytes in the directory of the rings, or in its nearest parent that exists."""
    while place and not os.path.isdir(place):
        place = os.path.dirname(place)
    if not place:
        return None
    found = os.statvfs(place)
    return found.f_bavail * found.f_frsize
