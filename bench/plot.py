"""The run as a picture, beside its JSON."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from bench.samples import METRICS, Samples
from bench.systems.base import System
from bench.systems.ours import Ours

PANELS = ("single", "concurrent", "bulk", "drain1", "drain2", "p50", "p99", "tree8")
_OURS, _PEER = "#0b6e99", "#b8b8b8"


def draw(samples: Samples, systems: Sequence[type[System]], title: str, target: Path) -> list[Path]:
    """Writes PNG and SVG; gives the files, none where matplotlib is not installed."""
    try:
        import matplotlib
    except ImportError:
        return []
    matplotlib.use("agg")
    from matplotlib import pyplot

    panels = [metric for metric in PANELS if any(samples.of(system.name, metric) for system in systems)]
    if not panels:
        return []
    rows = -(-len(panels) // 2)
    figure, axes = pyplot.subplots(rows, 2, figsize=(13, 2.7 * rows), squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for axis, metric in zip(axes.flat, panels, strict=False):
        _panel(axis, metric, samples, systems)
    figure.suptitle(title, fontsize=10)
    figure.tight_layout()
    files = [target.with_suffix(".png"), target.with_suffix(".svg")]
    for file in files:
        figure.savefig(file)
    pyplot.close(figure)
    return files


def _panel(axis: Any, metric: str, samples: Samples, systems: Sequence[type[System]]) -> None:
    """Bars of medians; whiskers from the lowest to the highest sample."""
    heading, unit, more = METRICS[metric]
    shown = [system for system in systems if samples.of(system.name, metric)]
    found = [samples.of(system.name, metric) for system in shown]
    middles = [median(values) for values in found]
    ends = [
        [value - min(values) for value, values in zip(middles, found, strict=True)],
        [max(values) - value for value, values in zip(middles, found, strict=True)],
    ]
    colors = [_OURS if issubclass(system, Ours) else _PEER for system in shown]
    bars = axis.barh([system.name for system in shown], middles, xerr=ends, color=colors, capsize=2, ecolor="#444444")
    axis.bar_label(
        bars, labels=[f" {value:,.3g}" if value < 100 else f" {value:,.0f}" for value in middles], fontsize=7
    )
    axis.invert_yaxis()
    axis.margins(x=0.18)
    axis.set_title(f"{heading} {unit} ({'more' if more else 'less'} is better)", fontsize=9)
    axis.tick_params(labelsize=7)
