"""A trace in OTLP's JSON, drawn as a waterfall in SVG: one bar a span, children below their parent, links as arcs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from html import escape
from typing import Any

WIDTH, LEFT, RIGHT, ROW, TOP = 960, 330, 90, 30, 58
COLORS = {"shop": "#7b61a8", "Story": "#2f7ebd"}
OTHER, FAILED, LOST = "#6b7a88", "#d9822b", "#c0392b"
FONT = 'font-family="sans-serif"'
HEAD = (
    '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    '<path d="M0 0L8 4L0 8z" fill="#888888"/></marker></defs>'
)
KINDS = {"worker_lost": LOST}


@dataclass
class Bar:
    """A span on its row.

    Attributes:
        start, end: seconds since the trace began.
        depth: how many ancestors it has in the trace.
        links: rows of the spans to which it links, its parent left out.
    """

    name: str
    service: str
    span_id: str
    parent: str
    start: float
    end: float
    attributes: dict[str, Any]
    failed: bool
    linked: list[str]
    depth: int = 0
    links: list[int] = field(default_factory=list)


def bars_of(data: dict[str, Any]) -> list[Bar]:
    """The spans of an answer of Jaeger's /api/v3/traces/{id}, in the order of a waterfall."""
    bars = list(_spans(data))
    if not bars:
        return []
    by_id = {bar.span_id: bar for bar in bars}
    began = min(bar.start for bar in bars)
    ordered: list[Bar] = []

    def place(bar: Bar, depth: int) -> None:
        bar.depth = depth
        ordered.append(bar)
        for child in sorted((b for b in bars if b.parent == bar.span_id), key=lambda b: b.start):
            place(child, depth + 1)

    for root in sorted((bar for bar in bars if bar.parent not in by_id), key=lambda bar: bar.start):
        place(root, 0)
    rows = {bar.span_id: row for row, bar in enumerate(ordered)}
    for bar in ordered:
        bar.start, bar.end = bar.start - began, bar.end - began
        bar.links = [rows[span_id] for span_id in bar.linked if span_id in rows and span_id != bar.parent]
    return ordered


def _spans(data: dict[str, Any]) -> Iterator[Bar]:
    for resource in data.get("result", data).get("resourceSpans", []):
        about = _attributes(resource["resource"])
        for scope in resource["scopeSpans"]:
            for span in scope["spans"]:
                yield Bar(
                    name=span["name"],
                    service=str(about.get("service.name", "")),
                    span_id=span["spanId"],
                    parent=span.get("parentSpanId", ""),
                    start=int(span["startTimeUnixNano"]) / 1e9,
                    end=int(span["endTimeUnixNano"]) / 1e9,
                    attributes=_attributes(span),
                    failed=span.get("status", {}).get("code") in (2, "STATUS_CODE_ERROR"),
                    linked=[link["spanId"] for link in span.get("links", [])],
                )


def _attributes(item: dict[str, Any]) -> dict[str, Any]:
    return {pair["key"]: next(iter(pair["value"].values()), None) for pair in item.get("attributes", [])}


def drawn(bars: list[Bar], *, title: str) -> str:
    """The SVG."""
    height = TOP + ROW * len(bars) + 34
    length = max(bar.end for bar in bars) or 1e-9
    scale = (WIDTH - LEFT - RIGHT) / length
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" {FONT} font-size="12">',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        HEAD,
        f'<text x="14" y="24" font-size="15" font-weight="bold" fill="#222222">{escape(title)}</text>',
    ]
    parts += _axis(length, scale, height)
    for row, bar in enumerate(bars):
        parts += _row(bar, row, scale)
    for row, bar in enumerate(bars):
        parts += [_arc(row, other, bar, bars[other], scale) for other in bar.links]
    parts.append("</svg>\n")
    return "\n".join(parts)


def _axis(length: float, scale: float, height: int) -> Iterator[str]:
    step = next(step for step in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 60, 600) if length / step <= 8)
    tick = 0
    while tick * step <= length:
        x = LEFT + tick * step * scale
        yield f'<line x1="{x:.1f}" y1="{TOP - 8}" x2="{x:.1f}" y2="{height - 12}" stroke="#e4e7ea"/>'
        place = f'x="{x:.1f}" y="{TOP - 13}" text-anchor="middle"'
        yield f'<text {place} fill="#777777" font-size="11">{tick * step:g} s</text>'
        tick += 1


def _row(bar: Bar, row: int, scale: float) -> Iterator[str]:
    y, x = TOP + row * ROW, LEFT + bar.start * scale
    width = max(3.0, (bar.end - bar.start) * scale)
    kind = str(bar.attributes.get("error.type", ""))
    color = KINDS.get(kind, FAILED if bar.failed else COLORS.get(bar.service, OTHER))
    attempt = bar.attributes.get("worker.job.attempt")
    label = f"{bar.name} · attempt {attempt}" if attempt and bar.name.startswith("process ") else bar.name
    note = " ".join(filter(None, [str(bar.attributes.get("worker.job.outcome", "")), kind and f"({kind})"]))
    yield f'<text x="{14 + 14 * bar.depth}" y="{y + 17}" fill="#222222">{escape(label)}'
    yield f'<tspan fill="#999999" font-size="11">  {escape(bar.service)}</tspan></text>'
    yield f'<rect x="{x:.1f}" y="{y + 6}" width="{width:.1f}" height="15" rx="2" fill="{color}"/>'
    if note:
        after = x + width + 6
        place = f'x="{after:.1f}"' if after < WIDTH - 190 else f'x="{x - 6:.1f}" text-anchor="end"'
        yield f'<text {place} y="{y + 18}" fill="{color}" font-size="11">{escape(note)}</text>'


def _arc(row: int, other: int, bar: Bar, target: Bar, scale: float) -> str:
    """From the start of a span to the end of the one that it links to."""
    x1, y1 = LEFT + bar.start * scale, TOP + row * ROW + 6
    x2, y2 = LEFT + target.end * scale, TOP + other * ROW + 21
    bend = (y1 - y2) / 2
    path = f"M{x1:.1f} {y1}C{x1:.1f} {y1 - bend:.1f} {x2:.1f} {y2 + bend:.1f} {x2:.1f} {y2 + 2}"
    return f'<path d="{path}" fill="none" stroke="#888888" stroke-dasharray="3 3" marker-end="url(#head)"/>'
