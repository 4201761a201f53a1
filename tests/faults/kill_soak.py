"""Kills producers, workers, maintenance and supervisors at random while jobs flow, and checks that nothing is lost.

    JOBS=1000000 KILLS=25000 SECONDS=3600 python -m tests.faults.kill_soak

It ends when both numbers are reached, or after SECONDS. SEED repeats the choices of a run; ENGINE=postgres takes a
PostgreSQL server of its own instead of a spool.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from framework.process.scoreboard import process_start
from tests.faults import report as reports
from tests.faults import soak_checks
from tests.faults.arrivals import Arrivals
from tests.faults.killer import Killer
from tests.faults.report import Report
from tests.support import postgres
from tests.support.cluster import Cluster
from tests.support.processes import wait_until
from tests.support.services.soak import CONCURRENCY, Soak
from tests.support.tree import HERE, Tree, open_store, waiting

SETTINGS = {
    "WORKER_LOG_LEVEL": "info",
    "WORKER_DRAIN": "3",
    "WORKER_RESTART_BUDGET": "1000000",
    "OTEL_BSP_SCHEDULE_DELAY": "100",
    "OTEL_METRICS_EXPORTER": "none",
    "WORKER_TELEMETRY_FLUSH": "5",  # a busy machine: what leaves in order shall have sent its spans
}


@dataclass(frozen=True)
class Plan:
    """How much of it.

    Attributes:
        jobs: acknowledged ones that are wanted.
        kills: SIGKILLs that are wanted.
        seconds: after which it ends all the same.
        pause: mean seconds between two blows.
        trees, producers: how many at once.
        patience: seconds in which a tree must be ready, and in which the last one must finish some of what is left.
    """

    jobs: int = 20_000
    kills: int = 400
    seconds: float = 300.0
    pause: float = 0.2
    trees: int = 2
    producers: int = 2
    patience: float = 120.0
    seed: int = 1


class Producers:
    """Processes that enqueue; those that were killed are replaced."""

    def __init__(self, cluster: Cluster, count: int, choices: random.Random) -> None:
        self.acknowledged = cluster.place / "acknowledged"
        self.acknowledged.touch()
        self._cluster = cluster
        self._choices = choices
        self._count = count
        self._living: list[subprocess.Popen[bytes]] = []
        self.failures: list[str] = []

    def tend(self) -> None:
        """As many as there should be."""
        for process in list(self._living):
            if process.poll() is not None:
                self._living.remove(process)
                if process.returncode != -signal.SIGKILL:
                    self.failures.append(f"a producer ended with {process.returncode}")
        while len(self._living) < self._count:
            seed = self._choices.randrange(2**31)
            arguments = [self._cluster.url, str(self.acknowledged), str(seed)]
            self._living.append(subprocess.Popen([sys.executable, "-m", "tests.faults.producer", *arguments], cwd=HERE))

    def lives(self) -> list[tuple[int, int]]:
        return [(process.pid, process_start(process.pid)) for process in self._living]

    def stop(self) -> None:
        for process in self._living:
            process.kill()
            process.wait()
        self._living.clear()

    def ids(self) -> list[str]:
        """Acknowledged ones; the last line of a killed producer may be torn, then nobody was told of it."""
        return [line for line in self.acknowledged.read_text().split("\n")[:-1] if line]


def run(budget_seconds: float, *, on_postgres: bool = False) -> Report:
    """For the registry: as much as fits."""
    plan = Plan(jobs=10**9, kills=10**9, seconds=max(10.0, budget_seconds - 30), seed=reports.seed())
    return soak(plan, on_postgres=on_postgres)


def run_on_postgres(budget_seconds: float) -> Report:
    """For the registry: `run` on a PostgreSQL server."""
    return run(budget_seconds, on_postgres=True)


def soak(plan: Plan, place: Path | None = None, *, on_postgres: bool = False) -> Report:
    """One soak from the first tree to the report; `place` keeps what it leaves, for a look at it."""
    report = Report("kill_soak_postgres" if on_postgres else "kill_soak", plan.seed)
    choices = random.Random(plan.seed)
    with ExitStack() as stack:
        receiver = stack.enter_context(Arrivals())
        home = place or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kill-soak-")))
        endpoint = receiver.env(fast=False)
        url = stack.enter_context(postgres.fresh(home / "spool")) if on_postgres else ""
        cluster = Cluster(home, "tests.support.services.soak:Soak", url=url, **SETTINGS, **endpoint)
        stack.callback(cluster.close)
        producers = Producers(cluster, plan.producers, choices)
        stack.callback(producers.stop)
        killer = Killer(cluster, producers.lives, choices)
        began = time.monotonic()
        lively(plan, cluster, producers, killer, choices, report)
        report.tried["seconds under fire"] = round(time.monotonic() - began, 1)
        calm_down(plan, cluster, producers, killer, report)
        if not on_postgres:
            marked = [name for name in CONCURRENCY if (cluster.root / name / "segmented.2").exists()]
            report.expect(marked, "no queue's jobs came in segments")
        report.tried["blows"] = dict(killer.blows)
        soak_checks.check(report, cluster, producers.ids(), killer, receiver, browse(cluster.url))
        if report.violations:
            report.tried["kept for a look"] = str(keep(home, cluster))
    return report


def keep(home: Path, cluster: Cluster) -> Path:
    """Ledger, spool and facts of a run that broke a promise."""
    place = Path(tempfile.mkdtemp(prefix="kill-soak-kept-"))
    shutil.copytree(home, place, dirs_exist_ok=True, ignore=shutil.ignore_patterns("doorbell"))
    (place / "facts.json").write_text(json.dumps(vars(cluster.facts), indent=1))
    return place


def lively(
    plan: Plan, cluster: Cluster, producers: Producers, killer: Killer, choices: random.Random, report: Report
) -> None:
    """Jobs flow, and blows fall, until there were enough of both."""
    producers.tend()
    trees = [cluster.start_tree() for _ in range(plan.trees)]
    for tree in trees:
        ready = wait_until(lambda tree=tree: cluster.ready(tree), plan.patience)
        report.expect(ready, f"a tree is not ready: {tree.tail(10)}")
    end = time.monotonic() + plan.seconds
    counted = looked = 0.0
    while time.monotonic() < end:
        time.sleep(choices.expovariate(1 / plan.pause))
        killer.strike()
        producers.tend()
        restart(cluster, report)
        if time.monotonic() - looked > 1:
            looked = time.monotonic()
            counted = len(producers.ids()) if plan.jobs < 10**9 else 0
        if counted >= plan.jobs and killer.total >= plan.kills:
            return


def restart(cluster: Cluster, report: Report) -> None:
    """A new tree for one whose supervisor was killed. Nobody told any to stop: another end is a broken promise."""
    for tree in list(cluster.trees):
        code = tree.process.poll()
        if code is not None:
            cluster.trees.remove(tree)
            report.expect(code == -signal.SIGKILL, f"a supervisor ended with {code}: {tree.tail(10)}")
            cluster.start_tree()


def calm_down(plan: Plan, cluster: Cluster, producers: Producers, killer: Killer, report: Report) -> None:
    """No blow any more: the trees drain, and one new tree finishes all that is left."""
    killer.finish()
    producers.stop()
    # The last blow may have hit a supervisor whose death `restart` did not see yet: it cannot be told to stop.
    cluster.trees[:] = [tree for tree in cluster.trees if tree not in killer.beheaded]
    for tree in cluster.trees:
        tree.process.send_signal(signal.SIGTERM)
    for tree in cluster.trees:
        ended(tree, 10, (0, 5), report)
    cluster.trees.clear()
    last = cluster.start_tree()
    left = waiting(Soak, cluster.url)
    while left and wait_until(lambda: waiting(Soak, cluster.url) != left, plan.patience, 0.2):
        left = waiting(Soak, cluster.url)
    report.expect(not left, f"no job came to an end within {plan.patience:g} s: {left}; {last.tail(10)}")
    last.process.send_signal(signal.SIGTERM)
    ended(last, 10, (0,), report)
    wait_until(lambda: not cluster.leftovers(), 10, 0.1)


def ended(tree: Tree, seconds: float, codes: tuple[int, ...], report: Report) -> None:
    """Waits for the end of a tree that was told to stop."""
    try:
        code = tree.process.wait(seconds)
    except subprocess.TimeoutExpired:
        report.violations.append(f"a supervisor did not end within {seconds:g} s of SIGTERM: {tree.tail(10)}")
        return
    if code == -signal.SIGTERM and not tree.events():
        return  # started in the last moment: still importing, nothing of it had been started
    report.expect(code in codes, f"a supervisor that was told to stop ended with {code}: {tree.tail(10)}")


def browse(url: str) -> list[Any]:
    """Everything that is left in the store."""
    states = ("ready", "delayed", "in_flight", "dead", "bad")
    with closing(open_store(Soak, url)) as store:
        return [view for name in CONCURRENCY for state in states for view in store.browse(name, state)]


def main() -> None:
    number = reports.number
    plan = Plan(
        jobs=int(number("JOBS", Plan.jobs)),
        kills=int(number("KILLS", Plan.kills)),
        seconds=number("SECONDS", Plan.seconds),
        pause=number("PAUSE", Plan.pause),
        seed=reports.seed(),
    )
    reports.print_and_exit(soak(plan, on_postgres=os.environ.get("ENGINE") == "postgres"))


if __name__ == "__main__":
    main()
