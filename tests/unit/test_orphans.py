"""Telling who descends from a tree by a mark that nothing loses on the way."""

from __future__ import annotations

import os
import resource
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from framework.process import orphans

SLEEP = ("env", "-i", "setsid", "sleep", "600")


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        process.kill()
        process.wait()


def descendant(mark: int, *command: str) -> subprocess.Popen[str]:
    """Wears a mark, and becomes another program without environment in a session of its own."""
    code = (
        f"from framework.process import orphans as o; o.wear({mark}); import os; os.execvp({command[0]!r}, {command!r})"
    )
    process = subprocess.Popen([sys.executable, "-c", f"print(flush=True); {code}"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    while os.readlink(f"/proc/{process.pid}/exe").rpartition("/")[2] != "sleep":
        os.sched_yield()
    return process


def test_a_mark_outlives_exec_environment_and_session(processes: list[subprocess.Popen[str]]) -> None:
    tree, other = secrets.token_hex(8), secrets.token_hex(8)
    first, second = orphans.mark_of(tree, 1), orphans.mark_of(tree, 2)
    processes.extend(descendant(mark, *SLEEP) for mark in (first, second, orphans.mark_of(other, 1)))
    processes.append(subprocess.Popen(["sleep", "600"], text=True))
    pids = [process.pid for process in processes]
    assert orphans.orphans_of(tree, [*pids, os.getpid(), 1, 2**30], {second}) == {pids[0]}
    assert orphans.kill(tree) == pids[:2]
    assert [process.wait(10) for process in processes[:2]] == [-signal.SIGKILL] * 2
    assert [process.poll() for process in processes[2:]] == [None, None]


def test_nothing_is_killed_that_does_not_wear_the_mark_at_that_moment(processes: list[subprocess.Popen[str]]) -> None:
    """A pid may have been reused."""
    processes.append(subprocess.Popen(["sleep", "600"], text=True))
    orphans.end(secrets.token_hex(8), [processes[0].pid])
    assert processes[0].poll() is None


def test_marks_differ_by_tree_and_life_and_fit_a_limit() -> None:
    marks = {orphans.mark_of(tree, life) for tree in ("a", "b") for life in (1, 2)}
    assert len(marks) == 4
    assert all(0 < mark < resource.RLIM_INFINITY % 2**63 for mark in marks)


@pytest.mark.skipif(os.geteuid() != 0, reason="makes a pid namespace")
@pytest.mark.root
def test_a_mark_is_seen_into_a_pid_namespace(processes: list[subprocess.Popen[str]]) -> None:
    tree = secrets.token_hex(8)
    code = f"from framework.process import orphans; orphans.wear({orphans.mark_of(tree, 1)}); import os; "
    command = ("unshare", "--pid", "--fork", "env", "-i", "sh", "-c", "echo; exec sleep 600")
    process = subprocess.Popen(
        [sys.executable, "-c", f"{code}os.execvp({command[0]!r}, {command!r})"], stdout=subprocess.PIPE, text=True
    )
    processes.append(process)
    assert process.stdout is not None
    process.stdout.readline()
    assert len(orphans.kill(tree)) == 2
    assert process.stdout.read() == ""  # nobody holds it any more
