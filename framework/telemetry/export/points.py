"""Counts as a cumulative OTLP metrics request, with the names, units and descriptions of the SDK's instruments."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import (
    AGGREGATION_TEMPORALITY_CUMULATIVE,
    Metric,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
)
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from framework.telemetry import names
from framework.telemetry.export.aggregation import AllSeries, Attributes, Histogram
from framework.telemetry.export.observed import Values
from framework.telemetry.instruments import TABLE
from framework.telemetry.ring import wire
from framework.telemetry.sdk.resource import of_series

_UP_AND_DOWN = (
    names.SLOTS_LIMIT, names.SLOTS_USED, names.PROCESS_MEMORY,
    names.SPANS_INFLIGHT, names.SPAN_QUEUE_SIZE, names.SPAN_QUEUE_CAPACITY,
)  # fmt: skip


def request(parts: Iterable[ResourceMetrics]) -> bytes:
    """Return the bytes of a request."""
    encoded: bytes = ExportMetricsServiceRequest(resource_metrics=parts).SerializeToString()
    return encoded


def of_slot(
    series: AllSeries,
    observed: Values,
    resource: Mapping[str, Any],
    schema: str,
    scope: Sequence[str],
    *,
    start: int,
    now: int,
    exemplars: bool,
) -> ResourceMetrics:
    """Return all series of a slot.

    Args:
        series: its counts and histograms.
        observed: the values of its observed instruments.
        resource, schema: of its spans; what belongs to one process is left out.
        scope: name, version and schema of the scope.
        start, now: start and end of all series, ns since the epoch.
        exemplars: whether they are wanted (OTEL_METRICS_EXEMPLAR_FILTER).
    """
    metrics: dict[str, Metric] = {}
    counts, histograms = series
    for (name, attributes), count in counts.items():
        _add_count(_metric(metrics, name), attributes, count, start, now)
    for (name, attributes), histogram in histograms.items():
        _add_histogram(_metric(metrics, name), attributes, histogram, start, now, exemplars=exemplars)
    for name, found, value in observed:
        _add_count(_metric(metrics, name), tuple(found.items()), value, start, now)
    made = ResourceMetrics(
        resource=Resource.FromString(wire.attributes(1, of_series(resource))),
        scope_metrics=[ScopeMetrics.FromString(wire.scope_of(*scope))],
        schema_url=schema,
    )
    made.scope_metrics[0].metrics.extend(metrics.values())
    return made


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
        elif isinstance(value, int):
            pair.value.int_value = value
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
    for value, (when, trace_id, span_id) in found.exemplars.values() if exemplars else ():
        point.exemplars.add(time_unix_nano=when, as_double=value, trace_id=trace_id, span_id=span_id)
