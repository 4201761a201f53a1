"""Every operation × every change that it makes: a kill there, a kill within the write; and at every system call each
errno. Counted here, tried by tests/spool/test_crash_points.py and test_errnos.py; beside them every errno at every
call of the ledger, by tests/ledger/test_calls.py.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys

from tests.spool.cases import CASES
from tests.spool.seam import WRITES, Seam, pass_on
from tests.spool.stage import Case
from tests.spool.test_errnos import AFTER, ERRNOS

from .diskmodel import somewhere
from .mutants import TREE
from .report import Report, print_and_exit

MOST_SECONDS = 3600.0  # all points have a fixed number: no budget cuts them, and a quiet machine takes minutes
TESTS = ("tests/spool/test_crash_points.py", "tests/spool/test_errnos.py", "tests/ledger/test_calls.py")


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


def run(_: float) -> Report:
    """All points."""
    report = Report("crashpoints")
    calls = [calls_of(case) for case in CASES]
    total = sum(len(seam.names) for seam in calls)
    torn = sum(name in WRITES for seam in calls for name in seam.names)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "--no-header", "--numprocesses", "2", *TESTS],
            cwd=TREE, env={**os.environ, "EVERY": "1"}, capture_output=True, text=True, timeout=MOST_SECONDS,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        report.left_out = [f"not every point within {MOST_SECONDS:g} s: the machine is too slow, or busy"]
        return report
    failed = re.findall(r"^(?:FAILED|ERROR) .*", done.stdout, re.MULTILINE)
    report.tried = {
        "operations": len(calls),
        "system calls": total,
        "points: killed around a change": sum(len(seam.changes) + 1 for seam in calls),
        "points: killed within a write": torn,
        "points: an error at a call": total * (len(ERRNOS) + len(AFTER)),
    }
    skipped = re.search(r"(\d+) skipped", done.stdout)
    report.left_out = [f"{skipped[1]} of the tests were skipped"] if skipped else []
    report.violations = failed or ([done.stdout[-500:]] if done.returncode else [])
    return report


if __name__ == "__main__":
    print_and_exit(run(0))
