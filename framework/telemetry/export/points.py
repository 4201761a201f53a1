"""Counts as a cumulative OTLP metrics request, with the names, units and descriptions of the SDK's instruments."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import InstrumentationScope
from opentelemetry.proto.metrics.v1.metrics_pb2 import (
    AGGREGATION_TEMPORALITY_CUMULATIVE,
    Metric,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
)
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from framework.telemetry import names
from framework.telemetry.export.aggregation import Attributes, Cells, Histogram
from framework.telemetry.export.observed import Values
from framework.telemetry.instruments import TABLE
from framework.telemetry.ring import wire

_UP_AND_DOWN = (names.SLOTS_LIMIT, names.SLOTS_USED, names.PROCESS_MEMORY)


def request(parts: Iterable[ResourceMetrics]) -> bytes:
    """Return the bytes of a request."""
    encoded: bytes = ExportMetricsServiceRequest(resource_metrics=parts).SerializeToString()
    return encoded


def of_slot(
    cells: Cells | None,
    observed: Values,
    resource: Mapping[str, Any],
    scope: InstrumentationScope,
    *,
    start: int,
    now: int,
    exemplars: bool,
) -> ResourceMetrics:
    """Return all series of a slot. This consumes its exemplars.

    Args:
        cells: its counts; None for the exporter itself.
        observed: the values of its observed instruments.
        start, now: start and end of all series, ns since the epoch.
        exemplars: whether they are wanted (OTEL_METRICS_EXEMPLAR_FILTER).
    """
    metrics: dict[str, Metric] = {}
    counts, histograms = cells.series() if cells is not None else ({}, {})
    for (name, attributes), count in counts.items():
        _add_count(_metric(metrics, name), attributes, count, start, now)
    for (name, attributes), histogram in histograms.items():
        _add_histogram(_metric(metrics, name), attributes, histogram, start, now, exemplars=exemplars)
    for name, found, value in observed:
        _add_count(_metric(metrics, name), tuple(found.items()), value, start, now)
    return ResourceMetrics(
        resource=Resource.FromString(wire.attributes(1, resource)),
        scope_metrics=[ScopeMetrics(scope=scope, metrics=metrics.values())],
    )


def _metric(metrics: dict[str, Metric], name: str) -> Metric:
    metric = metrics.get(name)
    if metric is None:
        known = TABLE[name]
        metric = metrics[name] = Metric(name=name, unit=known.unit, description=known.description)
    return metric


def _set_attributes(point: Any, attributes: Attributes) -> None:
    for key, value in attributes:
        pair = point.attributes.add(key=key)
        if isinstance(value, bool):
            pair.value.bool_value = value
        else:
            pair.value.string_value = value


def _add_count(metric: Metric, attributes: Attributes, value: int | float, start: int, now: int) -> None:
    metric.sum.aggregation_temporality = AGGREGATION_TEMPORALITY_CUMULATIVE
    metric.sum.is_monotonic = metric.name not in _UP_AND_DOWN
    point = NumberDataPoint(start_time_unix_nano=start, time_unix_nano=now)
    if isinstance(value, int):
        point.as_int = value
    else:
        point.as_double = value
    _set_attributes(point, attributes)
    metric.sum.data_points.append(point)


def _add_histogram(
    metric: Metric,
    attributes: Attributes,
    found: Histogram,
    start: int,
    now: int,
    *,
    exemplars: bool,
) -> None:
    metric.histogram.aggregation_temporality = AGGREGATION_TEMPORALITY_CUMULATIVE
    point = metric.histogram.data_points.add(
        start_time_unix_nano=start,
        time_unix_nano=now,
        count=sum(found.counts),
        sum=found.total,
        bucket_counts=found.counts,
        explicit_bounds=found.bounds,
    )
    if point.count:
        point.min, point.max = found.minimum, found.maximum
    _set_attributes(point, attributes)
    taken, found.exemplars = found.exemplars, {}
    for value, (when, trace_id, span_id) in taken.values() if exemplars else ():
        point.exemplars.add(time_unix_nano=when, as_double=value, trace_id=trace_id, span_id=span_id)
