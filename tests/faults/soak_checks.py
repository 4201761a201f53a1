"""What the soaks check: each promise against ledger, logs, receiver and what lies in the store."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from itertools import pairwise
from typing import Any

import psycopg

from tests.faults.arrivals import Arrivals
from tests.faults.killer import Killer
from tests.faults.report import Report
from tests.support.cluster import Cluster, Facts
from tests.support.ledger import Ledger, Run, read
from tests.support.services.soak import CONCURRENCY

# A span that a rescuer has handed to the SDK leaves with the next batch; when the rescuer is killed before, it is gone.
# Such spans are counted on their own: the SDK cannot do better, a buffer that outlives its process can.
UNSENT = 2.0


def check(
    report: Report, cluster: Cluster, acknowledged: list[str], killer: Killer, receiver: Arrivals, left: list[Any]
) -> None:
    """Fills the report."""
    ledger = read(cluster.ledger_path)
    report.tried |= {
        "jobs acknowledged": len(acknowledged),
        "SIGKILLs by us": killer.total,
        "SIGKILLs by supervisors": len(cluster.facts.killed_by_supervisor),
        "runs started": len(ledger.started),
        "runs left unfinished": sum(1 for run in ledger.all() if run.unfinished),
        "children started by handlers": len(ledger.children),
        "log events": dict(cluster.facts.events.most_common(12)),
    }
    check_jobs(report, ledger, acknowledged, left)
    check_runs(report, ledger, cluster.facts)
    check_spans(report, ledger, cluster.facts, receiver)
    check_rescue_times(report, cluster.facts)
    check_litter(report, cluster)
    for line in cluster.facts.tracebacks[:5]:
        report.violations.append(f"not a log line: {line[:200]}")
    report.expect(len(acknowledged) == len(set(acknowledged)), "an id was acknowledged twice")


def check_jobs(report: Report, ledger: Ledger, acknowledged: list[str], left: list[Any]) -> None:
    """Each acknowledged job was done, or lies visibly somewhere, once."""
    done = {job for (job, _), runs in ledger.runs.items() for run in runs if run.how == "ok" and run.queue != "dead"}
    places: dict[str, list[str]] = defaultdict(list)
    for view in left:
        places[view.job.id].append(f"{view.queue}/{view.state}")
    lost = [job for job in acknowledged if job not in done and job not in places]
    report.tried["acknowledged jobs lost"] = len(lost)
    report.tried["jobs left in the store"] = dict(Counter(place for found in places.values() for place in found))
    report.violations += [f"job {job} was acknowledged, and is neither done nor anywhere in the store" for job in lost]
    report.violations += [f"job {job} lies in {found}" for job, found in places.items() if len(found) > 1]
    stuck = [f"{view.job.id} in {view.queue}/{view.state}" for view in left if view.state in ("in_flight", "bad")]
    report.violations += [f"job {what}" for what in stuck]
    charged = {(v.job.id, v.job.queue): [f.attempt for f in v.job.history if f.queue == v.job.queue] for v in left}
    report.violations += charged_unstarted(ledger, charged)


def check_runs(report: Report, ledger: Ledger, facts: Facts) -> None:
    """Repetitions have a death behind them, no two runs of a job overlap, no process in order leaves a run behind."""
    again, broken = repetitions(ledger)
    queues = {run.process: run.queue for run in ledger.all()}
    report.tried["runs repeated after a death"] = again.total()
    report.tried["of at most"] = sum(CONCURRENCY[queues[process]] for process in again)
    report.violations += broken + overlaps(ledger) + left_by_the_living(ledger, facts.exits)


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
        lives[run.pid].add(run.process)
    return [
        f"job {run.job} of {run.queue} was left unfinished by {run.process}, which ended with exit code 0"
        for run in ledger.all()
        if run.unfinished
        and run.pid in exits
        and exits[run.pid][1] == 0
        and len(lives[run.pid]) == 1  # a pid that was used twice cannot be told apart in the log
    ]


def check_spans(report: Report, ledger: Ledger, facts: Facts, receiver: Arrivals) -> None:
    """An attempt that died unfinished has its span at the receiver."""
    unfinished = [run for run in ledger.all() if run.unfinished]
    missing = [run for run in unfinished if int(run.span, 16) not in receiver.ids]
    excused = [run for run in missing if died_with_its_rescuer(run, facts)]
    finished = [run for run in ledger.all() if run.ended]
    report.tried |= {
        "process spans at the receiver": len(receiver.ids),
        "unfinished attempts without a span": len(missing),
        "of which their rescuer was killed, too": len(excused),
        "finished attempts without a span": sum(1 for run in finished if int(run.span, 16) not in receiver.ids),
        "spans by outcome": dict(receiver.outcomes),
    }
    for run in missing:
        if run not in excused:
            said = [tree for _, tree in facts.lost.get(run.span, [])]
            report.violations.append(f"{run.process} died in job {run.job} of {run.queue}, attempt {run.attempt}: no "
                                     f"span {run.span} (its loss was logged by trees {said})")  # fmt: skip


def died_with_its_rescuer(run: Run, facts: Facts) -> bool:
    """Its loss was logged, and the maintenance process that logged it was killed before the span could leave."""
    return any(
        tree == killed and 0 <= at - when <= UNSENT
        for when, tree in facts.lost.get(run.span, [])
        for at, killed in facts.housekeepers
    )


ENOUGH = 20


def check_rescue_times(report: Report, facts: Facts) -> None:
    """How long after our kill an unstarted job was runnable again; undisturbed ones on their own."""
    calm, all_times = [], []
    for when, owner, _, count in facts.rescued:
        died = facts.deaths.get(owner)
        if died is None:
            continue
        all_times += [when - died] * count
        if not any(start <= when and died <= end for start, end in facts.disturbed):
            calm += [when - died] * count
    report.tried["unstarted jobs of the dead"] = len(all_times)
    if all_times:
        report.tried["their wait for a rescue, s"] = spread(all_times)
    if calm:
        report.tried["undisturbed, s"] = spread(calm)
    if len(calm) >= ENOUGH:  # a median of few says more about the machine
        middle = statistics.median(calm)
        report.expect(middle < 1.0, f"half of the unstarted jobs waited more than {middle:.2f} s for their rescue")


def spread(values: list[float]) -> str:
    ordered = sorted(values)
    p99 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    return f"n={len(ordered)} p50={statistics.median(ordered):.3f} p99={p99:.3f} max={ordered[-1]:.3f}"


def check_litter(report: Report, cluster: Cluster) -> None:
    """No process, no draft, no claim of anybody is left."""
    for pid, command in cluster.leftovers():
        report.violations.append(f"process {pid} was left behind: {command}")
    drafts = [path.name for path in (cluster.root / "run").glob(".*")]
    report.expect(not drafts, f"left in run: {drafts[:5]}")
    if cluster.url.startswith("postgresql:"):
        check_tables(report, cluster.url)
        return
    for queue in CONCURRENCY:
        for state in ("tmp", "claimed"):
            found = sorted(path.name for path in (cluster.root / queue / state).iterdir())
            report.expect(not found, f"left in {queue}/{state}: {found[:5]}")
        drafts = [path.name for path in (cluster.root / queue).glob(".depth.*")]
        report.expect(len(drafts) <= 3, f"left in {queue}: {drafts[:5]}")


def check_tables(report: Report, url: str) -> None:
    """No owner, no claim, and no chosen id without its job is left in the tables."""
    tables = ("job", "later", "dead")
    rows = "not exists (select from worker.{} j where j.chosen and j.home = i.queue and j.id = i.id)"
    missing = " and ".join(rows.format(table) for table in tables)
    with psycopg.connect(url.partition("?")[0]) as connection:
        for what, query in (
            ("owners", "select id from worker.owner"),
            ("leases", "select id from worker.job where owner is not null"),
            ("chosen ids without a job", f"select id from worker.ids i where {missing}"),
        ):
            found = [row[0] for row in connection.execute(query).fetchall()]
            report.expect(not found, f"{len(found)} {what} are left: {found[:5]}")
