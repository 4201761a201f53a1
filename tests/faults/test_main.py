"""What `python -m tests.faults` says of a run: help, usage, what could not run, and the file that keeps it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults import __main__ as faults
from tests.faults.disks import KINDS, missing
from tests.faults.registry import Suite
from tests.faults.report import Report


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(faults, "SUMMARIES", tmp_path / "faults")
    for name in ("ONLY", "BUDGET", "SEED"):
        monkeypatch.delenv(name, raising=False)


def run(monkeypatch: pytest.MonkeyPatch, *reports: Report) -> int:
    suites = [Suite(report.suite, False, lambda _, report=report: report) for report in reports]
    monkeypatch.setattr(faults, "SUITES", suites)
    return faults.main([])


def test_help_is_printed_and_nothing_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert faults.main(["--help"]) == 0
    assert "BUDGET=minutes" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "environ", "says"),
    [
        (["--quick"], {}, "unknown argument '--quick'"),
        ([], {"ONLY": "powercut"}, "no suite powercut; there are kill_soak"),
        ([], {"BUDGET": "long"}, "BUDGET='long' is not a number"),
        ([], {"SEED": "x"}, "SEED='x' is not a number"),
    ],
)
def test_usage(
    arguments: list[str],
    environ: dict[str, str],
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert faults.main(arguments) == 2
    assert says in capsys.readouterr().err


def test_a_run_that_held_everything(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, Report("one"), Report("two")) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "faults: passed"


def test_how_much_there_was_time_for_is_said_and_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert run(monkeypatch, Report("one"), Report("mutants", part="12 of 210 mutants")) == 0
    [kept] = (tmp_path / "faults").iterdir()
    one, mutants, last = kept.read_text().splitlines()[-3:]
    assert (one.endswith("  all"), mutants.endswith("  12 of 210 mutants"), last) == (True, True, "faults: passed")


def test_what_could_not_run_is_not_passed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    cuts = Report("powercuts", tried={"ext4: cuts": 10}, left_out=["xfs: no mkfs.xfs: install xfsprogs"])
    assert run(monkeypatch, Report("one"), cuts) == 3
    printed = capsys.readouterr().out
    last = "faults: INCOMPLETE - not run: powercuts: xfs: no mkfs.xfs: install xfsprogs"
    assert printed.splitlines()[-1] == last
    [kept] = (tmp_path / "faults").iterdir()
    assert str(kept) in printed
    text = kept.read_text()
    assert "NOT RUN xfs: no mkfs.xfs" in text
    assert text.splitlines()[-1] == last


def test_a_broken_promise_outweighs_what_could_not_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, Report("one", violations=["lost"]), Report("two", left_out=["x: needs root"])) == 1
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "faults: FAILED - broken promises in one; not run: two: x: needs root"


def test_a_suite_for_root_alone_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    report = faults.run_one(Suite("powercuts", True, lambda _: Report("powercuts")), 1.0)
    assert report.left_out == ["everything: needs root"]


@pytest.mark.parametrize(
    ("tools", "kind", "says"),
    [
        ({"mkfs.ext4", "mkfs.xfs", "mkfs.btrfs"}, "xfs", ""),
        ({"mkfs.ext4", "mkfs.btrfs"}, "ext4", ""),
        ({"mkfs.ext4", "mkfs.btrfs"}, "xfs", "no mkfs.xfs: install xfsprogs"),
        ({"mkfs.ext4", "mkfs.xfs"}, "btrfs", "no mkfs.btrfs: install btrfs-progs"),
        ({"mkfs.ext4"}, "ext4", "install xfsprogs or btrfs-progs"),
        ({"mkfs.xfs"}, "ext4 without journal", "no mkfs.ext4: install e2fsprogs"),
    ],
)
def test_a_missing_file_system_is_named_with_its_package(tools: set[str], kind: str, says: str) -> None:
    why = missing(KINDS[kind], lambda tool: tool if tool in tools else None)
    assert why.endswith(says) if says else why == ""
