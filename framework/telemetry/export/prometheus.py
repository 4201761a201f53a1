"""Metrics in the Prometheus text format, under the names that Prometheus gives to the same metrics by OTLP.

So dashboards and alerts work with both. `job` and `instance` are written with each sample, because one address serves
all slots: the scrape configuration needs `honor_labels: true`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any, Final

from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric, ResourceMetrics

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_UNITS: Final = {"s": "seconds", "ms": "milliseconds", "By": "bytes", "%": "percent"}
_OUTSIDE: Final = re.compile(r"[^a-zA-Z0-9_:]")
_OF_SERVICE: Final = ("service.name", "service.namespace", "service.instance.id")
_SUMS: Final = ("sum", "gauge", "histogram")

Labels = tuple[tuple[str, str], ...]


class _Family:
    """All samples of one name."""

    def __init__(self, kind: str, text: str) -> None:
        self.kind = kind
        self.text = text
        self.samples: dict[tuple[str, Labels], str] = {}  # a sample that comes twice is written once


def text_of(resources: Iterable[ResourceMetrics]) -> bytes:
    """Return the text of all metrics but those of kinds that the format does not have."""
    families: dict[str, _Family] = {}
    for resource in resources:
        known = {pair.key: _value(pair.value) for pair in resource.resource.attributes}
        target = _target(known)
        _add_target(families, target, known)
        for metric in (metric for scope in resource.scope_metrics for metric in scope.metrics):
            kind = metric.WhichOneof("data")
            if kind in _SUMS:
                _add(families, metric, kind, target)
    return "".join(line for name, family in sorted(families.items()) for line in _lines(name, family)).encode()


def _lines(name: str, family: _Family) -> Iterator[str]:
    yield f"# HELP {name} {_escaped(family.text, quotes=False)}\n# TYPE {name} {family.kind}\n"
    for (full, labels), value in family.samples.items():
        shown = ",".join(f'{key}="{_escaped(value)}"' for key, value in labels)
        yield f"{full}{{{shown}}} {value}\n"


def _target(resource: dict[str, str]) -> Labels:
    service, namespace = resource.get("service.name", ""), resource.get("service.namespace", "")
    job = f"{namespace}/{service}" if namespace else service
    return ("job", job), ("instance", resource.get("service.instance.id", ""))


def _add_target(families: dict[str, _Family], target: Labels, resource: dict[str, str]) -> None:
    family = families.setdefault("target_info", _Family("gauge", "Target metadata"))
    more = tuple((_label(key), value) for key, value in resource.items() if key not in _OF_SERVICE)
    family.samples["target_info", target + more] = "1"


def _add(families: dict[str, _Family], metric: Metric, kind: str, target: Labels) -> None:
    data = getattr(metric, kind)
    counts = kind == "sum" and data.is_monotonic
    name = _name(metric.name, metric.unit, counts=counts)
    shown = "histogram" if kind == "histogram" else "counter" if counts else "gauge"
    family = families.setdefault(name, _Family(shown, metric.description))
    for point in data.data_points:
        labels = target + tuple((_label(pair.key), _value(pair.value)) for pair in point.attributes)
        if kind == "histogram":
            _add_histogram(family, name, labels, point)
        else:
            exact = point.WhichOneof("value") == "as_int"
            family.samples[name, labels] = str(point.as_int) if exact else _number(point.as_double)


def _add_histogram(family: _Family, name: str, labels: Labels, point: Any) -> None:
    total = 0
    for bound, count in zip((*point.explicit_bounds, float("inf")), point.bucket_counts, strict=False):
        total += count
        family.samples[f"{name}_bucket", (*labels, ("le", _number(bound)))] = str(total)
    family.samples[f"{name}_sum", labels] = _number(point.sum)
    family.samples[f"{name}_count", labels] = str(point.count)


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
    return "+Inf" if value == float("inf") else repr(value)


def _escaped(text: str, *, quotes: bool = True) -> str:
    found = text.replace("\\", "\\\\").replace("\n", "\\n")
    return found.replace('"', '\\"') if quotes else found
