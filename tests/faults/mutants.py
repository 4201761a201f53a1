"""The mutation gate: takes each mending out in turn, in a copy of the tree, and wants a test to fail each time.

ONLY_MUTANTS=words for those whose name has one of them (comma between). Alone: `python -m tests.faults.mutants`. A
survivor, or a change that does not fit any more, is a violation. The tests run in a pid namespace of their own where
the machine has those: a mutant that kills the wrong processes finds only its own.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path

from .mutant import Misfit, Mutant
from .mutant_list import MUTANTS
from .report import Report, print_and_exit, seed

TREE = Path(__file__).parents[2]
MOST_SECONDS = 240.0  # of one run of tests
MOST_OF_A_TEST = 100.0  # seconds


def run(budget_seconds: float) -> Report:
    """Try every mutant that there is time for, in an order of the seed: runs together reach all of them."""
    report = Report("mutants", seed=seed())
    words = [word for word in os.environ.get("ONLY_MUTANTS", "").split(",") if word]
    chosen = [mutant for mutant in MUTANTS if not words or any(word in mutant.name for word in words)]
    random.Random(report.seed).shuffle(chosen)
    end = time.monotonic() + budget_seconds
    with tempfile.TemporaryDirectory(prefix="mutants-") as place:
        copy = Path(place)
        _copy_tree(copy)
        left_out = 0
        for mutant in chosen:
            if time.monotonic() > end:
                left_out += 1
                continue
            _try(mutant, copy, report)
    report.tried = {"mutants": len(chosen), "left out for want of time": left_out, **report.tried}
    report.part = f"{len(chosen) - left_out} of {len(chosen)} mutants" if left_out else ""
    return report


def _copy_tree(copy: Path) -> None:
    litter = shutil.ignore_patterns("__pycache__", "*.pyc")
    for part in ("framework", "tests", "services"):
        shutil.copytree(TREE / part, copy / part, ignore=litter)
    shutil.copy(TREE / "pyproject.toml", copy)
    found = subprocess.run(
        [sys.executable, "-c", "import framework; print(framework.__file__)"],
        cwd=copy, env=_environ(copy), capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    if not found.startswith(str(copy)):
        raise RuntimeError(f"the copy is not what is tested: {found}")


def _environ(copy: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1", "MOST": "120"}


def _try(mutant: Mutant, copy: Path, report: Report) -> None:
    path = copy / "framework" / mutant.file
    whole = path.read_text(encoding="utf-8")
    try:
        path.write_text(mutant.applied(whole), encoding="utf-8")
    except Misfit as misfit:
        report.violations.append(f"{mutant.name}: {mutant.file}: {misfit}")
        return
    try:
        caught = _caught_by(mutant, copy)
    except (TimeoutError, RuntimeError) as error:
        report.violations.append(str(error))
        return
    finally:
        path.write_text(whole, encoding="utf-8")
    print(f"  {mutant.name:<64} {caught or 'SURVIVED'}", flush=True)
    report.tried[mutant.name] = caught or "SURVIVED"
    report.expect(caught, f"survived: {mutant.name} ({mutant.file}); run were {mutant.tests}")


def _caught_by(mutant: Mutant, copy: Path) -> str:
    """The first test that fails; empty = none."""
    # Without their safeguard tests may hang.
    options = ["-x", "-q", "--no-header", "-o", f"timeout={MOST_OF_A_TEST:g}"]
    command = [sys.executable, "-m", "pytest", *options, *(f"tests/{t}" for t in mutant.tests.split())]
    fence = _fence()
    with subprocess.Popen(
        [*fence, *command], cwd=copy, env=_environ(copy), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as tests:
        try:
            said, _ = tests.communicate(timeout=MOST_SECONDS)
        except subprocess.TimeoutExpired:
            # What the tests have started ends with the namespace, or by their own hand.
            tests.send_signal(signal.SIGKILL if fence else signal.SIGINT)
            said, _ = tests.communicate()
            raise TimeoutError(f"{mutant.name}: the tests took longer than {MOST_SECONDS:g} s") from None
    if tests.returncode == 0:
        return ""
    failed = re.search(r"^(?:FAILED|ERROR) tests/(\S+)", said, re.MULTILINE)
    if tests.returncode != 1 or failed is None:
        raise RuntimeError(f"{mutant.name}: pytest ended with {tests.returncode}\n{said[-2000:]}")
    return failed[1]


@cache
def _fence() -> tuple[str, ...]:
    """Return the command that gives another one a pid namespace; nothing where that is not allowed."""
    fence = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
    try:
        return fence if subprocess.run([*fence, "true"], capture_output=True).returncode == 0 else ()
    except FileNotFoundError:
        return ()


if __name__ == "__main__":
    print_and_exit(run(3600))
