"""The exporter process's own work as metrics, by the names that the conventions give to parts of an SDK.

A restarted exporter begins these series anew; what they describe begins anew with it.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import Any, Final
from urllib.parse import urlsplit

from framework.telemetry import names
from framework.telemetry.export.aggregation import AllSeries, Histogram
from framework.telemetry.export.observed import Values
from framework.telemetry.export.otlp import Answer, Destination
from framework.telemetry.instruments import TABLE
from framework.telemetry.sdk import exporters

_KIND: Final = {"traces": "span", "metrics": "metric"}
_PROCESSOR: Final = "worker_ring_span_processor"
GIVEN_UP: Final = "queue_full"  # error.type of spans that a full ring made the exporter give up
REJECTED: Final = "rejected"


class OwnHealth:
    """Counts of exports. Any thread may call it.

    Args:
        destinations: by signal; None: the signal is not sent.
    """

    def __init__(self, destinations: dict[str, Destination | None]) -> None:
        self.started = time.time_ns()
        self._lock = threading.Lock()
        self._where = {signal: _where(signal, to) for signal, to in destinations.items() if to is not None}
        self._inflight = 0
        self._exported: Counter[str] = Counter({"": 0})  # spans by error.type; empty: accepted
        self._durations: dict[tuple[tuple[str, Any], ...], Histogram] = {}

    def began(self, spans: int) -> None:
        """Note that a request is on its way."""
        with self._lock:
            self._inflight += spans

    def ended(self, signal: str, spans: int, answer: Answer, seconds: float, *, final: bool) -> None:
        """Note the end of an export with all its tries.

        Args:
            spans: the spans in it, as for `began`.
            answer: the last one.
            final: its spans have left or are given up; otherwise they wait for another export.
        """
        error = REJECTED if answer.rejected else "" if answer.accepted else answer.error or GIVEN_UP
        found: dict[str, Any] = {**self._where.get(signal, {}), **({names.ERROR_TYPE: error} if error else {})}
        if answer.status:
            grpc = isinstance(answer.status, str)
            found[names.RPC_STATUS if grpc else names.HTTP_STATUS] = answer.status
        with self._lock:
            self._inflight -= spans
            if final:
                rejected = min(answer.rejected, spans) if answer.accepted else spans
                self._exported[""] += spans - rejected
                if rejected:
                    self._exported[error or REJECTED] += rejected
            key = tuple(found.items())
            known = self._durations.get(key)
            if known is None:
                known = self._durations[key] = Histogram(TABLE[names.EXPORT_DURATION].bounds)
            known.add(seconds, None)

    def given_up(self, spans: int) -> None:
        """Note spans that were dropped before they were sent, because a ring was full."""
        with self._lock:
            self._exported[GIVEN_UP] += spans

    def values(self, waiting: int, capacity: int) -> Values:
        """Return what the instruments show now.

        Args:
            waiting: spans in the rings that have not left.
            capacity: spans for which the rings have room.
        """
        if "traces" not in self._where:
            return []
        exporter = self._where["traces"]
        processor = {names.COMPONENT_TYPE: _PROCESSOR, names.COMPONENT_NAME: f"{_PROCESSOR}/0"}
        with self._lock:
            found: Values = [
                (names.SPANS_EXPORTED, exporter | ({names.ERROR_TYPE: error} if error else {}), count)
                for error, count in self._exported.items()
            ]
            found.append((names.SPANS_INFLIGHT, exporter, self._inflight))
            found.append((names.SPAN_QUEUE_SIZE, processor, max(0, waiting - self._inflight)))
        return [*found, (names.SPAN_QUEUE_CAPACITY, processor, capacity)]

    def series(self) -> AllSeries:
        """Return the durations."""
        with self._lock:
            nothing = Histogram(TABLE[names.EXPORT_DURATION].bounds)
            durations = {(names.EXPORT_DURATION, key): one.with_other(nothing) for key, one in self._durations.items()}
        return {}, durations


def _where(signal: str, destination: Destination) -> dict[str, Any]:
    """Return the attributes of an exporter."""
    grpc = exporters.protocol(signal) == "grpc"
    kind = f"otlp_{'grpc' if grpc else 'http'}_{_KIND[signal]}_exporter"
    parts = urlsplit(destination.endpoint if "//" in destination.endpoint else f"//{destination.endpoint}")
    found: dict[str, Any] = {names.COMPONENT_TYPE: kind, names.COMPONENT_NAME: f"{kind}/0"}
    if parts.hostname:
        found[names.SERVER_ADDRESS] = parts.hostname
    port = parts.port or {"https": 443, "http": 80}.get(parts.scheme)
    return found | {names.SERVER_PORT: port} if port else found
