"""SIGTERM at random moments, with hung handlers and useless collectors: it ends in time, with the right exit code.

    ROUNDS=1000 python -m tests.faults.shutdown_soak

SEED repeats the choices of a run, LATE is how many seconds over the deadline are allowed (1).
"""

from __future__ import annotations

import random
import signal
import subprocess
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from framework.runner.connecting import open_producer
from framework.service.queues import Queue
from framework.service.settings import Settings
from tests.faults import report as reports
from tests.faults.kill_soak import browse
from tests.faults.report import Report
from tests.support.bad_collector import MANNERS, BadCollector, Manner
from tests.support.cluster import Cluster
from tests.support.ledger import Ledger, read
from tests.support.output import Event
from tests.support.processes import wait_until
from tests.support.services.acts import Act, Task
from tests.support.services.soak import Soak

DRAIN = 3.0
SETTINGS = {
    "WORKER_DRAIN": f"{DRAIN:g}",
    "WORKER_LOG_LEVEL": "debug",
    "WORKER_QUEUES__SYNC__TIMEOUT": "60",
    "WORKER_QUEUES__MANY__TIMEOUT": "60",
    "WORKER_QUEUES__SYNC__MAX_MEMORY": "1GiB",
}
HUNG: dict[str, tuple[Act, ...]] = {
    "sync": ("swallow", "ignore_term", "hold_gil", "slow"),
    "many": ("swallow", "block_loop", "slow"),
}


_filling = threading.Lock()  # a queue's connection is the process's, not the thread's


@dataclass
class Round:
    """One service, from its start to its end.

    Attributes:
        early: it is told to stop while it starts, else after it was ready.
        moment: seconds to wait before.
        hung: what its handlers do, by queue.
        stream: further jobs that are quick.
    """

    manner: Manner
    early: bool
    moment: float
    hung: list[tuple[str, Act]]
    stream: int
    second_signal: bool
    code: int | None = None
    took: float = 0.0
    broken: list[str] = field(default_factory=list)


def draw(choices: random.Random) -> Round:
    """A round's circumstances."""
    hung = [(queue, choices.choice(acts)) for queue, acts in HUNG.items() for _ in range(choices.choice([0, 0, 1, 2]))]
    early = choices.random() < 0.2
    return Round(
        manner=choices.choice(MANNERS),
        early=early,
        moment=choices.uniform(0.0, 3.0 if early else 2.0),
        hung=hung,
        stream=choices.choice([0, 20, 300]),
        second_signal=choices.random() < 0.1,
    )


def play(round_: Round, late: float) -> Round:
    """Plays it and notes what it broke."""
    with tempfile.TemporaryDirectory(prefix="shutdown-soak-") as place, BadCollector(round_.manner) as collector:
        cluster = Cluster(Path(place), "tests.support.services.soak:Soak", **SETTINGS, **collector.env())
        try:
            fill(cluster, round_)
            tree = cluster.start_tree()
            if not round_.early and not wait_until(lambda: cluster.facts.events["process_ready"], 30, 0.01):
                round_.broken.append("no worker became ready within 30 s")
            time.sleep(round_.moment)
            stop(round_, tree.process)
            if round_.code is not None:
                judge(round_, cluster, tree.events(), late)
        finally:
            cluster.close()
    return round_


def fill(cluster: Cluster, round_: Round) -> None:
    """The jobs are there before it starts, the hung ones among the first."""
    queues: dict[str, Queue[Any]] = {"sync": Soak.sync, "many": Soak.many}
    producer = open_producer(Settings(engine_url=f"spool:{cluster.root}", durability="process"))
    try:
        with _filling, Soak.sync.connected(producer), Soak.many.connected(producer):
            for name, act in round_.hung:
                queues[name].enqueue(Task(do=act, seconds=30))
            for number in range(round_.stream):
                queues["sync" if number % 2 else "many"].enqueue(Task(do="work", seconds=0.01 * (number % 5)))
    finally:
        producer.close()


def stop(round_: Round, process: subprocess.Popen[bytes]) -> None:
    """SIGTERM, sometimes twice, and the wait for the end."""
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    if round_.second_signal:
        time.sleep(0.3)
        process.send_signal(signal.SIGTERM)
    try:
        round_.code = process.wait(DRAIN + 20)
    except subprocess.TimeoutExpired:
        round_.broken.append(f"it did not end within {DRAIN + 20:g} s")
    round_.took = time.monotonic() - began


