"""`make stack-test`: builds the programs, runs the example against them, checks what they show; prints a report.

Exit codes: 0 all checks held, 1 one did not, 2 it could not run (no Go, a build that failed).

KEEP=seconds leaves the programs running for so long after the checks, to look around.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

from tests.stack.backends import ALL, Backends, validated
from tests.stack.build import CannotBuild, Programs, programs
from tests.stack.check_logs import LogStore, check_logs, check_lost_lines
from tests.stack.check_metrics import MetricChecks, odd_labels, parts
from tests.stack.check_queries import (
    check_alerts,
    check_dashboards,
    check_datasources,
    check_exemplars,
    check_monitoring,
)
from tests.stack.check_sampling import KEPT, check_sampling
from tests.stack.check_traces import arrived, check_traces
from tests.stack.layout import Layout
from tests.stack.pins import Pins
from tests.stack.prometheus import Prometheus
from tests.stack.promised import PROMISED
from tests.stack.report import Report
from tests.stack.run import Plan, Run
from tests.stack.spans import Traces
from tests.support.live_check import do_everything
from tests.support.programs import NotInTime, wait_for
from tests.support.registry import violations
from tests.support.tree import Tree

CALM = Plan("", jobs=240, rate=5)
# Attempts that waited longer than two seconds are roots of their own, so both shapes of a trace are seen; and many
# requests hang for a second, so that a kill finds somebody at work.
KILLED = Plan(
    "killed",
    jobs=300,
    rate=6,
    kill_every=1.2,
    shares="ok=66,503=5,429=4,500=4,404=4,hang=17",
    environ={"WORKER_TRACE_PARENT_WITHIN": "2"},
)
SAMPLED = Plan("sampled", jobs=240, rate=8, kill_every=3, environ={"WORKER_TRACE_PARENT_WITHIN": "2"})


def one_run(report: Report, backends: Backends, prometheus: Prometheus, run: Run) -> Traces:
    """Runs it and checks its traces and metrics."""
    plan = run.plan
    report.section(f"{run.service('worker')}: {plan.jobs} deliveries, {run.digests} digests"
                   + (f", a kill about every {plan.kill_every} s" if plan.kill_every else ""))  # fmt: skip
    run.go()
    backends.check()
    report.equal(run.code, 0, "exit code of `worker run`")
    traces = arrived(run, backends.jaeger)
    check_traces(report, run, traces)
    checks = MetricChecks(report, prometheus, run, traces)
    checks.sums()
    checks.series()
    return traces


def sampled_run(report: Report, backends: Backends, prometheus: Prometheus, run: Run) -> None:
    """Sampled traces beside exact counts."""
    report.section(f"{run.service('worker')}: {run.plan.jobs} deliveries, {KEPT} % of the traces, kills")
    backends.keep(KEPT)
    run.go()
    backends.check()
    report.equal(run.code, 0, "exit code of `worker run`")
    came = check_sampling(report, run, backends.every, backends.kept)
    check_lost_lines(report, run, LogStore(backends.victorialogs), came)
    MetricChecks(report, prometheus, run, came).sums()


def everything_run(report: Report, backends: Backends, prometheus: Prometheus, tree: Tree, layout: Layout) -> None:
    """A service that does all that the example does not: schedules, limits, batches, cancels, other versions."""
    report.section("a service that makes every metric")
    backends.keep(ALL)
    telemetry = {name: value for name, value in layout.environ("worker").items() if name.startswith("OTEL_")}
    began = time.time()
    with closing(tree):
        do_everything(tree, backends.every, **telemetry | {"OTEL_SERVICE_NAME": "everything"})
        report.equal(tree.stop(), 0, "exit code of `worker run`")
    rare = {f"{name}{part}" for name, promise in PROMISED.items() if promise.rare for part in parts(promise)}
    try:
        wait_for(lambda: rare <= prometheus.names(), "the last metrics", 40)
    except NotInTime:
        pass  # the check will tell
    report.none(
        rare - prometheus.names(), "every metric that the example does not make is there", ", ".join(sorted(rare))
    )
    rows = {name: prometheus.series(name + '{service_name="everything"}', began, time.time() + 60) for name in rare}
    odd = [(name, wrong) for name in rare for row in rows[name] if (wrong := odd_labels(PROMISED[name], row, ""))]
    report.none(odd, "with the labels that were promised", f"{sum(map(len, rows.values()))} series")


def live_check(report: Report, backends: Backends) -> None:
    """All traffic of this test against the registry of our names (`observability/registry/`)."""
    report.section("the registry of names")
    spans, points = backends.every.spans(), backends.every.metrics()
    ours = {point.name for point in points if point.name.startswith("worker.")}
    report.none(sorted(violations(spans, points)), "what arrived is as the registry says",
                f"{len(spans)} spans, {len(points)} points of {len(ours)} metrics of ours")  # fmt: skip


def refused_run(report: Report, prometheus: Prometheus, run: Run) -> None:
    """Spans that nobody takes are counted, and only they are missing."""
    report.section(f"{run.service('worker')}: its spans are refused")
    run.go()
    report.equal(run.code, 0, "exit code of `worker run`")
    checks = MetricChecks(report, prometheus, run, None)
    checks.dropped()


def everything(report: Report, pins: Pins, built: Programs, place: Path) -> None:
    layout = Layout(place / "etc")
    logs = place / "logs"
    logs.mkdir()
    began = time.time()
    report.section("programs")
    for name, image in pins.images.items():
        report.say(f"{name}: {image}")
    report.say(f"built from collector {pins.collector}, Prometheus {pins.prometheus}, Jaeger {pins.jaeger}, "
               f"VictoriaLogs {pins.victorialogs}")  # fmt: skip
    valid, words = validated(layout, built)
    report.check(valid, "otelcol validate", words)
    with Backends(layout, built, logs) as backends:
        report.say(f"Jaeger {backends.jaeger}, Prometheus {backends.prometheus}, "
                   f"VictoriaLogs {backends.victorialogs}, logs {logs}")  # fmt: skip
        prometheus = Prometheus(backends.prometheus)
        runs = [Run(plan, layout, place / f"run-{plan.name or 'calm'}") for plan in (CALM, KILLED)]
        calm_traces, _ = [one_run(report, backends, prometheus, run) for run in runs]
        report.section("log lines")
        check_logs(report, runs[0], LogStore(backends.victorialogs), calm_traces)
        everything_run(report, backends, prometheus, Tree(_made(place / "run-everything")), layout)
        sampled_run(report, backends, prometheus, Run(SAMPLED, layout, place / "run-sampled"))
        nowhere = f"http://{layout.address('receiver', 8900)}/nowhere"
        refused = Plan("refused", jobs=40, rate=10, environ={"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": nowhere})
        refused_run(report, prometheus, Run(refused, layout, place / "run-refused"))
        calm, killed = runs
        span = (began, time.time())
        report.section("what people look at")
        job = f"continuum/{calm.service('worker')}"
        prefer = {"job": job, "messaging_destination_name": "deliveries"}
        check_dashboards(report, prometheus, prefer, span)
        check_datasources(report, prometheus, span)
        check_alerts(report, prometheus, built.promtool, span)
        jobs = [job, f"continuum/{calm.service('traffic')}", f"continuum/{killed.service('worker')}"]
        check_exemplars(report, prometheus, backends.jaeger, jobs, span)
        check_monitoring(report, backends.jaeger, calm.service("worker"), calm.ended)
        live_check(report, backends)
        if os.environ.get("KEEP"):
            report.say(f"left running for {os.environ['KEEP']} s")
            time.sleep(float(os.environ["KEEP"]))


def _made(place: Path) -> Path:
    place.mkdir()
    return place


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that nothing that was started is left
    report = Report()
    try:
        pins = Pins.read()
        built = programs(pins, report.say)
    except (CannotBuild, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="stack-test-") as place:
        try:
            everything(report, pins, built, Path(place))
        except (NotInTime, AssertionError) as error:
            report.check(False, "everything came about in time", error)
    return report.kill_reason()


if __name__ == "__main__":
    sys.exit(main())
