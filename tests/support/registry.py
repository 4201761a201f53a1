"""The registry of our names (`observability/registry/`), and a check of what arrived against it, like Weaver's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from ruamel.yaml import YAML

from tests.support.received import SeenPoint, SeenSpan

PLACE: Final = Path(__file__).parents[2] / "observability" / "registry"
_TYPES: Final[dict[str, type]] = {"int": int, "double": float, "boolean": bool, "string": str, "string[]": list}
_OTHER: Final = {"_OTHER"}
# Where too many series share one, see docs/observability.md.
_SHARED: Final = "otel.metric.overflow"


@dataclass(frozen=True)
class Group:
    """A metric or a span: its attributes by name, True for those that it always has."""

    attributes: dict[str, bool]
    instrument: str = ""
    unit: str = ""
    brief: str = ""


@dataclass(frozen=True)
class Registry:
    """`attributes`: by name, the type or the values that it may have. `spans`: by the first word of their names."""

    attributes: dict[str, Any]
    metrics: dict[str, Group]
    spans: dict[str, Group]


@cache
def registry() -> Registry:
    groups = [group for path in sorted(PLACE.glob("*s.yaml")) for group in YAML(typ="safe").load(path)["groups"]]
    defined = {one["id"]: one for group in groups for one in group["attributes"] if "id" in one}
    metrics = {group["metric_name"]: _group(group) for group in groups if group["type"] == "metric"}
    spans = {group["id"].rpartition(".")[2]: _group(group) for group in groups if group["type"] == "span"}
    return Registry({name: one["type"] for name, one in defined.items()}, metrics, spans)


def _group(found: dict[str, Any]) -> Group:
    attributes = {one["ref"]: one["requirement_level"] == "required" for one in found["attributes"]}
    return Group(attributes, found.get("instrument", ""), found.get("unit", ""), found["brief"])


def violations(spans: Iterable[SeenSpan], points: Iterable[SeenPoint]) -> set[str]:
    """Return what arrived of ours and is not as the registry says: one line for each kind of mistake."""
    known = registry()
    found: set[str] = set()
    for span in spans:
        if span.kind == "consumer":
            found |= set(_wrong("process span", known.spans["process"], span.attributes))
        if span.name.startswith("batch "):
            found |= set(_wrong("batch span", known.spans["batch"], span.attributes))
        found |= set(_undefined(span.name.split()[0], span.attributes))
        for name, attributes in span.events:
            found |= set(_undefined(f"event {name}", attributes))
    for point in points:
        found |= set(_undefined(point.name, point.attributes))
        if point.name.startswith("worker."):
            found |= set(_wrong_point(point))
    return found


def _wrong_point(point: SeenPoint) -> Iterator[str]:
    group = registry().metrics.get(point.name)
    if group is None:
        yield f"{point.name} is not in the registry"
        return
    kind = {"sum": "counter" if point.monotonic else "updowncounter"}.get(point.kind, point.kind)
    if (kind, point.unit) != (group.instrument, group.unit):
        yield f"{point.name} is a {kind} in {point.unit}, not a {group.instrument} in {group.unit}"
    if _SHARED not in point.attributes:
        yield from _wrong(point.name, group, point.attributes)


def _wrong(what: str, group: Group, attributes: dict[str, Any]) -> Iterator[str]:
    for name in set(attributes) - set(group.attributes):
        yield f"{what} has {name}"
    for name, always in group.attributes.items():
        if always and name not in attributes:
            yield f"{what} lacks {name}"


def _undefined(what: str, attributes: dict[str, Any]) -> Iterator[str]:
    for name, value in attributes.items():
        kind = registry().attributes.get(name)
        if kind is None:
            if name.startswith("worker."):
                yield f"{what} has {name}, which is not in the registry"
        elif isinstance(kind, str):
            if type(value) is not _TYPES[kind]:
                yield f"{what}: {name} is a {type(value).__name__}, not a {kind}"
        elif value not in {member["value"] for member in kind["members"]} | _OTHER:
            yield f"{what}: {name} is {value!r}"
