"""docs/runbook.md has a section for each alert, and its commands exist."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from framework import Slo
from framework.admin.rules import Rule, general, objectives
from framework.cli import worker
from framework.model.events import ProcessExited
from framework.model.options import QueueOptions

PAGE = (Path(__file__).parents[2] / "docs" / "runbook.md").read_text(encoding="utf-8")
SECTIONS = {part.partition("\n")[0]: part for part in PAGE.split("\n## ")[1:]}


def alerts() -> dict[str, Rule]:
    queues = [QueueOptions("q", slo=Slo(wait=30, target=0.99))]
    return {rule.name: rule for group in (general(queues), objectives(queues)) for rule in group.rules if rule.severity}


def test_each_alert_has_a_section_and_each_section_an_alert() -> None:
    assert list(SECTIONS) == list(alerts())


@pytest.mark.parametrize("name", SECTIONS)
def test_a_section_says_whether_it_is_a_page(name: str) -> None:
    assert SECTIONS[name].split("\n")[1].startswith(f"*{alerts()[name].severity.capitalize()}.*")


def test_each_reason_of_a_restart_is_explained() -> None:
    reasons = set(re.findall(r"\w+", (ProcessExited.__doc__ or "").partition("one of ")[2]))
    rows = re.findall(r"^\| (`.*?) \|", SECTIONS["WorkerRestartLoop"], re.MULTILINE)
    explained = set(re.findall(r"`(\w+)`", " ".join(rows)))
    assert explained == reasons - {"drained", "recycled", "drain_timeout"}


def test_the_commands_exist() -> None:
    found = [line for line in re.findall(r"\bworker [a-z][^`\n]*", PAGE) if "MODULE" in line or "--url" in line]
    assert len(found) > 12
    for line in found:
        words = line.split()[1:]
        command: click.Command = worker
        while isinstance(command, click.Group):
            command = command.commands[words.pop(0)]
        known = {name for param in command.params for name in param.opts}
        assert {word for word in words if word.startswith("--")} <= known, line
