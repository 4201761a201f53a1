"""The log store: every attempt has its lines, found by the ids of its span, and every line leads to a span."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tests.stack.pins import load
from tests.stack.report import Report
from tests.stack.run import Run
from tests.stack.spans import Traces
from tests.support.programs import NotInTime, get, wait_for

_MOST = 100_000
_DASHBOARD = "observability/grafana/dashboards/logs.json"
_DATASOURCES = "observability/grafana/provisioning/datasources/datasources.yaml"


class LogStore:
    """VictoriaLogs' HTTP API.

    Args:
        url: where it answers.
    """

    def __init__(self, url: str) -> None:
        self._url = f"{url}/select/logsql"

    def lines(self, query: str, run: Run) -> Sequence[Mapping[str, str]]:
        """What a query in LogsQL finds of the time of a run."""
        found = get(f"{self._url}/query", query=query, start=run.began - 5, end=run.ended + 60, limit=_MOST)
        if isinstance(found, dict):
            return [found]
        return [json.loads(line) for line in found.splitlines()]

    def series(self, query: str, run: Run) -> Sequence[Any]:
        """The series of a query with `stats`."""
        parameters = {"query": query, "start": run.began - 5, "end": run.ended + 60, "step": "15s"}
        found: Sequence[Any] = get(f"{self._url}/stats_query_range", **parameters)["data"]["result"]
        return found


def check_logs(report: Report, run: Run, store: LogStore, traces: Traces) -> None:
    """All of it, for a run without kills: what a killed process has not sent is lost."""
    worker = f'{{"service.name"="{run.service("worker")}"}}'
    finished = f'{worker} _msg:="job_finished"'
    try:
        wait_for(lambda: len(store.lines(finished, run)) >= len(run.ran), "the last lines", 20)
    except NotInTime:
        pass  # the checks will tell
    lines = store.lines(finished, run)
    own = sorted((line["trace_id"], line["span_id"], line["job_id"]) for line in lines)
    wanted = sorted((ran.trace, ran.span, ran.job) for ran in run.ran)
    report.check(own == wanted, "every attempt has one line job_finished, under the ids of its span", len(own))
    keys = {"queue", "attempt", "outcome", "duration", "process", "severity_text", "severity_number",
            "service.namespace", "service.instance.id"}  # fmt: skip
    report.none([keys - set(line) for line in lines if not keys <= set(line)], "with its keys and its resource")
    every = store.lines(worker, run)
    astray = [line["_msg"] for line in every if (span := line.get("span_id")) and span not in traces.spans]
    report.none(astray, "every line with a span leads to one", f"{len(every)} lines")
    streams = {line["_stream"] for line in every}
    report.check(len(streams) <= len(run.slots) + 4, "one stream per process of the tree", len(streams))
    _links(report, run, store)
    _panels(report, run, store)


def check_lost_lines(report: Report, run: Run, store: LogStore, traces: Traces) -> None:
    """For a run with kills: what maintenance said of killed attempts leads to their spans."""
    lines = store.lines(f'{{"service.name"="{run.service("worker")}"}} _msg:="attempt_lost"', run)
    astray = [line["job_id"] for line in lines if line.get("span_id") not in traces.spans]
    report.none(astray, "lines of killed attempts lead to their spans", len(lines))
    report.check(lines, "there are such lines", len(lines))


def _links(report: Report, run: Run, store: LogStore) -> None:
    """The queries behind Grafana's links, for an attempt of this run."""
    sources = {source["uid"]: source["jsonData"] for source in load(_DATASOURCES)["datasources"]}
    ran = run.ran[-1]
    query = sources["jaeger"]["tracesToLogsV2"]["query"]
    for name, value in (("__trace.traceId", ran.trace), ("__span.spanId", ran.span)):
        query = query.replace(f"$${{{name}}}", value)
    found = store.lines(query, run)
    report.check(any(line["job_id"] == ran.job for line in found), "from a span to its lines", f"{query}: {len(found)}")
    (field,) = sources["victorialogs"]["derivedFields"]
    report.check(found and all(line[field["matcherRegex"]] == ran.trace for line in found), "and back to its trace")


def _panels(report: Report, run: Run, store: LogStore) -> None:
    """The panels of the dashboard, for all lines and for those of one trace."""
    panels = load(_DASHBOARD)["panels"]  # JSON is YAML
    first = run.ran[0]
    for trace, job in (("", ""), (first.trace, ""), (first.trace, first.job)):
        for panel in panels:
            (target,) = panel["targets"]
            query = target["expr"].replace("$trace", trace).replace("$job", job)
            rows = (store.series if target["queryType"] == "statsRange" else store.lines)(query, run)
            if panel["title"] != "Warnings and errors" or not trace:
                report.check(rows, f"panel {panel['title']!r} gives data", f"{len(rows)} for {query}")
