"""All fault suites, one after the other: `make faults`.

Environment: BUDGET=minutes for all together (default 30), ONLY=name,name for some of them, SEED=number to repeat a
run's choices. Everything that is printed at the end is also kept in a file below var/faults.

Exit codes: 0 every suite passed, 1 a promise is broken, 2 usage, 3 nothing is broken, but a suite could not run all
that it promises (the last line names what is missing).
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from tests.faults.registry import SUITES, Suite
from tests.faults.report import Report, number

SUMMARIES = Path(__file__).parents[2] / "var" / "faults"
EXIT_CODES = {"passed": 0, "FAILED": 1, "INCOMPLETE": 3}


def run_one(suite: Suite, seconds: float) -> Report:
    """Return a suite's report, whatever becomes of the suite."""
    if suite.needs_root and os.geteuid() != 0:
        return Report(suite.name, left_out=["everything: needs root"])
    try:
        return suite.run(seconds)
    except Exception as error:
        traceback.print_exc()
        return Report(suite.name, violations=[f"the suite itself broke: {type(error).__name__}: {error}"])


def verdict_of(reports: Sequence[Report]) -> str:
    """Return the worst verdict of a run."""
    verdicts = {report.verdict for report in reports}
    return next(verdict for verdict in ("FAILED", "INCOMPLETE", "passed") if verdict in verdicts or verdict == "passed")


def summary(results: Sequence[tuple[Report, float]]) -> str:
    """Return the table of a run. Its last line is the verdict, with what is missing."""
    lines = [f"{'suite':<24} {'result':<10} {'seconds':>8} {'violations':>10}  {'seed':<10}  tried in this time"]
    for report, took in results:
        row = f"{report.suite:<24} {report.verdict:<10} {took:8.0f} {len(report.violations):10}  {report.seed:<10}"
        lines.append(f"{row}  {report.part or 'all'}")
    reports = [report for report, _ in results]
    broken = [report.suite for report in reports if report.violations]
    missing = [f"{report.suite}: {part}" for report in reports for part in report.left_out]
    told = [f"broken promises in {', '.join(broken)}"] * bool(broken) + [f"not run: {part}" for part in missing]
    return "\n".join(
        [*lines, " - ".join([f"faults: {verdict_of(reports)}", "; ".join(told)]) if told else "faults: passed"]
    )


def keep(text: str) -> Path:
    """Write a run's reports to a file of its own; return its path."""
    SUMMARIES.mkdir(parents=True, exist_ok=True)
    path = SUMMARIES / time.strftime(f"%Y%m%dT%H%M%SZ-{os.getpid()}.txt", time.gmtime())
    path.write_text(text + "\n", encoding="utf-8")
    return path


def chosen_suites() -> list[Suite]:
    """Return the suites that ONLY names, all of them without it. Raises ValueError: an unknown name."""
    only = [name for name in os.environ.get("ONLY", "").split(",") if name]
    names = [suite.name for suite in SUITES]
    unknown = sorted(set(only) - set(names))
    if unknown:
        raise ValueError(f"ONLY={','.join(only)}: no suite {', '.join(unknown)}; there are {', '.join(names)}")
    return [suite for suite in SUITES if not only or suite.name in only]


def main(arguments: Sequence[str]) -> int:
    usage = f"{__doc__}\nSuites: {', '.join(suite.name for suite in SUITES)}"
    if arguments:
        asked = arguments[0] in ("-h", "--help")
        print(usage if asked else f"unknown argument {arguments[0]!r}\n\n{usage}", file=None if asked else sys.stderr)
        return 0 if asked else 2
    try:
        chosen, minutes, _ = chosen_suites(), number("BUDGET", 30), number("SEED", 0)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    shares = sum(suite.share for suite in chosen)
    results: list[tuple[Report, float]] = []
    for suite in chosen:
        seconds = minutes * 60 * suite.share / shares
        print(f"--- {suite.name}: {seconds:.0f} s", flush=True)
        began = time.monotonic()
        report = run_one(suite, seconds)
        results.append((report, time.monotonic() - began))
        print(report.text(), flush=True)
    table = summary(results)
    path = keep("\n".join([*(report.text() for report, _ in results), "", table]))
    print(f"\nkept in {path}\n{table}")
    return EXIT_CODES[verdict_of([report for report, _ in results])]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
