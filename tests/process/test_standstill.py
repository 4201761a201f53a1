"""A tree that stands still as a whole: frozen by its container, moved with its machine. Nobody is charged for that."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import which

import pytest

from tests.support.services.acts import Task
from tests.support.services.torture import Torture
from tests.support.tree import Tree

FREEZER = Path("/sys/fs/cgroup/freezer")


def everybody(tree: Tree) -> list[int]:
    assert tree.process is not None
    return [tree.process.pid, *(slot.pid for slot in tree.slots())]


@contextmanager
def stopped(tree: Tree) -> Iterator[None]:
    """By SIGSTOP; the supervisor comes back last."""
    pids = everybody(tree)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    yield
    for pid in pids[::-1]:
        os.kill(pid, signal.SIGCONT)


@contextmanager
def frozen(tree: Tree) -> Iterator[None]:
    """By the freezer of a container: no process sees a signal."""
    group = FREEZER / f"worker-test-{os.getpid()}"
    group.mkdir()
    try:
        for pid in everybody(tree):
            (group / "cgroup.procs").write_text(str(pid))
        (group / "freezer.state").write_text("FROZEN")
        yield
        (group / "freezer.state").write_text("THAWED")
        for pid in (group / "cgroup.procs").read_text().split():
            (FREEZER / "cgroup.procs").write_text(pid)
    finally:
        group.rmdir()


still = frozen if FREEZER.is_dir() and os.geteuid() == 0 else stopped


def test_no_job_is_charged_for_the_time_in_which_its_tree_stood_still(tree: Tree) -> None:
    """Beyond the soft and the hard timeouts of all; each needs most of its time after that."""
    tree.start(WORKER_QUEUES__MANY__TIMEOUT="1")
    for number in range(2):
        tree.enqueue(Torture.sync, Task(do="steps", seconds=0.6, key=f"s{number}"))
        tree.enqueue(Torture.many, Task(do="steps", seconds=0.6, key=f"a{number}"))
    tree.wait_ledger("start ", 4)
    with still(tree):
        time.sleep(2.3)
    tree.wait_ledger("end ", 4)
    assert [line for line in tree.ran("end ") if not line.endswith(" 1")] == []
    assert tree.events("process_killed") == []
    assert {event["outcome"] for event in tree.events("job_finished")} == {"succeeded"}
    tree.enqueue(Torture.sync, Task(do="sleep", key="late"))  # the deadlines hold again
    assert tree.wait_event("job_finished", outcome="retried")["reason"] == "timeout"
    assert tree.stop() == 0


def test_a_drain_does_not_count_the_time_in_which_its_tree_stood_still(tree: Tree) -> None:
    tree.start("--queue", "sync", WORKER_DRAIN="2", WORKER_QUEUES__SYNC__TIMEOUT="60")
    tree.enqueue(Torture.sync, Task(do="steps", seconds=0.6, key="k"))
    tree.wait_ledger("start k")
    tree.signal(signal.SIGTERM)
    tree.wait_event("draining")
    with stopped(tree):
        time.sleep(2.1)
    assert tree.exit_code() == 0
    assert tree.ran("end k") == ["end k 1"]


@contextmanager
def mounted(place: Path) -> Iterator[Path]:
    image, where = place / "image", place / "mounted"
    where.mkdir()
    image.touch()
    os.truncate(image, 64 * 2**20)
    subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, where], check=True)
    try:
        yield where
    finally:
        subprocess.run(["umount", "-l", where], check=True)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0 or which("mkfs.ext4") is None, reason="makes and mounts a file system")
def test_no_job_is_charged_for_a_disk_that_stood_still(tmp_path: Path) -> None:
    """A frozen file system: a snapshot, a backup. Workers and maintenance wait for it, and for the board on it."""
    with mounted(tmp_path) as place:
        tree = Tree(place)
        try:
            tree.start(WORKER_QUEUES__MANY__TIMEOUT="1")
            for number in range(2):
                tree.enqueue(Torture.sync, Task(do="steps", seconds=0.6, key=f"s{number}"))
                tree.enqueue(Torture.many, Task(do="steps", seconds=0.6, key=f"a{number}"))
            tree.wait_ledger("start ", 4)
            subprocess.run(["fsfreeze", "-f", place], check=True)
            try:
                time.sleep(3.0)
            finally:
                subprocess.run(["fsfreeze", "-u", place], check=True)
            tree.wait_ledger("end ", 4)
            assert [line for line in tree.ran("end ") if not line.endswith(" 1")] == []
            assert tree.events("process_killed") == tree.events("attempt_lost") == []
            assert tree.stop() == 0
        finally:
            tree.close()