def judge(round_: Round, cluster: Cluster, lines: list[Event], late: float) -> None:
    """Deadline, exit code, jobs, processes."""
    broken = round_.broken
    # Still importing: nothing has been started that one would have to stop.
    before_it_was_ours = round_.code == -signal.SIGTERM and not cluster.facts.events["process_started"]
    killed = sum(1 for line in lines if line["event"] == "process_killed")
    ledger = read(cluster.ledger_path)
    # Five: somebody had to be killed for a handler. Killed for its telemetry, nobody's jobs were late.
    hung = sum(1 for run in ledger.all() if run.unfinished)
    right = 5 if (killed if round_.second_signal else hung) else 0
    if round_.took > DRAIN + late:
        broken.append(f"it took {round_.took:.2f} s, the deadline is {DRAIN:g} s")
    if round_.code != right and not before_it_was_ours:
        broken.append(f"exit code {round_.code} with {hung} hung handlers and {killed} kills")
    if not wait_until(lambda: not cluster.leftovers(), 2):
        broken.append(f"left behind: {cluster.leftovers()}")
    for line in cluster.facts.tracebacks:
        broken.append(f"not a log line: {line[:200]}")
    judge_jobs(round_, ledger, browse(cluster.url))


def judge_jobs(round_: Round, ledger: Ledger, left: list[Any]) -> None:
    """What had not ended is back, no attempt spent; nothing is missing."""
    done = {run.job for run in ledger.all() if run.how == "ok"}
    there = Counter(view.job.id for view in left)
    total = len(round_.hung) + round_.stream
    if len(done | set(there)) != total or done & set(there) or max(there.values(), default=1) > 1:
        round_.broken.append(f"{total} jobs: {len(done)} done, {len(there)} left, {len(done & set(there))} are both")
    for view in left:
        if view.state != "ready" or view.attempt or view.job.history:
            round_.broken.append(
                f"job {view.job.id} is {view.state}, attempts spent {view.attempt}: {view.job.history}"
            )


def run(budget_seconds: float) -> Report:
    """For the registry: as many rounds as fit."""
    return soak(10**9, reports.seed(), seconds=max(10.0, budget_seconds - 15))


def soak(rounds: int, seed: int, *, seconds: float = 1e9, late: float = 1.0, at_once: int = 3) -> Report:
    """Some rounds at a time: each mostly waits."""
    report, choices = Report("shutdown_soak", seed), random.Random(seed)
    end = time.monotonic() + seconds
    played: list[Round] = []
    with ThreadPoolExecutor(at_once) as pool:
        while len(played) < rounds and time.monotonic() < end:
            batch = [draw(choices) for _ in range(min(at_once, rounds - len(played)))]
            played += pool.map(lambda round_: play(round_, late), batch)
    took = sorted(round_.took for round_ in played)
    report.tried |= {
        "rounds": len(played),
        "exit codes": dict(Counter(round_.code for round_ in played)),
        "collectors": dict(Counter(round_.manner for round_ in played)),
        "hung handlers": dict(Counter(act for round_ in played for _, act in round_.hung)),
        "told while starting": sum(round_.early for round_ in played),
        "told twice": sum(round_.second_signal for round_ in played),
        f"seconds to the end (deadline {DRAIN:g})": f"median {took[len(took) // 2]:.2f}, longest {took[-1]:.2f}",
    }
    for number, round_ in enumerate(played, start=1):
        moment = f"SIGTERM {round_.moment:.2f} s after {'the start' if round_.early else 'it was ready'}"
        what = f"round {number} ({round_.manner}, {moment}, {round_.hung}, stream {round_.stream}"
        report.violations += [f"{what}{', twice' if round_.second_signal else ''}): {line}" for line in round_.broken]
    return report


def main() -> None:
    rounds = int(reports.number("ROUNDS", 30))
    reports.print_and_exit(soak(rounds, reports.seed(), late=reports.number("LATE", 1.0)))


if __name__ == "__main__":
    main()
