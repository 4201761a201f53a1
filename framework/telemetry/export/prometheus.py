"""Metrics in the Prometheus text format, under the names that Prometheus gives to the same metrics by OTLP.

So dashboards and alerts work with both. `job` and `instance` are written with each sample, because one address serves
all slots: the scrape configuration needs `honor_labels: true`.

A server refuses the whole page for one label that comes twice, or that is no name. So attributes whose labels are equal
share one, their values joined by `;` as in Prometheus, and an attribute may not take a label of ours: see `_OURS`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import reduce
from typing import Any, Final, NamedTuple

from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric, ResourceMetrics

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_UNITS: Final = {"s": "seconds", "ms": "milliseconds", "By": "bytes", "%": "percent"}
_OUTSIDE: Final = re.compile(r"[^a-zA-Z0-9_:]")
_OURS: Final = {"job", "instance", "le", "__name__"}  # an attribute of this name becomes `exported_job`, and so on
_OF_SERVICE: Final = ("service.name", "service.namespace", "service.instance.id")
_SUMS: Final = ("sum", "gauge", "histogram")

Labels = tuple[tuple[str, str], ...]
Origin = tuple[str, str, str]  # a scope's name and version, and the metric's own name


class _Buckets(NamedTuple):
    """A point of a histogram."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    total: float
    number: int


Value = int | float | _Buckets


class _Family:
    """All samples of one name.

    A series may come more than once. From one origin it is the same series again: it is written once. Different
    origins, such as counters of one name in two meters, are added, because a sample does not say its origin.
    """

    def __init__(self, kind: str, text: str, *, adds: bool = False) -> None:
        self.kind, self.text, self.adds = kind, text, adds
        self.series: dict[Labels, dict[Origin, Value]] = {}

    def put(self, labels: Labels, origin: Origin, values: list[Value]) -> None:
        self.series.setdefault(labels, {})[origin] = self._one(values)

    def samples(self) -> Iterator[tuple[Labels, Value]]:
        for labels, found in self.series.items():
            yield labels, self._one(list(found.values()))

    def _one(self, values: list[Value]) -> Value:
        return reduce(_sum, values) if self.adds else values[-1]


def _sum(one: Value, other: Value) -> Value:
    """Return the sum; of histograms with other bounds, which cannot be added, the first."""
    if not (isinstance(one, _Buckets) or isinstance(other, _Buckets)):
        return one + other
    assert isinstance(one, _Buckets)  # a family has one kind
    assert isinstance(other, _Buckets)
    if one.bounds != other.bounds or len(one.counts) != len(other.counts):
        return one
    counts = tuple(left + right for left, right in zip(one.counts, other.counts, strict=True))
    return _Buckets(one.bounds, counts, one.total + other.total, one.number + other.number)


def text_of(resources: Iterable[ResourceMetrics]) -> bytes:
    """Return the text of all metrics but those of kinds that the format does not have."""
    families: dict[str, _Family] = {}
    for resource in resources:
        known = {pair.key: _value(pair.value) for pair in resource.resource.attributes}
        target = _target(known)
        _add_target(families, target, known)
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                _add(families, metric, (scope.scope.name, scope.scope.version, metric.name), target)
    return "".join(line for name, family in sorted(families.items()) for line in _lines(name, family)).encode()


def _lines(name: str, family: _Family) -> Iterator[str]:
    yield f"# HELP {name} {_escaped(family.text, quotes=False)}\n# TYPE {name} {family.kind}\n"
    for labels, value in family.samples():
        if isinstance(value, _Buckets):
            yield from _histogram(name, labels, value)
        else:
            yield _sample(name, labels, value)


def _histogram(name: str, labels: Labels, value: _Buckets) -> Iterator[str]:
    total = 0
    for bound, count in zip((*value.bounds, float("inf")), value.counts, strict=False):
        total += count
        yield _sample(f"{name}_bucket", (*labels, ("le", _number(bound))), total)
    yield _sample(f"{name}_sum", labels, value.total)
    yield _sample(f"{name}_count", labels, value.number)


def _sample(name: str, labels: Labels, value: float) -> str:
    shown = ",".join(f'{key}="{_escaped(value)}"' for key, value in labels)
    return f"{name}{{{shown}}} {_number(value)}\n"


def _target(resource: dict[str, str]) -> Labels:
    service, namespace = resource.get("service.name", ""), resource.get("service.namespace", "")
    job = f"{namespace}/{service}" if namespace else service
    return ("job", job), ("instance", resource.get("service.instance.id", ""))


def _add_target(families: dict[str, _Family], target: Labels, resource: dict[str, str]) -> None:
    family = families.setdefault("target_info", _Family("gauge", "Target metadata"))
    more = _labels((key, value) for key, value in resource.items() if key not in _OF_SERVICE)
    family.put(target + more, ("", "", ""), [1])


def _add(families: dict[str, _Family], metric: Metric, origin: Origin, target: Labels) -> None:
    kind = metric.WhichOneof("data")
    if kind not in _SUMS:
        return
    data = getattr(metric, kind)
    counts = kind == "sum" and data.is_monotonic
    name = _name(metric.name, metric.unit, counts=counts)
    shown = "histogram" if kind == "histogram" else "counter" if counts else "gauge"
    family = families.setdefault(name, _Family(shown, metric.description, adds=kind != "gauge"))
    if family.kind != shown:  # a name has one type: who comes first has it
        return
    found: dict[Labels, list[Value]] = {}
    for point in data.data_points:
        labels = target + _labels((pair.key, _value(pair.value)) for pair in point.attributes)
        found.setdefault(labels, []).append(_buckets(point) if kind == "histogram" else _plain(point))
    for labels, values in found.items():
        family.put(labels, origin, values)


def _plain(point: Any) -> float:
    return int(point.as_int) if point.WhichOneof("value") == "as_int" else float(point.as_double)


def _buckets(point: Any) -> _Buckets:
    return _Buckets(tuple(point.explicit_bounds), tuple(point.bucket_counts), point.sum, point.count)


def _labels(pairs: Iterable[tuple[str, str]]) -> Labels:
    """Return the labels of attributes, each once. Their order says nothing about a series, so they are sorted."""
    found: dict[str, str] = {}
    for key, value in sorted(pairs):
        label = _label(key).replace(":", "_")  # a colon may stand in the name of a metric only
        label = f"exported_{label}" if label in _OURS else label
        found[label] = f"{found[label]};{value}" if label in found else value
    return tuple(found.items())


def _name(name: str, unit: str, *, counts: bool) -> str:
    found = _label(name)
    suffix = "" if unit.startswith("{") else _UNITS.get(unit, _label(unit) if unit not in ("", "1") else "")
    if suffix and not found.endswith(f"_{suffix}"):
        found += f"_{suffix}"
    return f"{found}_total" if counts and not found.endswith("_total") else found


def _label(name: str) -> str:
    found = _OUTSIDE.sub("_", name)
    return f"_{found}" if found[:1].isdigit() else found


def _value(value: Any) -> str:
    kind = value.WhichOneof("value")
    if kind is None:
        return ""
    found = getattr(value, kind)
    return str(found).lower() if isinstance(found, bool) else str(found)


def _number(value: float) -> str:
    return "+Inf" if value == float("inf") else repr(value)  # exact, an int and a float


def _escaped(text: str, *, quotes: bool = True) -> str:
    found = text.replace("\\", "\\\\").replace("\n", "\\n")
    return found.replace('"', '\\"') if quotes else found
