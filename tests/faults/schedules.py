"""Three supervisors with the same schedules, killed again and again: each tick is one job.

BUDGET=minutes python -m tests.faults.schedules
"""

from __future__ import annotations

import random
import tempfile
import time
from contextlib import closing
from pathlib import Path

from framework.model.job import Job
from tests.faults.killer import Killer
from tests.faults.report import Report, number, print_and_exit, seed
from tests.support.cluster import Cluster
from tests.support.processes import wait_until
from tests.support.services.scheduled import Scheduled, broken, handled
from tests.support.tree import open_store

TREES = 3
PATIENCE = 60.0  # seconds until a tick must have its job


def run(budget_seconds: float) -> Report:
    """As many blows as there is time for."""
    with tempfile.TemporaryDirectory(prefix="schedules-") as place:
        return soak(blows=10**9, seed=seed(), place=Path(place), seconds=budget_seconds)


def soak(*, blows: int, seed: int, place: Path, seconds: float = 1e9) -> Report:
    """Deal blows, a tenth of a second to a second apart, and compare the ledger with the schedules."""
    report, choices = Report("schedules", seed), random.Random(seed)
    cluster = Cluster(place, "tests.support.services.scheduled", OTEL_SDK_DISABLED="true")
    killer = Killer(cluster, list, choices)
    end = time.monotonic() + seconds
    try:
        while blows and time.monotonic() < end:
            blows -= 1
            living = [tree for tree in cluster.trees if tree.process is not None and tree.process.poll() is None]
            for _ in range(TREES - len(living)):
                cluster.start_tree()
            time.sleep(choices.uniform(0.1, 1.0))
            killer.strike()
        last = time.time()
        tree = cluster.start_tree()
        report.expect(wait_until(lambda: cluster.ready(tree), PATIENCE), f"not ready: {tree.tail()}")
        made = wait_until(lambda: max(handled(lines(cluster), "second"), default=0.0) > last, PATIENCE)
        report.expect(made, f"no tick within {PATIENCE:g} s after the last blow: {tree.tail()}")
        codes = [one.stop() for one in cluster.trees if one.process is not None and one.process.poll() is None]
        report.expect(not any(codes), f"exit codes {codes}")
    finally:
        cluster.close()
    left = waiting(cluster)
    report.violations += broken(lines(cluster) + left)
    report.violations += [f"not a log line: {line[:200]}" for line in cluster.facts.tracebacks]
    found = {which: len(handled(lines(cluster), which)) for which in ("second", "more")}
    report.tried = {"ticks": sum(found.values()), "of which are left in the store": len(left), "blows": killer.total}
    return report


def lines(cluster: Cluster) -> list[str]:
    """Return what the handlers have written."""
    return cluster.ledger_path.read_text().splitlines()


def waiting(cluster: Cluster) -> list[str]:
    """Return the jobs in the store as lines of the ledger."""

    def line(job: Job) -> str:
        return f"{job.payload.decode().strip(chr(34))} {job.scheduled_for:.3f} {job.id}"

    with closing(open_store(Scheduled, f"spool:{cluster.root}")) as store:
        states = ("ready", "delayed", "in_flight", "dead")
        return [line(view.job) for state in states for view in store.browse("ticks", state)]


if __name__ == "__main__":
    print_and_exit(run(60 * number("BUDGET", 3)))
