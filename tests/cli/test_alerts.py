"""`worker alerts`: rules from declarations, judged by Prometheus's own tool where it is there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.support import promtool
from tests.support.command import Cli

SERVICE = """
from framework import Queue, Slo, WorkerApp


class Studio(WorkerApp):
    thumbs = Queue[int]("thumbs", slo=Slo(wait=30, target=0.99))
    mails = Queue[int]("mails.v2", slo=Slo(wait=2.5, target=0.9))
    films = Queue[int]("films", timeout=1750)
    renders = Queue[int]("renders.4k", timeout=1000)
    imports = Queue[int]("imports", timeout=None)
"""


@pytest.fixture
def studio(cli: Cli) -> Cli:
    cli.write("studio.py", SERVICE)
    return cli


def rules(cli: Cli, *args: str, **env: Any) -> list[dict[str, Any]]:
    out = cli.ok("alerts", "studio", *args, **env).out
    return [rule for group in YAML(typ="safe").load(out)["groups"] for rule in group["rules"]]


def test_the_groups(studio: Cli) -> None:
    out = studio.ok("alerts", "studio").out
    assert out.startswith("# Made by: worker alerts studio\n")
    assert [group["name"] for group in YAML(typ="safe").load(out)["groups"]] == ["worker", "worker-slo"]
    assert {rule.get("alert") for rule in rules(studio, "--only", "general")} == {
        "WorkerQueueStuck", "WorkerDeadLetters", "WorkerBadFiles", "WorkerQueueUndeclared", "WorkerRestartLoop",
            "WorkerSaturated", "WorkerGone",
        "WorkerTelemetryDropped",
    }  # fmt: skip
    burns = [rule for rule in rules(studio, "--only", "slo") if "alert" in rule]
    assert [(rule["alert"], rule["labels"]["severity"]) for rule in burns] == [
        ("WorkerWaitBudgetBurnsFast", "page"),
        ("WorkerWaitBudgetBurnsSlowly", "ticket"),
    ] * 2
    # 14.4 and 6 times a budget of 1 %; of 10 % they would be more than everything, or nearly.
    assert [rule["expr"].rpartition(" > ")[2] for rule in burns] == ["0.144", "0.06", "0.55", "0.55"]


def test_a_queue_whose_attempts_take_long_is_stuck_later_and_one_without_a_timeout_never(studio: Cli) -> None:
    stuck = [rule["expr"] for rule in rules(studio) if rule.get("alert") == "WorkerQueueStuck"]
    assert len(stuck) == 3
    assert 'messaging_destination_name!~"films|imports|renders[.]4k"}) > 300\n' in stuck[0]
    assert 'messaging_destination_name=~"renders[.]4k"}) > 1020\n' in stuck[1]
    assert 'messaging_destination_name=~"renders[.]4k"}[17m]' in stuck[1]
    assert 'messaging_destination_name=~"films"}) > 1800\n' in stuck[2]
    assert "# imports has timeout=None" in studio.ok("alerts", "studio").out
    env = {"WORKER_QUEUES__FILMS__TIMEOUT": "10", "WORKER_QUEUES__RENDERS__TIMEOUT": "10"}
    assert len([rule for rule in rules(studio, env=env) if rule.get("alert") == "WorkerQueueStuck"]) == 1


def test_a_job_is_named_in_every_selector(studio: Cli) -> None:
    job = 'shop/stu"dio\\'
    out = studio.ok("alerts", "studio", "--job", job).out
    for rule in YAML(typ="safe").load(out)["groups"][0]["rules"]:
        assert rule["expr"].count("worker_") + rule["expr"].count("messaging_process_duration") <= rule["expr"].count(
            r'job="shop/stu\"dio\\"'
        ) + rule["expr"].count("worker_queue_state") + rule["expr"].count("worker_process_exit_reason"), rule
    assert studio.run("alerts", "studio", "--job", "a\nb").error.startswith("--job 'a\\nb'")


def test_a_service_without_objectives_is_told_so(relay: Cli) -> None:
    result = relay.ok("alerts", "relay", "--only", "slo")
    assert "worker: warning: no queue of Relay declares an slo" in result.err
    assert YAML(typ="safe").load(result.out) == {"groups": []}
    assert relay.run("alerts", "nothing").code == 2
    assert relay.run("alerts").error.startswith("expected MODULE")


def waits(job: str, queue: str, bound: str, in_time: int) -> list[dict[str, str]]:
    """Of a hundred attempts a minute so many started in time."""
    where, name = f'job="{job}", messaging_destination_name="{queue}"', "worker_job_queue_wait_duration_seconds"
    return [
        {"series": f'{name}_bucket{{{where}, le="{bound}"}}', "values": f"0+{in_time}x70"},
        {"series": f"{name}_count{{{where}}}", "values": "0+100x70"},
    ]


def age(queue: str) -> dict[str, str]:
    """Jobs wait and none is processed."""
    name = "worker_queue_oldest_job_age_seconds"
    return {"series": f'{name}{{job="a", messaging_destination_name="{queue}"}}', "values": "0+60x70"}


SERIES = [
    *waits("late", "thumbs", "30", 80),
    *waits("scraped", "thumbs", "30.0", 80),  # as a Prometheus writes it that scrapes
    *waits("prompt", "thumbs", "30", 99),
    *waits("late", "mails.v2", "2.5", 40),
    age("films"),  # half an hour each: after 25 minutes without an end nobody need be called
    age("imports"),
]


def judge(place: Path, rules: str, expected: dict[tuple[str, str], list[tuple[str, str, str]]]) -> None:
    """Whether at these times, for these expressions, exactly these (alert, job, queue) fire."""
    place.joinpath("rules.yml").write_text(rules)
    labels = 'alertname="{}", job="{}", messaging_destination_name="{}"'
    tests = [
        {
            "eval_time": when,
            "expr": f"sum by (alertname, job, messaging_destination_name) (ALERTS{{{which}}})",
            "exp_samples": [{"labels": f"{{{labels.format(*one)}}}", "value": 1} for one in firing],
        }
        for (when, which), firing in expected.items()
    ]
    scenario = {"interval": "1m", "input_series": SERIES, "promql_expr_test": tests}
    document = {"rule_files": ["rules.yml"], "evaluation_interval": "1m", "tests": [scenario]}
    place.joinpath("test.yml").write_text(json.dumps(document))
    promtool.promtool("check", "rules", "rules.yml", cwd=place)
    promtool.promtool("test", "rules", "test.yml", cwd=place)


@promtool.needed
def test_prometheus_takes_the_rules_and_they_fire_where_they_should(studio: Cli, tmp_path: Path) -> None:
    burning = [("late", "thumbs"), ("scraped", "thumbs"), ("late", "mails.v2")]
    names = ("WorkerWaitBudgetBurnsFast", "WorkerWaitBudgetBurnsSlowly")
    firing = [(name, *where) for name in names for where in burning] + [("WorkerQueueStuck", "a", "films")]
    expected = {("65m", 'alertstate="firing"'): firing, ("25m", 'alertname="WorkerQueueStuck"'): []}
    judge(tmp_path, studio.ok("alerts", "studio").out, expected)


@promtool.needed
def test_one_jobs_rules_leave_the_others_alone(studio: Cli, tmp_path: Path) -> None:
    judge(tmp_path, studio.ok("alerts", "studio", "--job", "prompt").out, {("65m", 'alertstate="firing"'): []})


def test_each_alert_names_its_section_of_the_runbook(studio: Cli) -> None:
    page = "https://docs.example.com/runbook/"
    alerts = [rule for rule in rules(studio, "--runbook", page) if "alert" in rule]
    assert {rule["annotations"]["runbook_url"] for rule in alerts} == {
        f"{page}#{rule['alert'].lower()}" for rule in alerts
    }
    assert not any("runbook_url" in rule.get("annotations", {}) for rule in rules(studio))
    result = studio.run("alerts", "studio", "--runbook", "docs/runbook.md")
    assert result.code == 2
    assert "needs the address of a page" in result.error
