"""Forms and workflows that a forge reads: against its schemas."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.command import Cli

ROOT = Path(__file__).parents[2]


def check(schema: str, *paths: Path) -> None:
    command = [str(Path(sys.executable).with_name("check-jsonschema")), "--builtin-schema", f"vendor.{schema}"]
    done = subprocess.run([*command, *map(str, paths)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_issue_forms(tmp_path: Path) -> None:
    forms = ROOT / ".github" / "ISSUE_TEMPLATE"
    check("github-issue-forms", forms / "bug.yml", forms / "feature.yml")
    check("github-issue-config", forms / "config.yml")


@pytest.mark.parametrize(
    ("path", "schema"), [(".github/workflows/ci.yml", "github-workflows"), ("compose.yaml", "compose-spec")]
)
def test_what_worker_new_writes_for_others(tmp_path: Path, path: str, schema: str) -> None:
    Cli(tmp_path).ok("new", "my-service")
    check(schema, tmp_path / "my-service" / path)
