"""The state of all series of the SDK in a process, as a file that the exporter process serves to Prometheus."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.sdk.metrics.export import MetricExporter, MetricExportResult, MetricsData

INTERVAL: Final = 5.0  # seconds between two snapshots
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW


class Snapshot(MetricExporter):
    """An exporter that writes the last state of all series into a file.

    Args:
        path: the file; a new state replaces it at once.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._owner = os.getpid()

    def export(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **_: Any) -> MetricExportResult:
        if os.getpid() != self._owner:  # a handler has forked
            return MetricExportResult.SUCCESS
        new = self._path.with_name(f".{self._path.name}")  # the next process of the slot takes over what a kill leaves
        try:
            with open(os.open(new, _NEW, 0o600), "wb") as file:
                file.write(encode_metrics(metrics_data).SerializeToString())
            new.rename(self._path)
        except OSError:  # a full disk: the state before stays
            return MetricExportResult.FAILURE
        return MetricExportResult.SUCCESS

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        return True

    def shutdown(self, timeout_millis: float = 30_000, **_: Any) -> None:
        """Do nothing: the file stays for the exporter."""
