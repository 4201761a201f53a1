"""Maintenance on a disk that is slow or refuses a single file: a killed worker's job runs again all the same."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from framework.runner.connecting import open_producer
from framework.service.settings import Settings
from tests.support.services.acts import Task
from tests.support.services.torture import Torture
from tests.support.tree import Tree


@contextmanager
def immutable(path: Path, attribute: str = "i") -> Iterator[None]:
    """No call moves or removes this file: a bad sector, a quota, an administrator's `chattr +i`.

    Of a directory with `a`, nothing leaves it.
    """
    if subprocess.run(["chattr", f"+{attribute}", path], capture_output=True).returncode:
        pytest.skip("no chattr +i here: needs root and a file system that has it")
    try:
        yield
    finally:
        subprocess.run(["chattr", f"-{attribute}", path], check=True)


def claimed(tree: Tree, job_id: str) -> Path:
    """The claimed file of a job."""
    files = [path for path in (tree.root / "sync" / "claimed").glob("*/*") if job_id.encode() in path.read_bytes()]
    assert len(files) == 1
    return files[0]


@pytest.mark.root
def test_a_job_that_cannot_be_settled_stops_the_rescue_of_no_other(tree: Tree) -> None:
    """Regression: one such file of a dead worker, and no worker that was killed afterwards was ever rescued."""
    tree.start("--queue", "sync", WORKER_QUEUES__SYNC__TIMEOUT="60", WORKER_QUEUES__SYNC__WORKERS="2")
    first = tree.enqueue(Torture.sync, Task(do="sleep", key="stuck", until=1))
    tree.enqueue(Torture.sync, Task(do="sleep", key="other", until=1))
    victims = {line.split()[1]: int(line.split()[3]) for line in tree.wait_ledger("start ", 2)}
    with immutable(claimed(tree, first)):
        os.kill(victims["stuck"], signal.SIGKILL)
        failed = tree.wait_event("engine_failed", verb="settle")
        assert first in failed["error"]
        os.kill(victims["other"], signal.SIGKILL)
        tree.wait_ledger("end other 2")
        tree.enqueue(Torture.sync, Task(do="sleep", key="late", until=1))
        [line] = tree.wait_ledger("start late 1")
        os.kill(int(line.split()[3]), signal.SIGKILL)
        tree.wait_ledger("end late 2")
        assert tree.ran("start stuck") == [f"start stuck 1 {victims['stuck']}"]
    tree.wait_ledger("end stuck 2")
    assert tree.stop() == 0


@pytest.mark.root
def test_a_file_that_cannot_be_promoted_or_expired_is_named_and_the_others_go_on(tree: Tree) -> None:
    tree.start("--queue", "sync", WORKER_QUEUES__SYNC__RETRY__FIRST_DELAY="0.5")
    stuck = tree.enqueue(Torture.sync, Task(key="stuck"), delay=1.0)
    [path] = [path for path in (tree.root / "sync" / "delayed").glob("*/*") if stuck.encode() in path.read_bytes()]
    with immutable(path):
        tree.enqueue(Torture.sync, Task(key="other"), delay=1.0)
        tree.wait_ledger("end other")
        failed = tree.wait_event("engine_failed", verb="move")
        assert str(path) in failed["error"]
        assert tree.ran("start stuck") == []
    tree.wait_ledger("end stuck")
    assert tree.stop() == 0


def test_many_expiries_on_a_slow_disk_delay_no_rescue(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    """Regression: two flushes for each, one after the other, without a heartbeat: maintenance was killed as stuck, and
    the job of a killed worker had not run again after 100 s."""
    monkeypatch.setenv("WORKER_QUEUES__MANY__TTL", "0.01")
    producer = open_producer(Settings(engine_url=f"spool:{tree.root}", durability="process"))
    try:
        with Torture.many.connected(producer):
            Torture.many.enqueue_many([Task(key=f"gone{number}") for number in range(400)])
    finally:
        producer.close()
    tree.start(
        "--queue", "sync", module="tests.support.services.engines:Torture", FLUSH="0.05",
        WORKER_DURABILITY="power", WORKER_QUEUES__SYNC__TIMEOUT="60",
    )  # fmt: skip
    tree.enqueue(Torture.sync, Task(do="sleep", key="k", until=1))
    [line] = tree.wait_ledger("start k 1")
    os.kill(int(line.split()[3]), signal.SIGKILL)
    tree.wait_ledger("end k 2")
    tree.wait(lambda: len(tree.letters("many")) == 400, "all of them expired")
    assert tree.events("process_exited", slot="maintenance") == []
    assert tree.stop() == 0


@pytest.mark.root
def test_a_job_that_cannot_be_settled_slows_no_other_and_holds_no_drain(tree: Tree) -> None:
    """Regression: its worker claimed once in two seconds, wrote a line at each try, and the drain ended with code 5."""
    tree.start("--queue", "sync", WORKER_QUEUES__SYNC__WORKERS="1", WORKER_DRAIN="20")
    stuck = tree.enqueue(Torture.sync, Task(do="sleep", seconds=0.5, key="stuck"))
    tree.wait_ledger("start stuck")
    with immutable(claimed(tree, stuck)):
        tree.wait_event("engine_failed", verb="settle")
        for number in range(50):
            tree.enqueue(Torture.sync, Task(key=f"k{number}"))
        tree.wait_ledger("end k", 50)
        assert len(tree.events("engine_failed")) == 1
        assert tree.exits() == []
        assert tree.stop() == 0
        assert any("stay claimed" in event["event"] for event in tree.events())
    tree.start("--queue", "sync")
    tree.wait(lambda: tree.stats("sync").in_flight == 0, "the rescue finishes it")
    assert len(tree.ran("start stuck")) == 1, "it had ended: it does not run again"
    assert tree.stop() == 0


@pytest.mark.root
def test_jobs_that_cannot_be_settled_are_no_ruin_of_their_worker(tree: Tree) -> None:
    """Regression: for many of them its ledger grows, and with it goes a descriptor: the next error of the engine looked
    like the work of a handler that closes descriptors, and charged a job with it."""
    tree.start("--queue", "sync", WORKER_QUEUES__SYNC__WORKERS="1")
    tree.enqueue(Torture.sync, Task(key="first"))
    tree.wait_ledger("end first")
    [owner] = [path for path in (tree.root / "sync" / "claimed").iterdir() if path.is_dir()]
    with immutable(owner, "a"):
        for number in range(12):
            tree.enqueue(Torture.sync, Task(key=f"k{number}"))
        tree.wait_ledger("end k", 12)
        tree.enqueue(Torture.sync, Task(key="last"))
        tree.wait_ledger("end last")
        assert tree.exits() == []
    tree.wait(lambda: tree.stats("sync").in_flight == 0, "all are settled")
    assert tree.stop() == 0
    assert len(tree.ran("start ")) == 14
