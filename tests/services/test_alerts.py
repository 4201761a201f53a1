"""The alert rules that compose mounts: what the command makes, and against made-up series by Prometheus's own tool."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from ruamel.yaml import YAML

from framework.cli.alerts import alerts
from tests.support import promtool

RULES = Path(__file__).parents[2] / "observability/prometheus"


@promtool.needed
@pytest.mark.parametrize("command", [("check", "rules", "alerts.yml"), ("test", "rules", "alerts_test.yml")])
def test_rules(command: tuple[str, ...]) -> None:
    promtool.promtool(*command, cwd=RULES)


def test_the_rules_are_those_of_the_declarations(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WORKER_QUEUES__DELIVERIES__TIMEOUT", "WORKER_QUEUES__DIGESTS__TIMEOUT"):
        monkeypatch.delenv(name, raising=False)
    result = CliRunner().invoke(alerts, ["services.example_worker"], standalone_mode=False)
    assert result.exception is None
    assert result.stdout == (RULES / "alerts.yml").read_text(), "run `make alerts`"


def test_every_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    yaml = YAML(typ="safe")
    names = {r["alert"] for g in yaml.load(RULES / "alerts.yml")["groups"] for r in g["rules"] if "alert" in r}
    cases = [case for test in yaml.load(RULES / "alerts_test.yml")["tests"] for case in test["alert_rule_test"]]
    assert {case["alertname"] for case in cases if case.get("exp_alerts")} == names
    assert {case["alertname"] for case in cases if not case.get("exp_alerts")} == names
