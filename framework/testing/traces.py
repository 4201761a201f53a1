"""The spans of a job as a tree, for the assertions of a test."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

_ID, _OUTCOME, _ERROR = "messaging.message.id", "worker.job.outcome", "error.type"


@dataclass(frozen=True, eq=False)
class Span:
    """A span and those below it, in the order in which they started.

    Attributes:
        kind: internal, server, client, producer or consumer.
        status: unset, ok or error.
        events: name and attributes of each.
        trace_id, span_id: in hex.
        links: the span ids to which it links.
    """

    name: str
    kind: str
    status: str
    attributes: Mapping[str, Any]
    events: tuple[tuple[str, Mapping[str, Any]], ...]
    trace_id: str
    span_id: str
    links: tuple[str, ...]
    children: list[Span] = field(default_factory=list)

    def __iter__(self) -> Iterator[Span]:
        """Yield the span itself and all spans below it."""
        yield self
        for child in self.children:
            yield from child

    def __str__(self) -> str:
        ends = [str(self.attributes[name]) for name in (_OUTCOME, _ERROR) if name in self.attributes]
        if not ends and self.status == "error":
            ends = ["error"]
        return f"{self.name}: {', '.join(ends)}" if ends else self.name


class Trace:
    """The spans that a job made. `str` of it is the tree: a line for each span, with outcome and error.

    Attributes:
        roots: the spans that are below none of the others: `send` or `create`, and an attempt that is a root of its own
            because the job waited for long.
    """

    def __init__(self, roots: list[Span]) -> None:
        self.roots = roots

    def __iter__(self) -> Iterator[Span]:
        """Yield all spans; each is followed by those below it."""
        for root in self.roots:
            yield from root

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def named(self, name: str) -> list[Span]:
        """Return the spans of a name, such as `process orders`."""
        return [span for span in self if span.name == name]

    def __str__(self) -> str:
        return "\n".join(line for root in self.roots for line in _lines(root, ""))


def trace_of(job_id: str, recorded: Iterable[Any]) -> Trace:
    """Return the spans of a job out of the SDK's. Raises ValueError if there is none."""
    made: dict[str, Span] = {}
    parents: dict[str, str] = {}
    for one in recorded:
        span = _span(one)
        made[span.span_id] = span
        if one.parent is not None and (above := f"{one.parent.span_id:016x}") in made:
            parents[span.span_id] = above
            made[above].children.append(span)
    own = {key for key, span in made.items() if span.attributes.get(_ID) == job_id}
    if not own:
        raise ValueError(f"no span of a job {job_id!r}: was it enqueued in this harness?")
    return Trace([made[key] for key in made if key in own and not own.intersection(_above(key, parents))])


def _above(key: str, parents: Mapping[str, str]) -> Iterator[str]:
    while (found := parents.get(key)) is not None:
        yield found
        key = found


def _span(one: Any) -> Span:
    context = one.get_span_context()
    return Span(
        name=one.name,
        kind=one.kind.name.lower(),
        status=one.status.status_code.name.lower(),
        attributes=dict(one.attributes or {}),
        events=tuple((event.name, dict(event.attributes or {})) for event in one.events),
        trace_id=f"{context.trace_id:032x}",
        span_id=f"{context.span_id:016x}",
        links=tuple(f"{link.context.span_id:016x}" for link in one.links),
    )


def _lines(span: Span, indent: str) -> Iterator[str]:
    yield f"{indent}{span}"
    for child in span.children:
        yield from _lines(child, indent + "  ")
