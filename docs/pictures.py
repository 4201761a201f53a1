"""The dashboards as pictures: their own queries, answered by a real Prometheus, drawn with matplotlib.

Not screenshots: Grafana is not asked, so that they can be made where only Prometheus runs.

    python -m docs.pictures --prometheus http://127.0.0.1:9090 --queue deliveries --minutes 15
"""

from __future__ import annotations

import argparse
import json
import math
import re
import time
import urllib.parse
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")

from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

ROOT = Path(__file__).parents[1]
DASHBOARDS = ROOT / "observability/grafana/dashboards"
STEP = 15  # seconds, as the export interval
ROW, WIDTH = 0.30, 14.0  # inches: a unit of Grafana's grid, the whole page
Series = tuple[dict[str, str], list[tuple[float, float]]]


@dataclass(frozen=True)
class Source:
    """A Prometheus, and the span of time that is looked at."""

    url: str
    variables: dict[str, str]
    start: float
    end: float

    def get(self, path: str, **query: Any) -> Any:
        """Raises OSError: not reached, or the query is wrong."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(query)}", timeout=30) as answer:
            return json.load(answer)["data"]

    def fill(self, expr: str) -> str:
        """With the values of the dashboard's variables; the rate interval is four of the exporter's."""
        known = {"__rate_interval": f"{4 * STEP}s", **self.variables}
        return re.sub(r"\$(\w+)", lambda found: known[found[1]], expr)

    def range(self, expr: str) -> list[Series]:
        found = self.get("query_range", query=self.fill(expr), start=self.start, end=self.end, step=STEP)["result"]
        return [(one["metric"], [(float(at), float(value)) for at, value in one["values"]]) for one in found]

    def instant(self, expr: str) -> list[tuple[dict[str, str], float]]:
        found = self.get("query", query=self.fill(expr), time=self.end)["result"]
        return [(one["metric"], float(one["value"][1])) for one in found]

    def exemplars(self, expr: str) -> list[tuple[float, float]]:
        """(when, seconds) of those that lead to a trace."""
        found = self.get("query_exemplars", query=self.fill(expr), start=self.start, end=self.end)
        points = [point for series in found for point in series["exemplars"] if "trace_id" in point["labels"]]
        return [(float(point["timestamp"]), float(point["value"])) for point in points]


# --- values ---------------------------------------------------------------------------------------------------------


def shown(value: float, unit: str) -> str:
    """A figure for people, near to how Grafana writes it."""
    if math.isnan(value):
        return "-"
    if unit == "percentunit":
        return f"{100 * value:.3g} %"
    if unit == "bytes":
        return f"{value / 2**20:.0f} MiB"
    if unit == "s":
        return f"{1000 * value:.3g} ms" if 0 < abs(value) < 1 else f"{value:.3g} s"
    number = f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return number + (" /s" if unit == "ops" else "")


def legend_of(target: dict[str, Any], labels: dict[str, str]) -> str:
    return re.sub(r"\{\{(\w+)\}\}", lambda found: labels.get(found[1], ""), target["legendFormat"])[:40].strip()


# --- panels ---------------------------------------------------------------------------------------------------------


def draw_stat(axis: Axes, panel: dict[str, Any], source: Source) -> None:
    unit = panel["fieldConfig"]["defaults"].get("unit", "short")
    found = source.range(panel["targets"][0]["expr"])
    points = found[0][1] if found else []
    if points:
        axis.fill_between([at for at, _ in points], [value for _, value in points], color="#9ecae1", alpha=0.4, lw=0)
    text = shown(points[-1][1], unit) if points else "-"
    axis.text(0.5, 0.5, text, transform=axis.transAxes, ha="center", va="center", fontsize=17)
    axis.set_axis_off()


def draw_lines(axis: Axes, panel: dict[str, Any], source: Source) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    unit, custom = defaults.get("unit", "short"), defaults.get("custom", {})
    stacked = custom.get("stacking", {}).get("mode") == "normal"
    below: dict[float, float] = {}
    for target in panel["targets"]:
        for labels, points in source.range(target["expr"]):
            times, values = [at for at, _ in points], [value for _, value in points]
            name = legend_of(target, labels)
            if stacked:
                base = [below.get(at, 0.0) for at in times]
                axis.bar(times, values, width=STEP, bottom=base, label=name)
                below.update({at: low + value for at, low, value in zip(times, base, values, strict=True)})
            else:
                axis.plot(times, values, label=name, linewidth=1)
    if panel["targets"][0].get("exemplar"):
        _dots(axis, source.exemplars(panel["targets"][0]["expr"]))
    if custom.get("scaleDistribution", {}).get("type") == "log":
        axis.set_yscale("log")
    else:
        axis.set_ylim(bottom=0, top=defaults.get("max") or 1.25 * axis.get_ylim()[1])
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: shown(value, unit)))
    if axis.get_legend_handles_labels()[1]:
        axis.legend(fontsize=6, loc="upper left", ncols=2, framealpha=0.7)


def _dots(axis: Axes, points: Sequence[tuple[float, float]], *, label: str = "exemplars") -> None:
    """Some of them: hundreds on one small picture would hide the lines."""
    few = points[:: max(1, len(points) // 80)]
    if few:
        axis.plot(*zip(*few, strict=True), "D", markersize=2.5, color="#1f78c1", alpha=0.7, label=label, lw=0)


def draw_heat(axis: Axes, panel: dict[str, Any], source: Source) -> None:
    """Cumulative buckets become cells, as Grafana's heat map makes them of the same answer."""
    target = panel["targets"][0]
    found = sorted(source.range(target["expr"]), key=lambda series: float(series[0]["le"]))
    bounds = [float(labels["le"]) for labels, _ in found]
    times = sorted({at for _, points in found for at, _ in points})
    counts = [[dict(points).get(at, 0.0) for at in times] for _, points in found]
    cells = [[max(0.0, b - a) for a, b in zip([0.0] * len(times) if i == 0 else counts[i - 1], row, strict=True)]
             for i, row in enumerate(counts)]  # fmt: skip
    used = [i for i, row in enumerate(cells) if any(value >= 0.5 for value in row)] or [0]
    low, high = used[0], used[-1] + 1
    shaded = [[value**0.3 if value >= 0.5 else math.nan for value in row] for row in cells[low:high]]
    axis.pcolormesh([*times, times[-1] + STEP], range(high - low + 1), shaded, cmap="Oranges", vmin=0)
    axis.set_yticks(range(1, high - low + 1), [f"{bound:g} s" for bound in bounds[low:high]])
    places = [(at, _row(value, bounds) - low) for at, value in source.exemplars(target["expr"])]
    _dots(axis, [(at, row) for at, row in places if 0 <= row <= high - low])


