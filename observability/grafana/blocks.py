"""What the dashboards are built of: queries, panels and variables in one style."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from grafana_foundation_sdk.builders import common, dashboard, heatmap, prometheus, stat, table, timeseries
from grafana_foundation_sdk.models import common as c
from grafana_foundation_sdk.models import dashboard as d
from grafana_foundation_sdk.models import heatmap as h
from grafana_foundation_sdk.models.prometheus import PromQueryFormat, QueryEditorMode

PROMETHEUS = d.DataSourceRef(type_val="prometheus", uid="prometheus")  # as provisioned
EXPORT_INTERVAL = 15_000  # ms between two points of a series: a gap of four is one
Query = tuple[str, str]  # PromQL, legend


def dashboard_of(uid: str, title: str, description: str, variables: Sequence[Any]) -> dashboard.Dashboard:
    """An empty one, with links to the others."""
    board = (
        dashboard.Dashboard(title)
        .uid(uid)
        .description(description)
        .tags(["worker"])
        .timezone("browser")
        .readonly()
        .tooltip(d.DashboardCursorSync.CROSSHAIR)
        .time("now-30m", "now")
        .refresh("15s")
        .version(1)
        .link(
            dashboard.DashboardLink("Worker")
            .type(d.DashboardLinkType.DASHBOARDS)
            .tags(["worker"])
            .include_vars(True)
            .keep_time(True)
        )
    )
    for variable in variables:
        board.with_variable(variable)
    return board


def variable(name: str, label: str, values: str, *, many: bool = True) -> dashboard.QueryVariable:
    """A choice among label values; `many`: several at once, and all of them."""
    found = (
        dashboard.QueryVariable(name)
        .label(label)
        .datasource(PROMETHEUS)
        .query({"query": values, "refId": name})
        .refresh(d.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(d.VariableSort.ALPHABETICAL_ASC)
        .multi(many)
        .include_all(many)
    )
    if many:
        found.all_value(".*").current(d.VariableOption(text="All", value="$__all"))
    return found


def query(expr: str, legend: str, ref: str, *, instant: bool = False, exemplar: bool = False) -> prometheus.Dataquery:
    found = (
        prometheus.Dataquery()
        .expr(expr)
        .legend_format(legend)
        .ref_id(ref)
        .datasource(PROMETHEUS)
        .editor_mode(QueryEditorMode.CODE)
        .format(PromQueryFormat.TABLE if instant else PromQueryFormat.TIME_SERIES)
    )
    return (found.instant() if instant else found.range()).exemplar(exemplar)


def lines(
    title: str,
    description: str,
    *queries: Query,
    unit: str = "short",
    width: int = 8,
    most: float | None = None,
    exemplars: bool = False,
    stacked: bool = False,
    logarithmic: bool = False,
    limit: float | None = None,
) -> timeseries.Panel:
    """Series over time.

    Args:
        most: end of the axis.
        exemplars: points that lead to a trace.
        stacked: bars on top of each other.
        logarithmic: of values that are never zero.
        limit: a line at this value.
    """
    panel = (
        timeseries.Panel()
        .title(title)
        .description(description)
        .datasource(PROMETHEUS)
        .span(width)
        .height(8)
        .unit(unit)
        .color_scheme(dashboard.FieldColor().mode(d.FieldColorModeId.PALETTE_CLASSIC))
        .line_width(1)
        .fill_opacity(10)
        .show_points(c.VisibilityMode.NEVER)
        .span_nulls(4 * EXPORT_INTERVAL)
        .legend(
            common.VizLegendOptions()
            .display_mode(c.LegendDisplayMode.TABLE)
            .placement(c.LegendPlacement.BOTTOM)
            .show_legend(True)
            .calcs(["lastNotNull", "max"])
        )
        .tooltip(common.VizTooltipOptions().mode(c.TooltipDisplayMode.MULTI).sort(c.SortOrder.DESCENDING))
    )
    if logarithmic:
        panel.scale_distribution(common.ScaleDistributionConfig().type(c.ScaleDistribution.LOG).log(10))
    else:
        panel.min(0)
    if most is not None:
        panel.max(most)
    if stacked:
        panel.draw_style(c.GraphDrawStyle.BARS).fill_opacity(70)
        panel.stacking(common.StackingConfig().mode(c.StackingMode.NORMAL).group("A"))
    if limit is not None:
        panel.thresholds(_steps((None, "transparent"), (limit, "red")))
        panel.thresholds_style(common.GraphThresholdsStyleConfig().mode(c.GraphThresholdsStyleMode.LINE))
    for (expr, legend), ref in zip(queries, "ABCDEFGH", strict=False):
        panel.with_target(query(expr, legend, ref, exemplar=exemplars))
    return panel


def heat(title: str, description: str, buckets: str, *, width: int = 12) -> heatmap.Panel:
    """How many observations fell into which bucket; `buckets`: increase of a histogram's, by `le`.

    The color is logarithmic: one slow attempt among thousands is what one looks for.
    """
    target = query(buckets, "{{le}}", "A", exemplar=True).format(PromQueryFormat.HEATMAP)
    color = heatmap.HeatmapColorOptions().mode(h.HeatmapColorMode.SCHEME).scheme("Oranges")
    return (
        heatmap.Panel()
        .title(title)
        .description(description)
        .datasource(PROMETHEUS)
        .span(width)
        .height(8)
        .calculate(False)
        .color(color.scale(h.HeatmapColorScale.EXPONENTIAL).exponent(0.3).steps(64))
        .filter_values(heatmap.FilterValueRange().le(1e-9))
        .y_axis(heatmap.YAxisConfig().unit("s").axis_placement(c.AxisPlacement.LEFT))
        .rows_frame(heatmap.RowsHeatmapOptions().layout(c.HeatmapCellLayout.AUTO))
        .exemplars_color("rgba(31,120,193,0.9)")
        .show_legend()
        .with_target(target)
    )


def number(
    title: str, description: str, expr: str, *, unit: str = "short", steps: Sequence[tuple[float | None, str]] = ()
) -> stat.Panel:
    """One figure, green unless steps say otherwise."""
    return (
        stat.Panel()
        .title(title)
        .description(description)
        .datasource(PROMETHEUS)
        .span(4)
        .height(4)
        .unit(unit)
        .no_value("-")
        .graph_mode(c.BigValueGraphMode.AREA)
        .color_scheme(dashboard.FieldColor().mode(d.FieldColorModeId.THRESHOLDS))
        .thresholds(_steps(*(steps or ((None, "green"),))))
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(False).fields(""))
        .with_target(query(expr, "", "A"))
    )


def _steps(*steps: tuple[float | None, str]) -> dashboard.ThresholdsConfig:
    found = [d.Threshold(value=value, color=color) for value, color in steps]
    return dashboard.ThresholdsConfig().mode(d.ThresholdsMode.ABSOLUTE).steps(found)


class Column:
    """One query of a table; `unit` as elsewhere, `steps` color the cell's text."""

    def __init__(self, title: str, expr: str, *, unit: str = "short", steps: Sequence[tuple[float, str]] = ()) -> None:
        self.title, self.expr, self.unit, self.steps = title, expr, unit, steps


