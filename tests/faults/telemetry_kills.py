"""Random SIGKILL of workers, exporter and maintenance under load, against a live receiver and a ledger of what ran.

    JOBS=100000 SEED=1 python -m tests.faults.telemetry_kills

DEAD=1 makes the collector refuse everything for half of the jobs; `make faults` runs both kinds in turn, by budget.
ENGINE=postgres takes a PostgreSQL server of its own instead of a spool. Exit code 1 where something does not add up.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from framework.process.scoreboard import READY, SlotState
from tests.faults import report as reports
from tests.faults.report import Report
from tests.support import postgres
from tests.support.ledger import read
from tests.support.processes import kill
from tests.support.receiver import Receiver
from tests.support.services.soak import Told
from tests.support.tree import Tree, unfinished

MODULE = "tests.support.services.soak:Told"
SHORT, LONG = 2_000, 50_000  # jobs of a run
AMONG = 600  # bytes of the ledger, some four runs, between two kills


class Run:
    """One run, from the first job to a stopped tree.

    Args:
        tree: not started.
        jobs: on all queues together.
        dead: the collector refuses everything until half of the jobs are done.
        least: workers that are killed at least: where jobs end sooner, more are enqueued.
    """

    def __init__(
        self, tree: Tree, receiver: Receiver, *, jobs: int, seed: int, dead: bool = False, least: int = 0
    ) -> None:
        self.tree, self.receiver, self.jobs, self.dead, self.least = tree, receiver, jobs, dead, least
        self.kills: Counter[str] = Counter()
        self._random = random.Random(seed)
        self._over = threading.Event()

    def go(self) -> None:
        """Enqueues, kills, waits until everything has ended."""
        self.receiver.status = 503 if self.dead else 200
        self._enqueue(self.jobs)
        self.tree.start(
            module=MODULE,
            ready=False,
            OTEL_SDK_DISABLED="false",
            WORKER_RESTART_BUDGET="1000000",
            WORKER_LOG_LEVEL="warning",
            WORKER_TELEMETRY_FLUSH="20",
            **self.receiver.env(),
        )
        killer = threading.Thread(target=self._kill, daemon=True)
        killer.start()
        if self.dead:
            self._wait(lambda: self._left() < self.jobs / 2)
            self.receiver.status = 200
        self._wait(lambda: self._left() == 0)
        while self.kills["worker"] < self.least:
            self.jobs += SHORT
            self._enqueue(SHORT)
            self._wait(lambda: self._left() == 0)
        self._over.set()
        killer.join()
        self._wait(lambda: self._left() == 0)  # what the last victims held; who is not alive by now starts for the end
        assert self.tree.stop() == 0

    def _enqueue(self, jobs: int) -> None:
        third = jobs // 3
        for queue, share in ((Told.sync, third), (Told.many, third), (Told.threads, jobs - 2 * third)):
            with queue.connected(self.tree.producer):
                for first in range(0, share, 1000):
                    queue.enqueue_many(list(range(first, min(share, first + 1000))))

    def _left(self) -> int:
        return unfinished(Told, self.tree.url)

    def _wait(self, happened: Callable[[], bool]) -> None:
        end = time.monotonic() + 120 + self.jobs / 50
        while not happened():
            assert time.monotonic() < end, f"not done in time\n{self.tree.tail()}"
            assert self.tree.process is not None
            assert self.tree.process.poll() is None, f"the supervisor has left\n{self.tree.tail()}"
            time.sleep(0.1)

    def _kill(self) -> None:
        """By pids on the board, which are children of our own supervisor. On a busy machine some runs begin between."""
        written = 0
        while not self._over.wait(self._random.uniform(0.02, 0.15)):
            if (size := self.tree.ledger_path.stat().st_size) < written + AMONG and self._left():
                continue
            written = size
            slots = [slot for slot in self.tree.slots() if slot.pid and slot.state == READY]
            if not slots:
                continue
            victim = self._next(slots)
            if victim is not None and kill(victim):
                self.kills["worker" if victim.is_worker else victim.name] += 1

    def _next(self, slots: list[SlotState]) -> SlotState | None:
        """Mostly workers; the two that are alone of their kind first, so that a short run has them, too.

        Only workers with a job: killed while idle too often, a slot waits before its next start.
        """
        others = [slot for slot in slots if not slot.is_worker]
        spared = [slot for slot in others if not self.kills[slot.name]]
        board = self.tree.board()
        busy = [slot for slot in slots if slot.is_worker and board.busy_rows(slot.index)]
        among = spared or (busy if self._random.random() < 0.9 else others)
        return self._random.choice(among) if among else None


def check(run: Run) -> list[str]:
    """What does not add up; empty: everything does."""
    receiver = run.receiver
    spans = {span.span_id: span for span in receiver.spans() if span.name.startswith("process ")}
    began = {ran.span for ran in read(run.tree.ledger_path).started}
    outcomes = Counter(span.attributes["worker.job.outcome"] for span in spans.values())
    dropped = receiver.value("worker.telemetry.dropped", signal="traces")
    wrong = []

    def hold(fact: bool, text: str) -> None:
        if not fact:
            wrong.append(text)

    missing = len(began - spans.keys())
    hold(missing <= dropped, f"{missing} attempts of the ledger have no span, {dropped:.0f} were counted as dropped")
    silent = [span for span_id, span in spans.items() if span_id not in began]
    # Killed between run record and handler; or its ledger line was the handler's last wish.
    odd = [span for span in silent if span.attributes["worker.job.outcome"] not in ("lost", "released")]
    hold(not odd, f"{len(odd)} spans of attempts that the ledger does not know: {odd[:3]}")
    # Its process told how it ended, and a rescuer that it was lost: counted twice, charged wrongly.
    ends = {
        (span.span_id, span.attributes["worker.job.outcome"], span.end)
        for span in receiver.spans()
        if span.name.startswith("process ")
    }
    counts = Counter(span_id for span_id, _, _ in ends)
    twice = sorted(end for end in ends if counts[end[0]] > 1)
    hold(not twice, f"attempts that ended in two ways: {twice[:6]}")
    attempts = int(receiver.value("worker.job.attempts"))
    hold(len(spans) <= attempts <= len(spans) + dropped, f"{attempts} attempts counted, {len(spans)} spans arrived")
    for name in ("messaging.process.duration", "worker.job.queue_wait.duration"):
        hold(receiver.value(name) == attempts, f"{name} counts {receiver.value(name)}, not {attempts}")
    if not dropped:
        for outcome in sorted(outcomes):
            counted = receiver.value("worker.job.attempts", worker__job__outcome=outcome)
            hold(counted == outcomes[outcome], f"{outcome}: {counted} counted, {outcomes[outcome]} spans")
    succeeded = int(receiver.value("worker.job.attempts", worker__job__outcome="succeeded"))
    dead = int(receiver.value("worker.job.dead_letters"))
    again = int(receiver.value("worker.job.retries"))
    released = int(receiver.value("worker.job.attempts", worker__job__outcome="released"))
    hold(succeeded + dead == run.jobs, f"{succeeded} succeeded and {dead} dead of {run.jobs} jobs")
    hold(succeeded + dead + again + released == attempts, f"{again} retries do not fit {attempts} attempts")
    for name in {point.name for point in receiver.metrics()} & {"worker.job.attempts", "messaging.process.duration"}:
        series = receiver.latest(name)
        ids = {point.resource["service.instance.id"] for point in series}
        hold(len(ids) <= 5, f"{name} has series of {len(ids)} slots")
    return wrong


def play(jobs: int, seed: int, *, dead: bool, report: Report, on_postgres: bool = False) -> float:
    """One run, into the report; the seconds it took."""
    began = time.monotonic()
    with ExitStack() as stack, Receiver() as receiver:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="telemetry-kills-")))
        url = stack.enter_context(postgres.fresh(place / "spool")) if on_postgres else ""
        tree = Tree(place, url)
        try:
            run = Run(tree, receiver, jobs=jobs, seed=seed, dead=dead)
            run.go()
            how = "refuses for half of the jobs" if dead else "is there"
            report.violations += [f"seed {seed}, the collector {how}: {line}" for line in check(run)]
            note_tried(report, run)
        finally:
            tree.close()
    return time.monotonic() - began


def note_tried(report: Report, run: Run) -> None:
    """Adds a run's numbers to those of the runs before it."""
    spans = [span for span in run.receiver.spans() if span.name.startswith("process ")]
    distinct = len({span.span_id for span in spans})
    for what, count in {
        "runs, the collector refuses for half" if run.dead else "runs, the collector is there": 1,
        "jobs": run.jobs,
        **{f"SIGKILLs of {who}": count for who, count in sorted(run.kills.items())},
        "attempts with a span": distinct,
        "spans that came twice": len(spans) - distinct,
        "attempts lost and told": int(run.receiver.value("worker.job.attempts", worker__job__outcome="lost")),
        "spans counted as dropped": int(run.receiver.value("worker.telemetry.dropped", signal="traces")),
    }.items():
        report.tried[what] = count + int(str(report.tried.get(what, 0)))


