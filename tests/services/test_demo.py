"""`make run`, whole: a receiver, a worker with its processes, traffic; and nothing left afterwards."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import psutil
import pytest

ROOT = Path(__file__).parents[2]
MARK = "EXAMPLE_DEMO_TEST"
pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads other processes' environment")


@contextmanager
def demo(spool: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A running demo and the mark that all its processes carry in their environment."""
    mark = uuid4().hex
    # OTEL_SDK_DISABLED: another test's collector on 4318 is none of ours.
    environ = {**os.environ, MARK: mark, "OTEL_SDK_DISABLED": "true", "COLUMNS": "120"}
    environ.pop("WORKER_ENGINE_URL", None)
    command = [sys.executable, "-m", "services.example_worker.demo", "--spool", str(spool), *options]
    process = subprocess.Popen(
        command, cwd=ROOT, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        yield process, mark
    finally:
        for left in carrying(mark):
            left.kill()
        process.wait(10)


def carrying(mark: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:  # gone, or not ours to read
            continue
    return found


def logs(spool: Path) -> str:
    return "\n".join(f"{path.name}:\n{path.read_text()[-3000:]}" for path in (spool.parent / "demo").glob("*.log"))


def test_it_ends_by_itself_with_a_summary_and_leaves_no_process(tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    shares = "ok=80,503=8,429=5,404=5,hang=2"
    with demo(spool, "--jobs", "60", "--rate", "0", "--shares", shares) as (process, mark):
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 0, output + logs(spool)
        assert carrying(mark) == []
    assert "What happened" in output
    assert "enqueued" in output
    assert " 64 jobs" in output
    assert "2 batches summarised" in output
    assert "0 bad signatures" in output
    assert "Where to look next" in output


def test_it_runs_on_postgresql(tmp_path: Path) -> None:
    with demo(tmp_path / "spool", "--engine", "postgres", "--jobs", "20", "--rate", "0") as (process, mark):
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 0, output + logs(tmp_path / "spool")
        assert carrying(mark) == []
    assert "PostgreSQL at 127.0.0.1" in output
    assert "0 bad signatures" in output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_leaves_no_process(number: signal.Signals, tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    with demo(spool, "--forever", "--rate", "50") as (process, mark):
        assert process.stdout is not None
        pages = []
        for line in process.stdout:
            pages += re.findall(r"web page at (http://127\.0\.0\.1:\d+/)", line)
            if "delivered" in line and "delivered 0" not in line:
                break
        with urllib.request.urlopen(pages[0], timeout=60) as answer:
            assert b"Overview" in answer.read()
        process.send_signal(number)
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 0, output + logs(spool)
        assert carrying(mark) == []
    assert "What happened" in output


def test_a_worker_that_cannot_start_is_one_clear_error(tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    spool.write_text("a file where a directory should be")
    with demo(spool, "--jobs", "5") as (process, mark):
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 1
        assert carrying(mark) == []
    assert "Error: " in output
    assert "Traceback" not in output
