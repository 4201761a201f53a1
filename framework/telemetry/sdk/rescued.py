"""Spans and counts of a dead process's attempts, by the SDK of the process that rescues its jobs.

They have the resource of the dead process, because a resource names what was observed, not who sends it.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Mapping
from typing import Any, Final

from opentelemetry.metrics import Meter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, MetricsData
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Tracer

from framework.telemetry.conventions import scope
from framework.telemetry.sdk.resource import INSTANCE, SDK, attributes_of, of_series

_MOST: Final = 100  # slots of which this process has series; those of further slots stay with its own


def tracer_of(tracer: Tracer, about: bytes) -> Tracer:
    """Return a tracer like ours whose spans have the resource of the process that said this about itself."""
    known = attributes_of(about)
    if not known:
        return tracer
    found, own = copy.copy(tracer), tracer.resource
    found.resource = Resource({**known, **_encoder(own.attributes)}, own.schema_url)
    return found


def _encoder(own: Mapping[str, Any]) -> dict[str, Any]:
    return {key: own[key] for key in SDK if key in own}


class RescuedSeries:
    """The series of dead processes' attempts, sent together with those of this process.

    The slot's next process counts its own attempts at the same time, so these series have an attribute that tells them
    apart (`names.RESCUED`): two processes must not write one series.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._exporters: list[Any] = []
        self._slots: dict[str, tuple[Meter, list[InMemoryMetricReader]]] = {}

    def send_with(self, exporter: Any) -> Any:
        """Return the same exporter, which from now on sends these series as well."""
        number, inner = len(self._exporters), exporter.export
        self._exporters.append(exporter)

        def export(batch: MetricsData, *args: Any, **kwargs: Any) -> Any:
            return inner(self._joined(batch, number), *args, **kwargs)

        exporter.export = export
        return exporter

    def meter(self, about: bytes) -> Meter | None:
        """Return the meter of the slot whose process said this about itself; None: it is unknown."""
        known = attributes_of(about)
        if not known or not self._exporters:
            return None
        with self._lock:
            found = self._slots.get(known[INSTANCE])
            if found is None and len(self._slots) < _MOST:
                found = self._slots[known[INSTANCE]] = self._made(known)
        return found and found[0]

    def _made(self, known: Mapping[str, Any]) -> tuple[Meter, list[InMemoryMetricReader]]:
        preferred = ("_preferred_temporality", "_preferred_aggregation")
        readers = [
            InMemoryMetricReader(*(getattr(exporter, name, None) for name in preferred)) for exporter in self._exporters
        ]
        provider = MeterProvider(readers, Resource(of_series(known), scope()[2]), shutdown_on_exit=False)
        return provider.get_meter(*scope()), readers

    def _joined(self, batch: MetricsData, number: int) -> MetricsData:
        with self._lock:
            slots = list(self._slots.values())
        more = [readers[number].get_metrics_data() for _, readers in slots]
        found = [resource for data in more if data is not None for resource in data.resource_metrics]
        return MetricsData([*batch.resource_metrics, *found]) if found else batch
