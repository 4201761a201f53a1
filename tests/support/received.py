"""What arrived at a receiver, decoded from OTLP's protobuf messages into plain values."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from threading import Condition
from typing import Any

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

KINDS = ("unspecified", "internal", "server", "client", "producer", "consumer")
STATUS = ("unset", "ok", "error")
Attributes = dict[str, Any]


@dataclass(frozen=True)
class SeenLink:
    trace_id: str
    span_id: str
    attributes: Attributes


@dataclass(frozen=True)
class SeenSpan:
    """Ids in hex ("" = none), times in nanoseconds since the epoch; `schemas`: of its resource and of its scope."""

    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    attributes: Attributes
    links: tuple[SeenLink, ...]
    status: str
    message: str
    start: int
    end: int
    events: tuple[tuple[str, Attributes], ...]
    resource: Attributes
    scope: str
    trace_state: str
    flags: int
    schemas: tuple[str, str]


@dataclass(frozen=True)
class SeenPoint:
    """A data point; `value` of a sum or gauge, the rest of a histogram."""

    name: str
    unit: str
    kind: str
    attributes: Attributes
    resource: Attributes
    schemas: tuple[str, str]
    value: float = 0
    count: int = 0
    total: float = 0.0
    bounds: tuple[float, ...] = ()
    buckets: tuple[int, ...] = ()
    exemplars: tuple[tuple[str, str], ...] = ()
    cumulative: bool = True
    monotonic: bool = False


@dataclass(frozen=True)
class SeenLog:
    body: str
    severity: str
    attributes: Attributes
    trace_id: str
    span_id: str
    resource: Attributes
    schemas: tuple[str, str]
    event: str = ""
    number: int = 0


@dataclass
class Store:
    """Requests as they came, safe to read while more arrive."""

    changed: Condition = field(default_factory=Condition)
    requests: list[Any] = field(default_factory=list)

    def add(self, request: Any) -> None:
        with self.changed:
            self.requests.append(request)
            self.changed.notify_all()

    def wait_for(self, predicate: Callable[[], Any], timeout: float = 60.0) -> Any:
        """Waits until the predicate is true, looking again at each arrival; gives its value. AssertionError if late."""
        deadline = time.monotonic() + timeout
        with self.changed:
            # Twenty looks a second as well: what is waited for may lie outside of this store.
            while not (found := predicate()) and (left := deadline - time.monotonic()) > 0:
                self.changed.wait(min(0.05, left))
        assert found, f"not seen within {timeout} s; arrived: {self.summary()}"
        return found

    def summary(self) -> str:
        return f"spans {[span.name for span in self.spans()]}, metrics {sorted({p.name for p in self.metrics()})}"

    def spans(self, name: str | None = None) -> list[SeenSpan]:
        """All spans, or those of one name, in order of arrival."""
        found = [span for request in self._of(ExportTraceServiceRequest) for span in _spans(request)]
        return [span for span in found if name is None or span.name == name]

    def metrics(self, name: str | None = None) -> list[SeenPoint]:
        """All data points, or those of one metric, in order of arrival; a cumulative series repeats at each export."""
        found = [point for request in self._of(ExportMetricsServiceRequest) for point in _points(request)]
        return [point for point in found if name is None or point.name == name]

    def latest(self, name: str) -> list[SeenPoint]:
        """The last data point of each series of a metric; a series is a process's resource and a set of attributes."""
        series = {(_key(point.resource), _key(point.attributes)): point for point in self.metrics(name)}
        return list(series.values())

    def value(self, name: str, **attributes: Any) -> float:
        """Sum over the processes and all series whose attributes contain these (`__` stands for a dot)."""
        wanted = {key.replace("__", "."): value for key, value in attributes.items()}
        points = [p for p in self.latest(name) if wanted.items() <= p.attributes.items()]
        return sum(point.count if point.kind == "histogram" else point.value for point in points)

    def logs(self) -> list[SeenLog]:
        return [record for request in self._of(ExportLogsServiceRequest) for record in _logs(request)]

    def _of(self, kind: type) -> list[Any]:
        with self.changed:
            return [request for request in self.requests if isinstance(request, kind)]


def _key(attributes: Attributes) -> str:
    return repr(sorted(attributes.items()))


def _value(value: Any) -> Any:
    which = value.WhichOneof("value")
    if which == "array_value":
        return [_value(item) for item in value.array_value.values]
    return None if which is None else getattr(value, which)


def _attributes(pairs: Iterable[Any]) -> Attributes:
    return {pair.key: _value(pair.value) for pair in pairs}


def _spans(request: Any) -> Iterable[SeenSpan]:
    for resource in request.resource_spans:
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield SeenSpan(
                    name=span.name,
                    kind=KINDS[span.kind],
                    trace_id=span.trace_id.hex(),
                    span_id=span.span_id.hex(),
                    parent_id=span.parent_span_id.hex(),
                    attributes=_attributes(span.attributes),
                    links=tuple(
                        SeenLink(link.trace_id.hex(), link.span_id.hex(), _attributes(link.attributes))
                        for link in span.links
                    ),
                    status=STATUS[span.status.code],
                    message=span.status.message,
                    start=span.start_time_unix_nano,
                    end=span.end_time_unix_nano,
                    events=tuple((event.name, _attributes(event.attributes)) for event in span.events),
                    resource=_attributes(resource.resource.attributes),
                    scope=scope.scope.name,
                    trace_state=span.trace_state,
                    flags=span.flags,
                    schemas=(resource.schema_url, scope.schema_url),
                )


def _points(request: Any) -> Iterable[SeenPoint]:
    for resource in request.resource_metrics:
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                kind = metric.WhichOneof("data")
                data = getattr(metric, kind)
                schemas = (resource.schema_url, scope.schema_url)
                for point in data.data_points:
                    yield _point(metric, kind, data, point, _attributes(resource.resource.attributes), schemas)


def _point(metric: Any, kind: str, data: Any, point: Any, resource: Attributes, schemas: tuple[str, str]) -> SeenPoint:
    common = {
        "name": metric.name,
        "unit": metric.unit,
        "kind": kind,
        "attributes": _attributes(point.attributes),
        "resource": resource,
        "schemas": schemas,
        "cumulative": kind == "gauge" or data.aggregation_temporality == 2,
        "exemplars": tuple((e.trace_id.hex(), e.span_id.hex()) for e in point.exemplars),
    }
    if kind == "histogram":
        buckets = {"bounds": tuple(point.explicit_bounds), "buckets": tuple(point.bucket_counts)}
        return SeenPoint(**common, count=point.count, total=point.sum, **buckets)
    value = point.as_int if point.WhichOneof("value") == "as_int" else point.as_double
    return SeenPoint(**common, value=value, monotonic=kind == "sum" and data.is_monotonic)


def _logs(request: Any) -> Iterable[SeenLog]:
    for resource in request.resource_logs:
        for scope in resource.scope_logs:
            for record in scope.log_records:
                yield SeenLog(
                    body=_value(record.body),
                    severity=record.severity_text,
                    attributes=_attributes(record.attributes),
                    trace_id=record.trace_id.hex(),
                    span_id=record.span_id.hex(),
                    resource=_attributes(resource.resource.attributes),
                    schemas=(resource.schema_url, scope.schema_url),
                    event=record.event_name,
                    number=record.severity_number,
                )
