"""Spans as Jaeger has them, by its v3 API: OTLP in JSON; or as a receiver of ours got them."""

from __future__ import annotations

import urllib.error
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.support.programs import get
from tests.support.received import SeenSpan

KINDS = ("unspecified", "internal", "server", "client", "producer", "consumer")
STATUS = ("unset", "ok", "error")


@dataclass(frozen=True, slots=True)
class Seen:
    """A span; ids in hex, `parent` empty for a root, `links` are span ids."""

    service: str
    name: str
    kind: str
    trace: str
    span: str
    parent: str
    start: int
    end: int
    status: str
    attributes: Mapping[str, Any]
    links: tuple[str, ...]
    linked_traces: tuple[str, ...]

    @property
    def outcome(self) -> str:
        return str(self.attributes.get("worker.job.outcome", ""))


class Traces:
    """All spans of some traces.

    Attributes:
        spans: by span id.
        children: by the parent's id.
        twice: ids that came more than once.
    """

    def __init__(self, spans: Iterable[Seen]) -> None:
        self.spans: dict[str, Seen] = {}
        self.children: dict[str, list[Seen]] = defaultdict(list)
        self.twice: list[str] = []
        for span in spans:
            if span.span in self.spans:
                self.twice.append(span.span)
                continue
            self.spans[span.span] = span
            self.children[span.parent].append(span)

    @classmethod
    def in_jaeger(cls, jaeger: str, trace_ids: Iterable[str]) -> Traces:
        return cls(span for trace_id in sorted(set(trace_ids)) for span in fetch(jaeger, trace_id))

    @classmethod
    def received(cls, spans: Iterable[SeenSpan]) -> Traces:
        return cls(_received(span) for span in spans)

    def by_trace(self) -> Mapping[str, list[Seen]]:
        found = defaultdict(list)
        for span in self.spans.values():
            found[span.trace].append(span)
        return found

    def named(self, name: str, kind: str | None = None) -> list[Seen]:
        """Spans of a name, and of a kind, in the order in which they started."""
        found = [s for s in self.spans.values() if s.name == name and kind in (None, s.kind)]
        return sorted(found, key=lambda span: span.start)

    def attempts(self) -> list[Seen]:
        """All `process` spans, in the order in which they started."""
        found = [span for span in self.spans.values() if span.kind == "consumer"]
        return sorted(found, key=lambda span: span.start)


def fetch(jaeger: str, trace_id: str) -> Sequence[Seen]:
    """The spans of a trace; none where Jaeger does not know it."""
    try:
        answer = get(f"{jaeger}/api/v3/traces/{trace_id}")
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return ()
        raise
    return list(_spans(answer["result"]))


def _spans(result: Mapping[str, Any]) -> Iterator[Seen]:
    for resource in result.get("resourceSpans", ()):
        service = _attributes(resource["resource"]).get("service.name", "")
        for scope in resource["scopeSpans"]:
            for span in scope["spans"]:
                yield Seen(
                    service=service,
                    name=span["name"],
                    kind=KINDS[span.get("kind", 0)],
                    trace=span["traceId"],
                    span=span["spanId"],
                    parent=span.get("parentSpanId", ""),
                    start=int(span["startTimeUnixNano"]),
                    end=int(span["endTimeUnixNano"]),
                    status=STATUS[span.get("status", {}).get("code", 0)],
                    attributes=_attributes(span),
                    links=tuple(link["spanId"] for link in span.get("links", ())),
                    linked_traces=tuple(link["traceId"] for link in span.get("links", ())),
                )


def _received(span: SeenSpan) -> Seen:
    return Seen(
        service=span.resource.get("service.name", ""),
        name=span.name,
        kind=span.kind,
        trace=span.trace_id,
        span=span.span_id,
        parent=span.parent_id,
        start=span.start,
        end=span.end,
        status=span.status,
        attributes=span.attributes,
        links=tuple(link.span_id for link in span.links),
        linked_traces=tuple(link.trace_id for link in span.links),
    )


def _attributes(holder: Mapping[str, Any]) -> Mapping[str, Any]:
    return {pair["key"]: next(iter(pair["value"].values()), None) for pair in holder.get("attributes", ())}
