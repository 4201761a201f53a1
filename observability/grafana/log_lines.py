"""The dashboard of log lines: those of a trace or a job, the warnings and errors, and how many there are.

Its queries are LogsQL, which VictoriaLogs answers; names of fields are the keys of the lines, the text is `_msg`.
"""

from __future__ import annotations

from typing import Any

from grafana_foundation_sdk.builders import common, dashboard, logs, timeseries
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.variants import Dataquery
from grafana_foundation_sdk.models import common as c
from grafana_foundation_sdk.models import dashboard as d

from observability.grafana.blocks import dashboard_of

VICTORIALOGS = d.DataSourceRef(type_val="victoriametrics-logs-datasource", uid="victorialogs")  # as provisioned
# An id that is not given fits every line, also one without that field.
CHOSEN = 'trace_id:~"^$trace" job_id:~"^$job"'
WARNING = 13  # severity_number of OpenTelemetry; 17 is an error


class LogsQuery(Dataquery, Builder[Dataquery]):
    """A query in LogsQL. `kind`: instant gives lines, statsRange gives series."""

    def __init__(self, expr: str, kind: str = "instant", legend: str = "") -> None:
        self._json = {
            "refId": "A",
            "datasource": VICTORIALOGS,
            "editorMode": "code",
            "expr": expr,
            "queryType": kind,
            "maxLines": 1000,
        } | ({"legendFormat": legend} if legend else {})

    def to_json(self) -> dict[str, object]:
        return self._json

    def build(self) -> Dataquery:
        return self


def log_lines() -> dashboard.Dashboard:
    """Build it. The two variables are texts, to be pasted or given in a link."""
    variables = [_text("trace", "Trace id begins with"), _text("job", "Job id begins with")]
    about = "Lines of a trace or of a job: what handlers and the framework said, in which process."
    board = dashboard_of("worker-logs", "Worker: log lines", about, variables)
    board.with_panel(_counted())
    every = "All lines, or those of the trace and the job above. A line's details lead to its trace."
    board.with_panel(_lines("Lines", every, CHOSEN))
    wrong = "What failed, was killed or is doubtful, of all services."
    return board.with_panel(_lines("Warnings and errors", wrong, f"{CHOSEN} severity_number:>={WARNING}"))


def _text(name: str, label: str) -> Any:
    return dashboard.TextBoxVariable(name).label(label).default_value("")


def _lines(title: str, description: str, expr: str) -> logs.Panel:
    return (
        logs.Panel()
        .title(title)
        .description(description)
        .datasource(VICTORIALOGS)
        .span(24)
        .height(12)
        .show_time(True)
        .wrap_log_message(True)
        .enable_log_details(True)
        .sort_order(c.LogsSortOrder.DESCENDING)
        .with_target(LogsQuery(expr))
    )


def _counted() -> timeseries.Panel:
    return (
        timeseries.Panel()
        .title("Lines by level")
        .description("How many there are, of the trace and the job above.")
        .datasource(VICTORIALOGS)
        .span(24)
        .height(6)
        .min(0)
        .draw_style(c.GraphDrawStyle.BARS)
        .fill_opacity(70)
        .stacking(common.StackingConfig().mode(c.StackingMode.NORMAL).group("A"))
        .with_target(LogsQuery(f"{CHOSEN} | stats by (severity_text) count() lines", "statsRange", "{{severity_text}}"))
    )
