"""Prometheus's own judge of rules, where it can be had."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.stack.build import cache


def find() -> str | None:
    """On the PATH, else what `make stack-test` built."""
    built = sorted(path for path in cache().glob("prometheus-*/promtool") if os.access(path, os.X_OK))
    return shutil.which("promtool") or (str(built[-1]) if built else None)


PROMTOOL = find()
needed = pytest.mark.skipif(
    PROMTOOL is None, reason="no promtool on the PATH (Debian: the package prometheus) nor built by make stack-test"
)


def promtool(*arguments: str, cwd: Path) -> None:
    """Runs it; fails with what it says."""
    result = subprocess.run([PROMTOOL or "", *arguments], cwd=cwd, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stdout + result.stderr