def _row(value: float, bounds: Sequence[float]) -> float:
    """Where a value lies between the rows of the buckets' bounds."""
    row = next(i for i, bound in enumerate(bounds) if value <= bound)
    least = bounds[row - 1] if row else 0.0
    most = bounds[row] if math.isfinite(bounds[row]) else 2 * least
    return row + (value - least) / (most - least)


def draw_table(axis: Axes, panel: dict[str, Any], source: Source) -> None:
    """The answers of all queries, merged by their labels, as the transformations say."""
    options = panel["transformations"][1]["options"]
    titles, order = options["renameByName"], sorted(options["indexByName"], key=options["indexByName"].__getitem__)
    labels = [name for name in order if not name.startswith("Value #")]
    units = {
        override["matcher"]["options"]: prop["value"]
        for override in panel["fieldConfig"]["overrides"]
        for prop in override["properties"]
        if prop["id"] == "unit"
    }
    merged: list[dict[str, str]] = []
    for target in panel["targets"]:
        column = f"Value #{target['refId']}"
        for found, value in source.instant(target["expr"]):
            key = {name: found[name] for name in labels if name in found}
            fitting = [row for row in merged if all(row.get(name, key[name]) == key[name] for name in key)
                       and column not in row]  # fmt: skip
            row = fitting[0] if fitting else {}
            if not fitting:
                merged.append(row)
            row.update(key | {column: shown(value, units.get(titles[column], "short"))})
    cells = [[row.get(name, "")[:36] for name in order] for row in merged]
    axis.set_axis_off()
    drawn = axis.table(cells or [[""] * len(order)], colLabels=[titles[name] for name in order], loc="upper left")
    drawn.auto_set_font_size(False)
    drawn.set_fontsize(7)
    drawn.auto_set_column_width(list(range(len(order))))


DRAW = {"stat": draw_stat, "timeseries": draw_lines, "heatmap": draw_heat, "table": draw_table}


# --- a page ---------------------------------------------------------------------------------------------------------


def draw(board: dict[str, Any], source: Source, caption: str, target: Path) -> None:
    """Panels where the dashboard has them."""
    height = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in board["panels"])
    figure = pyplot.figure(figsize=(WIDTH, ROW * (height + 3)), dpi=72)
    grid = figure.add_gridspec(height + 3, 24, left=0.04, right=0.99, top=0.99, bottom=0.01, wspace=4, hspace=1.2)
    for panel in board["panels"]:
        place = panel["gridPos"]
        rows = slice(place["y"] + 3, place["y"] + place["h"] + 2)
        axis = figure.add_subplot(grid[rows, place["x"] : place["x"] + place["w"]])
        axis.set_title(panel["title"], fontsize=8, loc="left", y=1.0)
        axis.tick_params(labelsize=6)
        axis.set_xlim(source.start, source.end)
        axis.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(4))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda at, _: f"{datetime.fromtimestamp(at, UTC):%H:%M}"))
        DRAW[panel["type"]](axis, panel, source)
    figure.text(0.01, 1 - 0.6 * ROW / (ROW * (height + 3)), board["title"], fontsize=12, va="top", weight="bold")
    figure.text(0.01, 1 - 1.6 / (height + 3), caption, fontsize=7, va="top", color="#555555")
    figure.savefig(target, pil_kwargs={"optimize": True})
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description="Draws the dashboards from a Prometheus that a service reports to.")
    parser.add_argument("--prometheus", default="http://127.0.0.1:9090", help="its address")
    parser.add_argument("--queue", default="deliveries", help="of the queue's dashboard")
    parser.add_argument("--minutes", type=float, default=15, help="until now")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/pictures", help="directory of the PNG files")
    parser.add_argument("--version", default="", help="Prometheus's, where its build does not know it")
    parser.add_argument("--note", default="", help="what was going on; goes into the caption")
    given = parser.parse_args()
    now = time.time()
    variables = {"service": ".*", "queue": given.queue}
    source = Source(given.prometheus.rstrip("/"), variables, now - 60 * given.minutes, now)
    version = source.get("status/buildinfo")["version"] or given.version
    given.out.mkdir(parents=True, exist_ok=True)
    for path in sorted(DASHBOARDS.glob("*.json")):
        caption = (
            f"Rendered from Prometheus {version} by docs/pictures.py with the queries of {path.relative_to(ROOT)}, "
            f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC; not a Grafana screenshot. {given.note}"
        )
        draw(json.loads(path.read_text()), source, caption, given.out / f"{path.stem}.png")
        print(given.out / f"{path.stem}.png")


if __name__ == "__main__":
    main()