def rows(
    title: str,
    description: str,
    labels: dict[str, str],
    columns: Sequence[Column],
    *,
    width: int = 24,
    link: tuple[str, str, str] | None = None,
) -> table.Panel:
    """A table: a row for each set of labels, a column for each query.

    Args:
        labels: label to the title of its column.
        link: on which column, its text, where to.
    """
    panel = table.Panel().title(title).description(description).datasource(PROMETHEUS).span(width).height(6)
    for column, ref in zip(columns, "ABCDEFGHIJKL", strict=False):
        panel.with_target(query(column.expr, "", ref, instant=True))
        properties: list[dict[str, Any]] = [{"id": "unit", "value": column.unit}]
        if column.steps:
            steps = [{"value": None, "color": "text"}, *({"value": v, "color": color} for v, color in column.steps)]
            properties.append({"id": "thresholds", "value": {"mode": "absolute", "steps": steps}})
            properties.append({"id": "color", "value": {"mode": "thresholds"}})
            properties.append({"id": "custom.cellOptions", "value": {"type": "color-text"}})
        panel.override_by_name(column.title, _properties(properties))
    if link is not None:
        on, text, url = link
        properties = [{"id": "links", "value": [{"title": text, "url": url, "targetBlank": False}]}]
        panel.override_by_name(on, _properties(properties))
    titles = {f"Value #{ref}": column.title for column, ref in zip(columns, "ABCDEFGHIJKL", strict=False)}
    order = {name: at for at, name in enumerate([*labels, *titles])}
    panel.with_transformation(d.DataTransformerConfig(id_val="merge", options={}))
    return panel.with_transformation(
        d.DataTransformerConfig(
            id_val="organize",
            options={"excludeByName": {"Time": True}, "renameByName": labels | titles, "indexByName": order},
        )
    )


def _properties(values: Sequence[dict[str, Any]]) -> list[d.DynamicConfigValue]:
    return [d.DynamicConfigValue(id_val=value["id"], value=value["value"]) for value in values]
