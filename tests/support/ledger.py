"""Reads a soak's ledger and says which promises it breaks."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

CONCURRENCY = {"sync": 1, "many": 8, "threads": 8, "dead": 1}


@dataclass(slots=True)
class Run:
    """One run of one job. Times are CLOCK_MONOTONIC in ns, 0 = never; `process` is `pid:start`."""

    job: str
    queue: str
    attempt: int
    delivery: int
    span: str
    process: str
    started: int = 0
    seen: int = 0
    ended: int = 0
    how: str = ""

    @property
    def unfinished(self) -> bool:
        """Its handler began, and nothing was heard of its end."""
        return bool(self.started) and not self.ended

    @property
    def own_end(self) -> bool:
        """It ended in a way after which the job is meant to run again."""
        return self.how not in ("", "ok")


@dataclass
class Ledger:
    """All runs, in the order in which their records were written.

    Attributes:
        runs: by job and queue.
        children: `pid:start` and kind of what handlers started.
    """

    runs: dict[tuple[str, str], list[Run]] = field(default_factory=lambda: defaultdict(list))
    children: list[tuple[str, str]] = field(default_factory=list)
    lines: int = 0

    def all(self) -> Iterable[Run]:
        """Every run."""
        return (run for runs in self.runs.values() for run in runs)


def read(path: Path) -> Ledger:
    """Raises ValueError: a line that is none."""
    ledger, spans = Ledger(), {}
    with path.open() as lines:
        for line in lines:
            ledger.lines += 1
            kind, *rest = line.split()
            if kind == "R":
                job, queue, attempt, delivery, span, process, _ = rest
                run = Run(job, queue, int(attempt), int(delivery), span, process)
                spans[span] = run
                ledger.runs[job, queue].append(run)
            elif kind == "S":
                spans[rest[3]].started = spans[rest[3]].seen = int(rest[5])
            elif kind == "H":
                spans[rest[0]].seen = int(rest[1])
            elif kind == "E":
                run = spans[rest[0]]
                run.ended = run.seen = int(rest[1])
                run.how = rest[2]
            elif kind == "C":
                ledger.children.append((rest[0], rest[1]))
            else:
                raise ValueError(f"{path}: {line!r}")
    return ledger


def overlaps(ledger: Ledger) -> list[str]:
    """Jobs that ran twice at the same time: a run gave a sign of life after the next had begun."""
    broken = []
    for (job, queue), runs in ledger.runs.items():
        started = sorted((run for run in runs if run.started), key=lambda run: run.started)
        for before, after in pairwise(started):
            if before.seen > after.started:
                late = (before.seen - after.started) / 1e6
                broken.append(f"job {job} of {queue}: {before.process} was still at it {late:.1f} ms after "
                              f"{after.process} had begun (attempts {before.attempt}, {after.attempt})")  # fmt: skip
    return broken


def charged_unstarted(ledger: Ledger, charged: dict[tuple[str, str], list[int]]) -> list[str]:
    """Attempts that were spent without a run record.

    Args:
        charged: attempt numbers in the histories of dead letters, by job and queue.
    """
    broken = []
    for key, runs in ledger.runs.items():
        known = {run.attempt for run in runs}
        wanted = set(range(1, max(known) + 1)) | {number for number in charged.get(key, ()) if number > 0}
        if missing := sorted(wanted - known):
            broken.append(f"job {key[0]} of {key[1]}: attempts {missing} were charged, and never started")
    return broken


def repetitions(ledger: Ledger) -> tuple[Counter[str], list[str]]:
    """(runs by process that were run once more although they had not failed by themselves, broken promises).

    Each of them needs the death of its process, and a death costs no more than what ran at once in it.
    """
    again: Counter[str] = Counter()
    queues: dict[str, str] = {}
    for (_, queue), runs in ledger.runs.items():
        for before in runs[:-1]:
            if not before.own_end:
                again[before.process] += 1
                queues[before.process] = queue
    broken = [
        f"process {process} of {queues[process]}: {count} of its runs were repeated, it runs "
        f"{CONCURRENCY[queues[process]]} at once"
        for process, count in again.items()
        if count > CONCURRENCY[queues[process]]
    ]
    return again, broken


def left_by_the_living(ledger: Ledger, exits: dict[int, tuple[str, int]]) -> list[str]:
    """Runs that a process left unfinished although it ended in order."""
    lives: dict[int, set[str]] = defaultdict(set)
    for run in ledger.all():
        lives[int(run.process.partition(":")[0])].add(run.process)
    return [
        f"job {run.job} of {run.queue} was left unfinished by {run.process}, which ended with exit code 0"
        for run in ledger.all()
        if run.unfinished
        and (pid := int(run.process.partition(":")[0])) in exits
        and exits[pid][1] == 0
        and len(lives[pid]) == 1  # a pid that was used twice cannot be told apart in the log
    ]
