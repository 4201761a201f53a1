"""Kills workers at random whose jobs end in transactions, and counts their effects in the database: each exactly once.

    JOBS=50000 KILLS=1000 SECONDS=1800 python -m tests.faults.exactly_once

It ends when both numbers are reached, or after SECONDS. The control, which leaves its effect and is acknowledged
afterwards, must repeat some effects: that shows that the kills come at the right moments.
"""

from __future__ import annotations

import random
import signal
import tempfile
import time
from contextlib import closing
from pathlib import Path

import psycopg

from framework.process.scoreboard import READY
from tests.faults import report as reports
from tests.faults.exactly_service import Once, Step
from tests.faults.report import Report
from tests.support import postgres
from tests.support.processes import kill
from tests.support.tree import trees

LATE = 120.0  # seconds in which what is left must be done once nobody is killed any more
QUEUES = (Once.once, Once.aonce, Once.own, Once.control)


class Run:
    """One tree on a server of its own, jobs, and kills."""

    def __init__(self, place: Path, report: Report) -> None:
        self.report = report
        self.random = random.Random(report.seed)
        self.server = postgres.Server()
        list(postgres.migrated(self.server))
        self.server.execute("create table effect (key text, queue text)")
        self.trees = trees(place, f"{self.server.url}?local_dir={place}/spool")
        self.tree = next(self.trees)
        self.jobs: dict[str, int] = {queue.name: 0 for queue in QUEUES}
        self.kills = 0

    def run(self, jobs: int, kills: int, seconds: float) -> None:
        """Enqueue, kill, drain, and compare."""
        self.tree.start(module="tests.faults.exactly_service", DATABASE=self.server.url, WORKER_LOG_LEVEL="warning",
                        WORKER_RESTART_BUDGET="1000000")  # fmt: skip
        end = time.monotonic() + seconds
        while time.monotonic() < end and (sum(self.jobs.values()) < jobs or self.kills < kills):
            self._enqueue()
            self._strike()
            time.sleep(self.random.uniform(0.005, 0.05))
        self._finish()

    def _enqueue(self) -> None:
        """Keep some jobs in each queue, so that there is always one to kill."""
        for queue in QUEUES:
            if self._count("worker.job j join worker.queue q on q.id = j.queue where q.name = %s", queue.name) < 200:
                count = self.jobs[queue.name]
                self.jobs[queue.name] += 200
                with queue.connected(self.tree.producer):
                    queue.enqueue_many([Step(key=f"{queue.name}-{count + n}") for n in range(200)])

    def _strike(self) -> None:
        """Kill a worker that runs a job."""
        board = self.tree.board()
        busy = [slot for slot in self.tree.slots() if slot.is_worker and slot.state == READY
                and board.busy_rows(slot.index)]  # fmt: skip
        if busy:
            self.kills += kill(self.random.choice(busy))

    def _finish(self) -> None:
        end = time.monotonic() + LATE
        while time.monotonic() < end and self._left():
            time.sleep(0.05)
        self.report.expect(not self._left(), f"{self._left()} jobs are not done")
        self.report.expect(self.tree.stop() == 0, "the tree has left with an error")
        for queue in QUEUES:
            name, found = queue.name, self._keys(queue.name)
            # The control has no successors.
            expected = {f"{name}-{n}{end}" for n in range(self.jobs[name])
                        for end in ("", "/next")[: 1 if queue is Once.control else 2]}  # fmt: skip
            repeated = len(found) - len(set(found))
            self.report.tried[f"{name}: jobs, effects, repeated"] = f"{len(expected)}, {len(found)}, {repeated}"
            self.report.expect(set(found) >= expected, f"{name}: {len(expected - set(found))} effects are missing")
            self.report.expect(set(found) <= expected, f"{name}: {len(set(found) - expected)} effects of no job")
            if queue is not Once.control:
                self.report.expect(not repeated, f"{name}: {repeated} effects happened more than once")
        self.report.tried["SIGKILLs"] = self.kills

    def repeated_control(self) -> int:
        found = self._keys("control")
        return len(found) - len(set(found))

    def _left(self) -> int:
        return self._count("worker.job") + self._count("worker.later") + self._count("worker.dead")

    def _count(self, what: str, *values: str) -> int:
        with psycopg.connect(self.server.url) as connection:
            return int(connection.execute(f"select count(*) from {what}", values).fetchone()[0])  # type: ignore

    def _keys(self, queue: str) -> list[str]:
        with psycopg.connect(self.server.url) as connection:
            return [key for (key,) in connection.execute("select key from effect where queue = %s", [queue])]

    def close(self) -> None:
        self.trees.close()  # type: ignore[attr-defined]
        self.server.stop(signal.SIGKILL)


def soak(jobs: int, kills: int, seconds: float, seed: int) -> Report:
    """Return the report of one run; the control must repeat something only where there are many kills."""
    report = Report("exactly_once", seed=seed)
    with tempfile.TemporaryDirectory() as place, closing(Run(Path(place), report)) as made:
        made.run(jobs, kills, seconds)
        if made.kills >= 200:
            report.expect(made.repeated_control(), "the control has repeated nothing: the kills prove nothing")
        if made.kills < kills or sum(made.jobs.values()) < jobs:
            report.part = f"{made.kills} of {kills} kills, {sum(made.jobs.values())} of {jobs} jobs"
    return report


def run(budget_seconds: float) -> Report:
    """For `make faults`."""
    return soak(
        int(reports.number("JOBS", 50_000)),
        int(reports.number("KILLS", 1000)),
        reports.number("SECONDS", max(10.0, budget_seconds - 15)),
        reports.seed(),
    )


if __name__ == "__main__":
    reports.print_and_exit(run(1800))
