"""Dashboard, datasources and alerts name only what exists."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]
GRAFANA = ROOT / "observability/grafana"
DASHBOARD = json.loads((GRAFANA / "dashboards/worker.json").read_text())
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
    "worker_queue_oldest_job_age_seconds",
    "worker_slots_limit",
    "worker_slots_used",
    "worker_processes",
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
}
WAIT_BOUNDS = {0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 30, 60, 120, 300, 600, 1800}


def panels() -> list[dict[str, Any]]:
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def expressions() -> Iterator[tuple[str, str]]:
    """(where, PromQL) of every panel, variable, rule and datasource link."""
    for panel in panels():
        for target in panel["targets"]:
            yield f"panel {panel['title']}", target["expr"]
    for variable in DASHBOARD["templating"]["list"]:
        match = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"])
        assert match
        assert match[2] in LABELS
        yield f"variable {variable['name']}", match[1]
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
    assert metrics <= COUNTERS | GAUGES | HISTOGRAMS | recorded, where
    assert labels <= LABELS, where


@pytest.mark.parametrize(("where", "expression"), list(expressions()))
def test_counters_are_read_as_rates_and_gauges_are_not(where: str, expression: str) -> None:
    rated = set(re.findall(r"(?:rate|increase)\((\w+)", expression))
    metrics, _ = names_in(expression)
    assert rated == metrics & (COUNTERS | HISTOGRAMS), where


def test_the_reader_of_expressions_sees_names() -> None:
    assert names_in('sum by (job) (rate(a_total{b="c", d=~"e"}[5m])) > 1e3 unless on (f) x:y and 0.5 < z') == (
        {"a_total", "x:y", "z"},
        {"job", "b", "d", "f"},
    )


def test_thresholds_on_waits_are_bucket_bounds() -> None:
    bounds = {float(bound) for _, expression in expressions() for bound in re.findall(r'le="([\d.]+)"', expression)}
    assert bounds
    assert bounds <= WAIT_BOUNDS


def test_the_panels_that_telemetry_promises_are_there() -> None:
    assert {panel["title"] for panel in panels()} >= {
        "Depth", "Age of the oldest ready job", "In and out", "Success ratio", "Retries by error",
        "Dead letters in the last hour", "Wait", "Processing", "Utilisation", "Restarts in 10 minutes",
        "Worker processes",
    }  # fmt: skip


def test_the_alerts_that_telemetry_promises_are_there() -> None:
    rules = {rule["alert"]: rule for group in ALERTS for rule in group["rules"] if "alert" in rule}
    assert set(rules) == {
        "WorkerQueueStuck", "WorkerDeadLetters", "WorkerRestartLoop", "WorkerSaturated", "WorkerGone",
        "WorkerWaitBudgetBurnsFast", "WorkerWaitBudgetBurnsSlowly",
    }  # fmt: skip
    for rule in rules.values():
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["description"]


def test_datasources_have_the_uids_that_the_others_name() -> None:
    uids = {source["uid"] for source in DATASOURCES}
    assert uids == {"prometheus", "jaeger"}
    named = re.findall(r'"uid": "(\w+)"', json.dumps(DASHBOARD["panels"] + DASHBOARD["templating"]["list"]))
    assert named
    assert set(named) == {"prometheus"}
    prometheus = next(source for source in DATASOURCES if source["uid"] == "prometheus")
    assert prometheus["jsonData"]["timeInterval"] == "15s"
    (destination,) = prometheus["jsonData"]["exemplarTraceIdDestinations"]
    assert (destination["name"], destination["datasourceUid"]) == ("trace_id", "jaeger")


def test_times_come_with_exemplars() -> None:
    for title in ("Wait", "Processing"):
        (panel,) = (panel for panel in panels() if panel["title"] == title)
        assert [target["exemplar"] for target in panel["targets"]] == [True, True, True]


def test_panels_have_ids_of_their_own_and_do_not_overlap() -> None:
    everything = DASHBOARD["panels"]
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
    assert home == f"{provider['options']['path']}/worker.json"
