"""Every operation × every change that it makes: a kill there, a kill within the write; and at every system call each
errno. Counted here, tried by tests/spool/test_crash_points.py and test_errnos.py; beside them every errno at every
call of the ledger, by tests/ledger/test_calls.py. The kills come first; as many errnos follow as the budget allows, in
an order that the seed chooses.
"""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
import time

from tests.spool.cases import CASES
from tests.spool.seam import WRITES, Seam, pass_on
from tests.spool.stage import Case
from tests.spool.test_errnos import WAYS, name_of

from .diskmodel import somewhere
from .mutants import TREE
from .report import Report, number, print_and_exit, seed

MOST_SECONDS = 3600.0  # of one part


def calls_of(case: Case) -> Seam:
    """Return the calls of an act that nothing disturbs."""
    seam = Seam()
    with somewhere() as place:
        stage = case.stage(place / "spool", seam)
        seam.arm(pass_on)
        case.act(stage)
        seam.disarm()
        stage.broker.close()
    return seam


def run(budget_seconds: float) -> Report:
    """The kills and the ledger, then the errnos for which there is time."""
    report = Report("crashpoints", seed=seed())
    end = time.monotonic() + budget_seconds
    calls = [calls_of(case) for case in CASES]
    total = sum(len(seam.names) for seam in calls)
    report.tried = {
        "operations": len(calls),
        "system calls": total,
        "points: killed around a change": sum(len(seam.changes) + 1 for seam in calls),
        "points: killed within a write": sum(name in WRITES for seam in calls for name in seam.names),
    }
    _try(report, "", "tests/spool/test_crash_points.py")
    _try(report, "1", "tests/ledger/test_calls.py")
    ways = [name_of(way) for way in WAYS]
    random.Random(report.seed).shuffle(ways)
    tried: list[str] = []
    for way in ways:
        if tried and time.monotonic() > end:
            break
        _try(report, way, "tests/spool/test_errnos.py")
        tried.append(way)
    report.tried["points: an error at a call"] = total * len(tried)
    report.tried["errors"] = " ".join(tried)
    report.part = f"{len(tried)} of {len(ways)} errors" if len(tried) < len(ways) else ""
    return report


def _try(report: Report, every: str, tests: str) -> None:
    """Run tests with EVERY set, and note in the report what failed or did not run."""
    what = f"{tests}{f' with {every}' * bool(every)}"
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "--no-header", "--numprocesses", "2", tests],
            cwd=TREE, env={**os.environ, "EVERY": every}, capture_output=True, text=True, timeout=MOST_SECONDS,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        report.left_out.append(f"{what} within {MOST_SECONDS:g} s: the machine is too slow, or busy")
        return
    failed = re.findall(r"^(?:FAILED|ERROR) .*", done.stdout, re.MULTILINE)
    report.violations += failed or ([f"{what}: {done.stdout[-500:]}"] if done.returncode else [])
    if skipped := re.search(r"(\d+) skipped", done.stdout):
        report.left_out.append(f"{what}: {skipped[1]} of the tests were skipped")


if __name__ == "__main__":
    print_and_exit(run(60 * number("BUDGET", 60)))
