"""What people look at: dashboards and their links, alerts, exemplars, Jaeger's monitoring tab."""

from __future__ import annotations

import json
import re
import subprocess
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.stack.pins import ROOT, load
from tests.stack.prometheus import Prometheus
from tests.stack.report import Report
from tests.stack.spans import fetch
from tests.support.programs import get

OBSERVABILITY = ROOT / "observability"
RULES = OBSERVABILITY / "prometheus"
# What Grafana would put in at an interval of 15 s and a range of ten minutes.
_BUILT_IN = {
    "__rate_interval": "1m",
    "__interval": "15s",
    "__range": "10m",
    "__range_s": "600",
    "__interval_ms": "15000",
}
_HISTOGRAMS = (
    "messaging_process_duration_seconds_bucket",
    "worker_job_queue_wait_duration_seconds_bucket",
    "messaging_client_operation_duration_seconds_bucket",
)


def dashboards() -> Iterator[tuple[str, Any]]:
    """(file name, dashboard) of all there are."""
    for path in sorted((OBSERVABILITY / "grafana" / "dashboards").rglob("*.json")):
        yield path.name, json.loads(path.read_text())


def panels(dashboard: Any) -> Iterator[Any]:
    """All of a dashboard, those of closed rows, too."""
    for panel in dashboard.get("panels", ()):
        yield panel
        yield from panels(panel)


class Substitution:
    """Variables of a dashboard with the values that Grafana would find.

    Args:
        prefer: the value to choose where a variable has only one, by the variable's label.
    """

    def __init__(self, prometheus: Prometheus, dashboard: Any, prefer: Mapping[str, str], span: tuple[float, float]):
        self.values = dict(_BUILT_IN)
        self.empty: list[str] = []
        for variable in dashboard.get("templating", {}).get("list", ()):
            name = variable["name"]
            if variable["type"] == "query":
                query = variable["query"] if isinstance(variable["query"], str) else variable["query"]["query"]
                match = re.fullmatch(r"label_values\((?:(.+),\s*)?(\w+)\)", query)
                assert match, f"variable {name}: {query} is no label_values()"
                found = prometheus.label_values(self(match[1] or '{__name__=~".+"}'), match[2], *span)
                if not found:
                    self.empty.append(f"{name}: {query}")
                self.values[name] = self._chosen(variable, found, prefer.get(match[2], ""))
            elif variable["type"] != "datasource":
                current = (variable.get("current") or {}).get("value") or variable.get("query", "")
                self.values[name] = current if isinstance(current, str) else "|".join(current)

    def _chosen(self, variable: Any, found: Sequence[str], preferred: str) -> str:
        if variable.get("includeAll"):
            return variable.get("allValue") or "|".join(re.escape(value) for value in found)
        return preferred if preferred in found else next(iter(found), "")

    def __call__(self, query: str) -> str:
        return re.sub(
            r"\$\{(\w+)(?::\w+)?\}|\$(\w+)|\[\[(\w+)\]\]",
            lambda m: self.values.get(m[1] or m[2] or m[3], m[0]),
            query,
        )


def check_dashboards(
    report: Report, prometheus: Prometheus, prefer: Mapping[str, str], span: tuple[float, float]
) -> None:
    """Every query of every dashboard gives data of the runs in `span`."""
    for name, dashboard in dashboards():
        if name == "logs.json":  # of the log store, see check_logs
            continue
        put = Substitution(prometheus, dashboard, prefer, span)
        report.none(put.empty, f"{name}: every variable has values", f"{len(put.values) - len(_BUILT_IN)} variables")
        wrong, points, queries = [], 0, 0
        for panel in panels(dashboard):
            for target in panel.get("targets", ()):
                if "expr" not in target or target.get("hide"):
                    continue
                queries += 1
                try:
                    seen = prometheus.points(put(target["expr"]), *span)
                except ValueError as error:
                    wrong.append(f"{panel.get('title')}: {error}")
                    continue
                points += seen
                if not seen:
                    wrong.append(f"{panel.get('title')} ({target.get('refId')}): no data for {put(target['expr'])}")
        report.none(wrong, f"{name}: every panel's query gives data", f"{queries} queries, {points} points")
        report.check(queries, f"{name}: there are queries", queries)


def check_datasources(report: Report, prometheus: Prometheus, span: tuple[float, float]) -> None:
    """The queries behind "trace to metrics", for the tags of a `process` span."""
    put = {"$$__tags": 'messaging_destination_name="deliveries"', "$$__rate_interval": "1m", "$$__interval": "15s"}
    sources = load("observability/grafana/provisioning/datasources/datasources.yaml")["datasources"]
    wrong, count = [], 0
    for source in sources:
        for query in source.get("jsonData", {}).get("tracesToMetrics", {}).get("queries", ()):
            text = query["query"]
            for key, value in put.items():
                text = text.replace(key, value)
            count += 1
            if not prometheus.points(text, *span):
                wrong.append(text)
    report.none(wrong, "links from a trace to metrics give data", f"{count} queries")


