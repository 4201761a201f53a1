"""The public face under the two type checkers: services are accepted, each planted mistake is reported.

Both checkers run once over everything, as a user would run them: strict, and without this project's own configuration.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
MARK = "# E"  # on each line of mistakes/ that a checker must report

Place = tuple[Path, int]


@lru_cache(maxsize=1)
def mypy() -> dict[Place, str]:
    """Errors by file and line."""
    with TemporaryDirectory() as cache:
        packages = ("-p", "tests.typing.services", "-p", "tests.typing.mistakes")
        options = ("--strict", "--config-file=", f"--cache-dir={cache}", "--show-absolute-path", "--no-error-summary")
        run = run_checker("mypy", *options, *packages)
    lines = re.finditer(r"^(.+?):(\d+): error: (.*)$", run.stdout, re.MULTILINE)
    return {(Path(line[1]), int(line[2])): line[3] for line in lines}


@lru_cache(maxsize=1)
def pyright() -> dict[Place, str]:
    """Errors by file and line."""
    run = run_checker("pyright", "--project", str(HERE), "--pythonpath", sys.executable, "--outputjson")
    report = json.loads(run.stdout)
    checked = len(list(HERE.glob("services/**/*.py"))) + len(list(HERE.glob("mistakes/*.py")))
    assert report["summary"]["filesAnalyzed"] == checked, report
    return {
        (Path(found["file"]), found["range"]["start"]["line"] + 1): found["message"]
        for found in report["generalDiagnostics"]
        if found["severity"] == "error"
    }


def run_checker(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    run = subprocess.run(
        [sys.executable, "-m", module, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=110, check=False
    )
    assert run.returncode == 1, f"the mistakes must be reported; exit code {run.returncode}: {run.stdout}{run.stderr}"
    return run


def mistakes() -> dict[Place, str]:
    return {
        (path, number): line.strip()
        for path in sorted((HERE / "mistakes").glob("*.py"))
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if MARK in line
    }


CHECKERS = pytest.mark.parametrize("checker", [mypy, pyright], ids=["mypy", "pyright"])
Checker = Callable[[], dict[Place, str]]


@CHECKERS
def test_services_are_accepted(checker: Checker) -> None:
    services = [path for path in (HERE / "services").rglob("*.py") if path.stat().st_size]
    assert len(services) >= 10
    complaints = {place: text for place, text in checker().items() if HERE / "mistakes" not in place[0].parents}
    assert complaints == {}


@CHECKERS
def test_every_mistake_is_reported(checker: Checker) -> None:
    missed = [
        f"{path.name}:{number} {text}" for (path, number), text in mistakes().items() if (path, number) not in checker()
    ]
    assert missed == []
    assert len(mistakes()) > 70


@CHECKERS
def test_nothing_else_is_reported(checker: Checker) -> None:
    """A checker that complained about every line would find the mistakes, too."""
    extra = [
        f"{path.name}:{number} {text}" for (path, number), text in checker().items() if (path, number) not in mistakes()
    ]
    assert extra == []
