"""The command `worker alerts`, which prints Prometheus rules made from a service's declarations."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from urllib.parse import urlsplit

import click

from framework.admin.rules import Group, Rule, general, objectives
from framework.cli.output import warn
from framework.cli.service import MODULE_HELP, load_service, take
from framework.model.errors import UsageError


@click.command(short_help="Print Prometheus rules made from a service's declarations.", epilog=MODULE_HELP)
@click.argument("given", nargs=-1, metavar="MODULE")
@click.option("--job", default="", metavar="NAME", help="Only series of this job: service.namespace/service.name.")
@click.option("--runbook", default="", metavar="URL", help="The page with a section for each alert: docs/runbook.md.")
@click.option("--only", type=click.Choice(["general", "slo"]), help="One of the two groups of rules.")
def alerts(given: tuple[str, ...], job: str, runbook: str, only: str | None) -> int:
    """Print Prometheus rules made from a service's declarations, as YAML for `rule_files`.

    The group `worker` is for any service: a stuck queue, dead letters, files that cannot be read, jobs of a queue that
    no running service declares, a restart loop, saturation, a supervisor that is gone, lost telemetry. The group
    `worker-slo` has, for every queue with slo=Slo(wait=…, target=…), the share of attempts that started too late, and
    alerts where it uses up the objective's budget fast or slowly.

    The rules of one service count for all that report to the same Prometheus, unless --job names it: load the group
    `worker` once, or name the job each time.
    """
    (module,) = take(given)
    if not job.isprintable():
        raise UsageError(f"--job {job!r}: characters that cannot be printed are in no service's name")
    if runbook and not (urlsplit(runbook).scheme in ("http", "https") and runbook.isprintable()):
        raise UsageError(f"--runbook {runbook!r}: needs the address of a page, as in https://docs.example.com/runbook/")
    service = load_service(module)
    queues = service.options()
    if not any(queue.slo for queue in queues):
        warn(f"no queue of {service.app.__name__} declares an slo: add slo=Slo(wait=30, target=0.99) to one")
    makers = {"general": general, "slo": objectives}
    groups = [make(queues, job=job) for name, make in makers.items() if only in (None, name)]
    groups = [group.with_runbook(runbook) for group in groups] if runbook else groups
    options = (f" --job {json.dumps(job, ensure_ascii=False)}" if job else "") + (f" --only {only}" if only else "")
    options += f" --runbook {runbook}" if runbook else ""
    print(f"# Made by: worker alerts {module}{options}")
    print(f"# Labels: job = the service, messaging_destination_name = the queue.\n{to_yaml(groups)}", end="")
    return 0


def to_yaml(groups: list[Group]) -> str:
    """Return a rule file as YAML, without a YAML library, which every service would depend on for this one command.

    Names and texts are JSON strings, which are YAML; expressions are block scalars, in which no character is special.
    """
    full = [group for group in groups if group.rules]
    lines = ["groups:" if full else "groups: []"]
    for group in full:
        lines += [f"  # {line}" for line in group.comments]
        lines += [f"  - name: {group.name}", "    rules:"]
        for rule in group.rules:
            lines += [f"      {line}" for line in _rule(rule)]
    return "\n".join(lines) + "\n"


def _rule(rule: Rule) -> Iterator[str]:
    yield f"- {'alert' if rule.severity else 'record'}: {rule.name}"
    for line in textwrap.wrap(rule.comment, 105):
        yield f"  # {line}"
    yield "  expr: |-"
    yield from (f"    {line}" for line in rule.expr.splitlines())
    if rule.wait:
        yield f"  for: {rule.wait}"
    if rule.severity:
        yield f"  labels: {{severity: {rule.severity}}}"
        yield "  annotations:"
        yield f"    summary: {json.dumps(rule.summary, ensure_ascii=False)}"
        yield f"    description: {json.dumps(rule.description, ensure_ascii=False)}"
        if rule.runbook:
            yield f"    runbook_url: {json.dumps(rule.runbook, ensure_ascii=False)}"
