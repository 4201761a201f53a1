"""The run for a reader."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from bench.goals import Goal, Part
from bench.samples import METRICS, Samples
from bench.systems.base import System

TABLES = {
    "Enqueue (durable where the system is)": ("single", "concurrent", "coroutines", "bulk"),
    "Drain and latency": ("drain1", "drain2", "p50", "p99", "missing_spans", "span_lag"),
    "Backlog": ("single_shallow", "single_deep", "drain_shallow", "drain_deep"),
    "Life": ("first_job", "replaced", "worker_private", "tree8", "idle8"),
}
_MARKS = {True: "met", False: "NOT MET", None: "not measured"}
_STRETCH = {True: "reached", False: "not reached", None: "not measured"}


def figure(value: float) -> str:
    """Four digits, or whole numbers."""
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def render(samples: Samples, systems: Sequence[type[System]], goals: Sequence[Goal]) -> str:
    """Tables of medians with their spread, then a line for each part of each goal."""
    parts = [_table(title, metrics, samples, systems) for title, metrics in TABLES.items()]
    return "\n\n".join([*filter(None, parts), _goals(goals)])


def about(systems: Sequence[type[System]], samples: Samples, run: Mapping[str, Any]) -> str:
    """What was compared, how it was configured, and what is missing."""
    lines = [f"{name}: {value}" for name, value in run["machine"].items() if name != "key"]
    lines += [
        f"commit: {run['commit'] or 'unknown'}",
        "versions: " + ", ".join(f"{name} {version}" for name, version in run["versions"].items()),
        "",
    ]
    for system in systems:
        promise = "survives a power cut" if system.power else "does not survive a power cut"
        lines.append(f"{system.name}: {system.configuration}; what it acknowledged {promise}")
    lines += [f"SKIPPED {name}: {why}" for name, why in samples.skipped.items()]
    return "\n".join([*lines, *(f"note: {text}" for text in samples.notes)])


def _table(title: str, metrics: Sequence[str], samples: Samples, systems: Sequence[type[System]]) -> str:
    columns = [metric for metric in metrics if any(samples.of(system.name, metric) for system in systems)]
    rows = [["", *(_heading(metric) for metric in columns)]]
    for system in systems:
        cells = [_cell(samples.of(system.name, metric)) for metric in columns]
        if any(cells):
            rows.append([system.name, *cells])
    if len(rows) == 1:
        return ""
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    lines = [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    ]
    return "\n".join([f"{title}: median (lowest-highest)", "-" * len(lines[0]), *lines])


def _heading(metric: str) -> str:
    heading, unit, _ = METRICS[metric]
    return f"{heading} {unit}".strip()


def _cell(found: list[float]) -> str:
    if not found:
        return ""
    text = figure(median(found))
    return text if len(found) == 1 else f"{text} ({figure(min(found))}-{figure(max(found))})"


def _goals(goals: Sequence[Goal]) -> str:
    lines = ["Goals", "-----"]
    for goal in goals:
        lines.append(f"{goal.number}  {goal.kill_reason:<12}  {goal.title}")
        lines += [f"      {_part(part)}" for part in goal.parts]
    return "\n".join([*lines, "10 not applicable yet: the PostgreSQL and JetStream engines are a later piece of work"])


def _part(part: Part) -> str:
    value = "-" if part.value is None else figure(part.value)
    ends = f" ({figure(part.spread[0])}-{figure(part.spread[1])})" if part.spread else ""
    kill_reason = _STRETCH[part.met] if part.stretch else _MARKS[part.met]
    return f"{part.what}: {value}{ends} {part.against}, wanted {part.sign} {part.limit:g}: {kill_reason}"
