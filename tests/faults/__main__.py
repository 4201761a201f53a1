"""All fault suites, one after the other: `make faults`.

BUDGET=minutes for all together (default 30), ONLY=name,name for some of them, SEED=number to repeat a run's choices.
"""

from __future__ import annotations

import os
import sys
import time
import traceback

from tests.faults.registry import SUITES, Suite
from tests.faults.report import Report, number


def run_one(suite: Suite, seconds: float) -> Report:
    """A suite's report, whatever becomes of it."""
    if suite.needs_root and os.geteuid() != 0:
        return Report(suite.name, skipped="needs root")
    try:
        return suite.run(seconds)
    except Exception as error:
        traceback.print_exc()
        return Report(suite.name, violations=[f"the suite itself broke: {type(error).__name__}: {error}"])


def main() -> int:
    only = [name for name in os.environ.get("ONLY", "").split(",") if name]
    unknown = set(only) - {suite.name for suite in SUITES}
    if unknown:
        print(f"ONLY={','.join(only)}: no suite {', '.join(sorted(unknown))}; there are "
              f"{', '.join(suite.name for suite in SUITES)}", file=sys.stderr)  # fmt: skip
        return 2
    chosen = [suite for suite in SUITES if not only or suite.name in only]
    minutes = number("BUDGET", 30)
    shares = sum(suite.share for suite in chosen)
    results: list[tuple[Report, float]] = []
    for suite in chosen:
        seconds = minutes * 60 * suite.share / shares
        print(f"--- {suite.name}: {seconds:.0f} s", flush=True)
        began = time.monotonic()
        report = run_one(suite, seconds)
        results.append((report, time.monotonic() - began))
        print(report.text(), flush=True)
    print(f"\n{'suite':<24} {'result':<8} {'seconds':>8} {'violations':>10}  seed")
    for report, took in results:
        why = report.skipped and f" ({report.skipped})"
        print(f"{report.suite:<24} {report.verdict:<8} {took:8.0f} {len(report.violations):10}  {report.seed}{why}")
    return 1 if any(report.violations for report, _ in results) else 0


if __name__ == "__main__":
    sys.exit(main())
