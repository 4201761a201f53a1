"""A whole run without a collector costs the workers what one with a collector costs, and what is lost is counted.

    JOBS=3000 python -m tests.faults.telemetry_down

One worker runs the same jobs with a live receiver, a closed port, one that never answers, and one that answers 503 with
Retry-After. The system calls of the jobs are counted by strace where it is installed.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from framework.runner.connecting import open_producer
from framework.service.settings import Settings
from tests.faults import report as reports
from tests.faults.report import Report
from tests.support.bad_collector import BadCollector
from tests.support.cluster import Cluster
from tests.support.processes import wait_until
from tests.support.receiver import Receiver
from tests.support.services.acts import Task
from tests.support.services.soak import Soak
from tests.support.tree import Tree

How = Literal["live", "refused", "silent", "unavailable"]
HOWS: tuple[How, ...] = ("live", "refused", "silent", "unavailable")
KEPT = 256  # spans that a process may keep
SETTINGS = {
    "WORKER_LOG_LEVEL": "warning",
    "WORKER_QUEUES__SYNC__WORKERS": "1",
    "WORKER_QUEUES__SYNC__MAX_LENGTH": "none",
    "OTEL_BSP_SCHEDULE_DELAY": "100",
    "OTEL_BSP_MAX_QUEUE_SIZE": str(KEPT),
    "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "128",
    "OTEL_METRIC_EXPORT_INTERVAL": "500",
    "OTEL_EXPORTER_OTLP_TIMEOUT": "2",
}
CALLS_MORE = 0.25  # of such calls a job, beside those with a live collector
OF_TELEMETRY = "%network,write,writev,clock_nanosleep,select,pselect6"  # what sending, logging and waiting take
MEMORY_MORE = 24 << 20  # bytes that the second half of the jobs may add: a leak of a span each would be more
_TICK = os.sysconf("SC_CLK_TCK")


@dataclass
class Cost:
    """What one worker spent.

    Attributes:
        calls: of those that telemetry could make, per job, by the thread that runs the jobs; None without strace.
        cpu: milliseconds per job.
        grown: bytes that its memory grew by in the second half of the jobs.
        dropped, arrived: spans, after the collector came back.
    """

    calls: float | None
    cpu: float
    grown: int
    dropped: int
    arrived: int


def measure(how: How, jobs: int) -> Cost:
    """One run of the service."""
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="telemetry-down-")))
        collector: Receiver | BadCollector = Receiver() if how == "live" else BadCollector(how)
        outage = stack.enter_context(ExitStack())
        outage.enter_context(collector)
        endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.port}"}
        cluster = Cluster(place, "tests.support.services.soak:Soak", "--queue", "sync", **SETTINGS, **endpoint)
        stack.callback(cluster.close)
        tree = cluster.start_tree()
        assert wait_until(lambda: cluster.ready(tree), 30), tree.tail()
        pid = worker(cluster, tree)
        finish(cluster, jobs // 2)
        calls = counted(pid, lambda: finish(cluster, jobs // 2), place) if shutil.which("strace") else None
        cpu, memory = spent(pid), resident(pid)
        finish(cluster, jobs)
        cost = Cost(None if calls is None else calls / (jobs // 2), (spent(pid) - cpu) / jobs * 1000, 0, 0, 0)
        cost.grown = resident(pid) - memory
        if isinstance(collector, BadCollector):
            outage.close()
            collector = stack.enter_context(Receiver(collector.port))
            back = collector
            wait_until(lambda: len(back.spans("process sync")) + dropped(back) >= ended(cluster), 20)
        tree.process.send_signal(signal.SIGTERM)
        tree.process.wait(40)
        cost.dropped = dropped(collector)
        cost.arrived = len(collector.spans("process sync"))
        return cost


def dropped(collector: Receiver) -> int:
    return int(collector.value("worker.telemetry.dropped", signal="traces"))


def worker(cluster: Cluster, tree: Tree) -> int:
    found = cluster.slots(tree)
    assert found is not None
    return next(slot.pid for slot in found[1] if slot.name == "sync/0")


def finish(cluster: Cluster, count: int) -> None:
    """Enqueues jobs, as many at a time as the queue takes, and waits until the last has ended."""
    before = ended(cluster)
    producer = open_producer(Settings(engine_url=f"spool:{cluster.root}", durability="process"))
    try:
        with Soak.sync.connected(producer):
            for done in range(0, count, 1000):
                wanted = before + min(done + 1000, count)
                Soak.sync.enqueue_many([Task()] * (wanted - before - done))
                _wait_ended(cluster, wanted)
    finally:
        producer.close()


def _wait_ended(cluster: Cluster, wanted: int) -> None:
    assert wait_until(lambda: ended(cluster) == wanted, 120, 0.05), f"{ended(cluster)} of {wanted} ended"


def ended(cluster: Cluster) -> int:
    return sum(1 for line in cluster.ledger_path.read_bytes().splitlines() if line.startswith(b"E "))


def spent(pid: int) -> float:
    """CPU seconds of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICK


def resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def counted(pid: int, work: Callable[[], None], place: Path) -> int | None:
    """Calls that telemetry could make, of the thread that runs the jobs while `work` lasts; None: it may not be traced.

    Of that thread alone, and without those of claims: what exporting threads do, how many jobs a claim takes, and how
    often one thread waits for another, depends on how long it all takes, and so on the machine.
    """
    summary = place / "strace"
    command = ["strace", "-c", "-e", f"trace={OF_TELEMETRY}", "-o", str(summary), "-p", str(pid)]
    tracer = subprocess.Popen(command, stderr=subprocess.PIPE)
    try:
        assert tracer.stderr is not None
        attached = b"attached" in tracer.stderr.readline()
        work()
    finally:
        tracer.send_signal(signal.SIGINT)
        tracer.communicate()
    if not attached:
        return None
    columns = r"^\s*[\d.,]+\s+[\d.,]+\s+\d+\s+(\d+)(?:\s+\d+)?\s+total$"  # errors are left out where there were none
    return sum(map(int, re.findall(columns, summary.read_text(), re.MULTILINE)))  # without any there is no table


def run(budget_seconds: float) -> Report:
    """For the registry."""
    return compare(int(min(20_000, max(600, budget_seconds * 30))))


def compare(jobs: int) -> Report:
    """All ways beside a live collector."""
    report = Report("telemetry_down")
    costs = {how: measure(how, jobs) for how in HOWS}
    total = jobs // 2 * (2 if costs["live"].calls is not None else 1) + jobs
    report.tried["jobs each"] = total
    live = costs["live"]
    for how, cost in costs.items():
        calls = "not counted" if cost.calls is None else f"{cost.calls:.2f}"
        report.tried[how] = (
            f"{calls} system calls, {cost.cpu:.2f} ms of CPU a job, memory +{cost.grown / 2**20:.1f} MiB, "
            f"{cost.arrived} spans arrived, {cost.dropped} counted as dropped"
        )
        report.expect(cost.grown < MEMORY_MORE, f"{how}: memory grew by {cost.grown / 2**20:.1f} MiB")
        missing = total - cost.arrived
        report.expect(
            abs(missing - cost.dropped) <= 0.01 * total, f"{how}: {missing} spans missing, {cost.dropped} counted"
        )
        if how == "live":
            continue
        report.tried[f"{how}, CPU to live"] = f"{cost.cpu / live.cpu:.2f}"
        if cost.calls is not None and live.calls is not None:
            report.expect(
                cost.calls <= live.calls + CALLS_MORE, f"{how}: {cost.calls:.2f} system calls, live {live.calls:.2f}"
            )
    return report


def main() -> None:
    began = time.monotonic()
    report = compare(int(reports.number("JOBS", 2000)))
    report.tried["seconds"] = round(time.monotonic() - began)
    reports.print_and_exit(report)


if __name__ == "__main__":
    main()
