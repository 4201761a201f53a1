"""Do the rings keep up? So many jobs in a row that do nothing, two workers, a live receiver: no span may be missing.

    JOBS=200000 python -m tests.faults.telemetry_flood

A measure, and no part of `make faults`: a machine that is slow enough may lose spans, and counts them. Exit code 1
where a span is missing, or a count is not exact.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from framework import Queue, WorkerApp
from tests.faults import report as reports
from tests.faults.report import Report
from tests.support.receiver import Receiver
from tests.support.tree import Tree, unfinished

MODULE = "tests.faults.telemetry_flood:Flood"
PATIENCE = 600.0  # seconds


class Flood(WorkerApp):
    jobs = Queue[int]("jobs", workers=2, timeout=60, max_length=10_000_000)

    @jobs.handler
    def act(self, number: int) -> None: ...


def flood(tree: Tree, receiver: Receiver, jobs: int, report: Report) -> None:
    """One run, into the report."""
    environ = receiver.env(fast=False) | {"OTEL_SDK_DISABLED": "false", "WORKER_LOG_LEVEL": "warning"}
    tree.start(module=MODULE, **environ)  # its maintenance says that all workers read segments
    assert tree.stop() == 0
    with Flood.jobs.connected(tree.producer):
        for first in range(0, jobs, 1000):
            Flood.jobs.enqueue_many(list(range(first, min(jobs, first + 1000))))
    tree.start(module=MODULE, WORKER_TELEMETRY_FLUSH="60", **environ)
    began = time.monotonic()
    while unfinished(Flood, tree.url):
        assert time.monotonic() - began < PATIENCE, f"not done in time\n{tree.tail()}"
        time.sleep(0.05)
    took = time.monotonic() - began
    assert tree.stop() == 0
    spans = {span.span_id for span in receiver.spans("process jobs")}
    dropped = int(receiver.value("worker.telemetry.dropped", signal="traces"))
    report.tried = {"jobs": jobs, "jobs/s": round(jobs / took), "spans": len(spans), "spans dropped": dropped}
    counts = {name: receiver.value(name) for name in ("worker.job.attempts", "messaging.process.duration")}
    acks = receiver.value("messaging.client.operation.duration", messaging__operation__name="ack")
    report.violations += [f"{name}: {count}" for name, count in counts.items() if count != jobs]
    if not 0 < acks <= jobs:  # successes are settled together
        report.violations.append(f"acks: {acks}")
    if len(spans) != jobs or dropped:
        report.violations.append(f"{jobs - len(spans)} spans are missing, {dropped} were counted as dropped")


def main() -> None:
    report = Report("telemetry_flood", reports.seed())
    with tempfile.TemporaryDirectory(prefix="telemetry-flood-") as place, Receiver() as receiver:
        tree = Tree(Path(place))
        try:
            flood(tree, receiver, int(reports.number("JOBS", 200_000)), report)
        finally:
            tree.close()
    reports.print_and_exit(report)


if __name__ == "__main__":
    sys.exit(main())
