"""Dashboards, datasources and alerts name only what exists, and the dashboards are what their generator writes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from framework.telemetry import names
from observability.grafana import dashboards
from tests.telemetry.test_metrics import UNITS

ROOT = Path(__file__).parents[2]
GRAFANA = ROOT / "observability/grafana"
BOARDS: dict[str, Any] = {path.stem: json.loads(path.read_text()) for path in (GRAFANA / "dashboards").glob("*.json")}
DATASOURCES = YAML(typ="safe").load(GRAFANA / "provisioning/datasources/datasources.yaml")["datasources"]
ALERTS = YAML(typ="safe").load(ROOT / "observability/prometheus/alerts.yml")["groups"]

# What the framework emits, as Prometheus writes it: written by hand, so that a renamed metric fails here.
COUNTERS = {
    "messaging_client_sent_messages_total",
    "messaging_client_consumed_messages_total",
    "worker_job_attempts_total",
    "worker_job_retries_total",
    "worker_job_dead_letters_total",
    "worker_process_restarts_total",
    "worker_telemetry_dropped_total",
}
GAUGES = {
    "worker_queue_depth",
    "worker_queue_undeclared",
    "worker_queue_paused",
    "worker_queue_held",
    "worker_queue_oldest_job_age_seconds",
    "worker_slots_limit",
    "worker_slots_used",
    "worker_processes",
    "worker_process_memory_bytes",
}
HISTOGRAMS = {
    f"{name}_{part}"
    for name in (
        "messaging_client_operation_duration_seconds",
        "messaging_process_duration_seconds",
        "worker_job_queue_wait_duration_seconds",
    )
    for part in ("bucket", "count", "sum")
}
# Of the collector, whose names the stack test checks; and of Prometheus.
COLLECTOR = re.compile(
    r"otelcol_(receiver_(accepted|refused)|exporter_(sent|send_failed))_(spans|metric_points)_total|"
    r"otelcol_exporter_queue_(size|capacity)|otelcol_process_memory_rss_bytes"
)
PROMETHEUS = {"ALERTS"}
LABELS = {
    "job",
    "instance",
    "le",
    "signal",
    "error_type",
    "messaging_destination_name",
    "messaging_operation_name",
    "worker_queue_state",
    "worker_job_outcome",
    "worker_dead_letter_reason",
    "worker_process_state",
    "worker_process_exit_reason",
    "worker_process_slot",
    "alertname",
    "alertstate",
    "exporter",
}


def panels() -> list[tuple[str, dict[str, Any]]]:
    """(dashboard, panel)"""
    return [(name, panel) for name, board in BOARDS.items() for panel in board["panels"]]


def expressions() -> Iterator[tuple[str, str]]:
    """(where, PromQL) of every panel, variable, rule and datasource link."""
    for name, panel in panels():
        for target in panel["targets"]:
            if target["datasource"]["uid"] == "prometheus":
                yield f"{name}: {panel['title']} {target['refId']}", target["expr"]
    for name, board in BOARDS.items():
        for variable in board["templating"]["list"]:
            if variable["type"] == "textbox":
                continue
            match = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"])
            assert match
            assert match[2] in LABELS
            yield f"{name}: variable {variable['name']}", match[1]
    for group in ALERTS:
        for rule in group["rules"]:
            yield f"rule {rule.get('alert') or rule['record']}", rule["expr"]
    for source in DATASOURCES:
        for query in source["jsonData"].get("tracesToMetrics", {}).get("queries", []):
            yield f"datasource {source['name']}", query["query"].replace("$$__tags", "")


def names_in(expression: str) -> tuple[set[str], set[str]]:
    """(metrics, labels) that an expression names."""
    text = re.sub(r'"[^"]*"', '""', expression)
    labels: set[str] = set()
    for group in re.findall(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)", text):
        labels |= set(re.findall(r"\w+", group))
    for matchers in re.findall(r"\{([^}]*)\}", text):
        labels |= set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers))
    text = re.sub(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", " ", text)
    text = re.sub(r"\{[^}]*\}|\[[^\]]*\]", " ", text)
    words = re.findall(r"(?<![\w.:])[a-zA-Z_:][\w:]*\b(?!\s*\()", text)
    return {word for word in words if word not in {"and", "or", "unless", "bool", "offset"}}, labels


@pytest.mark.parametrize(("where", "expression"), list(expressions()))
def test_expressions_name_only_metrics_and_labels_that_exist(where: str, expression: str) -> None:
    recorded = {rule["record"] for group in ALERTS for rule in group["rules"] if "record" in rule}
    metrics, labels = names_in(expression)
    assert metrics, where
    ours = {metric for metric in metrics if not COLLECTOR.fullmatch(metric)}
    assert ours <= COUNTERS | GAUGES | HISTOGRAMS | PROMETHEUS | recorded, where
    assert labels <= LABELS, where


@pytest.mark.parametrize(("where", "expression"), list(expressions()))
def test_counters_are_read_as_rates_and_gauges_are_not(where: str, expression: str) -> None:
    rated = set(re.findall(r"(?:rate|increase)\((\w+)", expression))
    metrics, _ = names_in(expression)
    counters = {metric for metric in metrics if metric.startswith("otelcol_") and metric.endswith("_total")}
    assert rated == (metrics & (COUNTERS | HISTOGRAMS)) | counters, where


def test_the_reader_of_expressions_sees_names() -> None:
    assert names_in('sum by (job) (rate(a_total{b="c", d=~"e"}[5m])) > 1e3 unless on (f) x:y and 0.5 < z') == (
        {"a_total", "x:y", "z"},
        {"job", "b", "d", "f"},
    )


def test_every_metric_that_is_emitted_is_looked_at() -> None:
    """A new metric belongs on a dashboard. What is only counted for others to use is named here."""
    plain = {re.sub(r"_(total|bucket|count|sum)$", "", name) for name in COUNTERS | GAUGES | HISTOGRAMS}
    assert {re.sub(r"_(seconds|bytes)$", "", name) for name in plain} == {name.replace(".", "_") for name in UNITS}
    seen = {metric for where, expression in expressions() if ":" in where for metric in names_in(expression)[0]}
    unseen = {n for n in COUNTERS | GAUGES if n not in seen} | {n for n in HISTOGRAMS if n.endswith("_bucket")} - seen
    assert unseen == {"messaging_client_consumed_messages_total"}


def test_thresholds_on_waits_are_bucket_bounds() -> None:
    bounds = {float(bound) for _, expression in expressions() for bound in re.findall(r'le="([\d.]+)"', expression)}
    assert bounds
    assert bounds <= set(names.LONG_BUCKETS)


def test_the_dashboards_are_what_the_generator_writes() -> None:
    written = {path.name: path.read_text() for path in (GRAFANA / "dashboards").iterdir()}
    assert written == dashboards.files(), "run `make dashboards`"


TITLES: Mapping[str, set[str]] = {
    "overview": {
        "Queues", "Ready jobs", "Age of the oldest ready job", "In and out", "Success ratio", "Retries by error",
        "Dead letters", "Wait p95", "Late starts in the last hour", "Alerts firing",
    },
    "queue": {
        "Wait", "Wait, all attempts", "Processing", "Processing, all attempts", "Attempts by outcome", "Errors by type",
        "Depth", "In and out", "Engine operations, p95", "New dead letters in the last hour",
    },
    "workers": {
        "Slots used, by queue", "Restarts by reason", "Processes by state", "Memory by process", "Worker processes",
    },
    "pipeline": {
        "Telemetry given up", "Age of the newest metrics", "Collector: in", "Collector: out",
        "Collector: not delivered", "Collector: queues",
    },
    "logs": {"Lines by level", "Lines", "Warnings and errors"},
}  # fmt: skip


def test_the_panels_that_telemetry_promises_are_there() -> None:
    assert set(BOARDS) == set(TITLES)
    for name, titles in TITLES.items():
        assert {panel["title"] for board, panel in panels() if board == name} >= titles, name


def test_the_alerts_that_telemetry_promises_are_there() -> None:
    rules = {rule["alert"]: rule for group in ALERTS for rule in group["rules"] if "alert" in rule}
    assert set(rules) == {
        "WorkerQueueStuck", "WorkerDeadLetters", "WorkerBadFiles", "WorkerQueueUndeclared", "WorkerRestartLoop",
        "WorkerSaturated", "WorkerGone",
        "WorkerTelemetryDropped", "WorkerWaitBudgetBurnsFast", "WorkerWaitBudgetBurnsSlowly",
    }  # fmt: skip
    for rule in rules.values():
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["description"]


def test_datasources_have_the_uids_that_the_others_name() -> None:
    uids = {source["uid"] for source in DATASOURCES}
    assert uids == {"prometheus", "jaeger", "victorialogs"}
    kinds = {source["uid"]: source["type"] for source in DATASOURCES}
    for board in BOARDS.values():
        named = set(re.findall(r'"datasource": \{"type": "([\w-]+)", "uid": "(\w+)"\}', json.dumps(board)))
        assert named == {(kinds[uid], uid) for _, uid in named}
        assert len(named) == 1
    prometheus = next(source for source in DATASOURCES if source["uid"] == "prometheus")
    assert prometheus["jsonData"]["timeInterval"] == "15s"
    (destination,) = prometheus["jsonData"]["exemplarTraceIdDestinations"]
    assert (destination["name"], destination["datasourceUid"]) == ("trace_id", "jaeger")


def test_links_lead_to_dashboards_and_variables_that_exist() -> None:
    uids = {board["uid"]: {v["name"] for v in board["templating"]["list"]} for board in BOARDS.values()}
    assert len(uids) == len(BOARDS)
    for board in BOARDS.values():
        assert board["tags"] == ["worker"]
        assert [(link["type"], link["tags"]) for link in board["links"]] == [("dashboards", ["worker"])]
    found = re.findall(r'"url": "([^"]*)"', json.dumps([panel for _, panel in panels()]))
    assert found
    for url in found:
        match = re.match(r"/d/([\w-]+)\?", url)
        assert match
        assert set(re.findall(r"var-(\w+)=", url)) <= uids[match[1]]


def test_a_span_leads_to_its_lines_and_a_line_to_its_trace() -> None:
    sources = {source["uid"]: source["jsonData"] for source in DATASOURCES}
    to_logs = sources["jaeger"]["tracesToLogsV2"]
    assert (to_logs["datasourceUid"], to_logs["customQuery"]) == ("victorialogs", True)
    assert fields_of(to_logs["query"]) == {"trace_id", "span_id"}
    (to_trace,) = sources["victorialogs"]["derivedFields"]
    assert (to_trace["matcherType"], to_trace["matcherRegex"]) == ("label", "trace_id")
    assert (to_trace["datasourceUid"], to_trace["url"]) == ("jaeger", "$${__value.raw}")


def test_queries_for_lines_name_only_fields_that_lines_have() -> None:
    targets = [(panel, target) for _, panel in panels() for target in panel["targets"] if "queryType" in target]
    assert {panel["title"] for panel, _ in targets} == TITLES["logs"]
    texts = {variable["name"] for variable in BOARDS["logs"]["templating"]["list"]}
    for panel, target in targets:
        assert fields_of(target["expr"]) <= {"trace_id", "span_id", "job_id", "severity_number", "severity_text"}
        assert set(re.findall(r"\$(\w+)", target["expr"])) == texts == {"trace", "job"}
        assert target["queryType"] == ("instant" if panel["type"] == "logs" else "statsRange")


def fields_of(query: str) -> set[str]:
    """Fields that a query in LogsQL filters or groups by."""
    text = re.sub(r'"[^"]*"', '""', query)
    return set(re.findall(r"([\w.]+):", text)) | set(re.findall(r"by \((\w+)\)", text))


def test_times_come_with_exemplars_and_heat_maps() -> None:
    for title in ("Wait", "Processing"):
        (panel,) = (panel for _, panel in panels() if panel["title"] == title)
        assert [target["exemplar"] for target in panel["targets"]] == [True, True, True]
        (heat,) = (panel for _, panel in panels() if panel["title"] == f"{title}, all attempts")
        assert heat["type"] == "heatmap"
        assert [(target["exemplar"], target["format"]) for target in heat["targets"]] == [(True, "heatmap")]


@pytest.mark.parametrize("name", TITLES)
def test_panels_have_ids_of_their_own_and_do_not_overlap(name: str) -> None:
    everything = BOARDS[name]["panels"]
    assert len({panel["id"] for panel in everything}) == len(everything)
    taken: set[tuple[int, int]] = set()
    for panel in everything:
        place = panel["gridPos"]
        assert 0 <= place["x"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells


def test_provisioning_reads_what_compose_mounts() -> None:
    compose = YAML(typ="safe").load(ROOT / "docker-compose.yml")["services"]["grafana"]
    (provider,) = YAML(typ="safe").load(GRAFANA / "provisioning/dashboards/dashboards.yaml")["providers"]
    targets = dict(mount.split(":")[:2] for mount in compose["volumes"])
    assert provider["options"]["path"] == targets["./observability/grafana/dashboards"]
    home = compose["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == f"{provider['options']['path']}/overview.json"