def run(budget_seconds: float, *, on_postgres: bool = False) -> Report:
    """For the registry: a short run of each kind, then as large ones as fit, in turn."""
    report = Report("telemetry_kills_postgres" if on_postgres else "telemetry_kills", reports.seed())
    choices = random.Random(report.seed)
    end = time.monotonic() + budget_seconds
    jobs, took, dead = SHORT, 0.0, False
    while not report.violations and (dead or time.monotonic() + took < end):
        took = play(jobs, choices.randrange(1, 2**31), dead=dead, report=report, on_postgres=on_postgres)
        fitting = jobs / took * max(0.0, end - time.monotonic()) / 4
        if dead:
            jobs = int(max(SHORT, min(LONG, fitting)))
        dead = not dead
    return report


def run_on_postgres(budget_seconds: float) -> Report:
    """For the registry: `run` on a PostgreSQL server."""
    return run(budget_seconds, on_postgres=True)


def main() -> None:
    report = Report("telemetry_kills", reports.seed())
    took = play(
        int(reports.number("JOBS", 20_000)),
        report.seed,
        dead=bool(os.environ.get("DEAD")),
        report=report,
        on_postgres=os.environ.get("ENGINE") == "postgres",
    )
    report.tried["seconds"] = round(took)
    reports.print_and_exit(report)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    main()