def check_alerts(report: Report, prometheus: Prometheus, promtool: Path, span: tuple[float, float]) -> None:
    """Rules are loaded and sound; each alert was seen, or fires in a case of `promtool test rules`."""
    files = sorted(RULES.glob("*.yml"))
    tests = [path for path in files if path.name.endswith("_test.yml")]
    rules = [path for path in files if "groups" in (load(str(path.relative_to(ROOT))) or {})]
    for command, paths in (("check", rules), ("test", tests)):
        for path in paths:
            done = subprocess.run([promtool, command, "rules", path.name], cwd=RULES, capture_output=True, text=True)
            words = " ".join((done.stdout + done.stderr).split())
            report.check(done.returncode == 0, f"promtool {command} rules {path.name}", words[-200:])
    covered = set().union(*(_covered(path) for path in tests))
    loaded = prometheus.rules()
    names = {rule["alert"] for path in rules for group in _groups(path) for rule in group["rules"] if "alert" in rule}
    alerts = {rule["name"]: rule for rule in loaded if rule["type"] == "alerting"}
    report.none(names ^ set(alerts), "Prometheus has loaded every alert", ", ".join(sorted(names)))
    sick = [(rule["name"], rule.get("lastError")) for rule in loaded if rule["health"] == "err"]
    report.none(sick, "no rule fails", f"{len(loaded)} rules")
    live = {name for name, rule in alerts.items() if prometheus.points(rule["query"], *span)}
    report.none(names - live - covered, "every alert's expression gave data here, or fires in a promtool case",
                f"here: {', '.join(sorted(live)) or 'none'}; by promtool: {len(covered & names)}")  # fmt: skip
    report.check(prometheus.points('ALERTS{alertname="WorkerDeadLetters", alertstate="firing"}', *span),
                 "WorkerDeadLetters fired while letters rested")  # fmt: skip
    silent = [
        rule["name"] for rule in loaded if rule["type"] == "recording" and not prometheus.points(rule["name"], *span)
    ]
    report.none(silent, "every recording rule gave data")


def _groups(path: Path) -> Sequence[Any]:
    found: Sequence[Any] = load(str(path.relative_to(ROOT)))["groups"]
    return found


def _covered(path: Path) -> set[str]:
    """Alerts that a test file expects to fire."""
    tests = load(str(path.relative_to(ROOT)))["tests"]
    cases = [case for test in tests for case in test.get("alert_rule_test", ())]
    return {case["alertname"] for case in cases if case.get("exp_alerts")}


def check_exemplars(
    report: Report, prometheus: Prometheus, jaeger: str, jobs: Sequence[str], span: tuple[float, float]
) -> None:
    """Each exemplar of these services leads to a span that Jaeger has."""
    for metric in _HISTOGRAMS:
        found = set(prometheus.exemplars(f'{metric}{{job=~"{"|".join(jobs)}"}}', *span))
        by_trace = defaultdict(set)
        for trace_id, span_id in found:
            by_trace[trace_id].add(span_id)
        lost = [trace_id for trace_id, ids in by_trace.items() if ids - {seen.span for seen in fetch(jaeger, trace_id)}]
        report.check(found, f"{metric} has exemplars", len(found))
        report.none(lost, "and each leads to a span in Jaeger", f"{len(by_trace)} traces")


def check_monitoring(report: Report, jaeger: str, service: str, end: float) -> None:
    """Jaeger's monitoring tab: call rates, latencies and errors out of the span metrics."""
    common = {"service": service, "groupByOperation": "true", "endTs": int(end * 1000), "lookback": 600_000,
              "step": 15_000, "ratePer": 600_000}  # fmt: skip
    for what, more in (("calls", {}), ("latencies", {"quantile": 0.95}), ("errors", {})):
        answer = get(f"{jaeger}/api/metrics/{what}", **common, **more, spanKind=["consumer", "client"])
        values = {}
        for metric in answer.get("metrics", ()):
            operation = next(label["value"] for label in metric["labels"] if label["name"] == "operation")
            points = [point.get("gaugeValue", {}).get("doubleValue") for point in metric["metricPoints"]]
            numbers = [point for point in points if isinstance(point, int | float)]
            values[operation] = round(numbers[-1], 3) if numbers else None
        missing = {"process deliveries", "POST"} - {name for name, value in values.items() if value is not None}
        report.none(missing, f"Jaeger's monitoring tab: {what}", values)
