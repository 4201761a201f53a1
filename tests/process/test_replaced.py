"""The engine's directory goes away under a running service: one clear line, exit code 3, and nothing is lost."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.services.acts import Task
from tests.support.services.torture import Torture
from tests.support.tree import Tree


def _move(root: Path) -> None:
    root.rename(root.with_name("old"))


def _move_and_replace(root: Path) -> None:
    _move(root)
    shutil.copytree(root.with_name("old"), root, ignore=shutil.ignore_patterns("doorbell"))


def _mount_over(root: Path) -> None:
    if subprocess.run(["mount", "-t", "tmpfs", "none", root], capture_output=True).returncode:
        pytest.skip("no mounts here")


@pytest.fixture
def unmounted(tree: Tree) -> Iterator[None]:
    yield
    if os.path.ismount(tree.root):
        subprocess.run(["umount", tree.root], check=True)


@pytest.mark.parametrize(
    "how", [_move, _move_and_replace, shutil.rmtree, pytest.param(_mount_over, marks=pytest.mark.root)]
)
def test_a_service_whose_directory_goes_away_says_so_and_stops(
    tree: Tree, how: Callable[[Path], None], unmounted: None
) -> None:
    """What runs is finished, and settled where it is. Verified: before, maintenance died in its traceback until the
    budget was spent, and workers went on for ever."""
    tree.start("--queue", "sync", WORKER_QUEUES__SYNC__TIMEOUT="60", OTEL_SDK_DISABLED="false",
               OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9", WORKER_TELEMETRY_FLUSH="0.2")  # fmt: skip
    tree.enqueue(Torture.sync, Task(do="sleep", key="k", seconds=2))
    tree.wait_ledger("start k")
    how(tree.root)
    assert tree.exit_code() == 3
    tree.wait_ledger("end k")
    assert len(tree.events(level="error")) == 1, tree.tail()
    assert "was moved, removed or mounted over" in tree.events(level="error")[0]["event"]
    assert tree.events("raw") == []
    assert [e for e in tree.events("process_exited") if e["reason"] != "drained"] == []
    if how in (_move, _move_and_replace):
        assert not list((tree.root.with_name("old") / "sync").glob("*/*/*,*"))


def test_a_queue_whose_directory_is_removed_is_made_anew(tree: Tree) -> None:
    tree.start("--queue", "sync")
    tree.enqueue(Torture.sync, Task(key="before"))
    tree.wait_ledger("end before")
    shutil.rmtree(tree.root / "sync")
    tree.wait_event("engine_failed", verb="maintain")
    tree.enqueue(Torture.sync, Task(key="after"))
    tree.wait_ledger("end after")
    tree.enqueue(Torture.sync, Task(key="later"), delay=0.5)
    tree.wait_ledger("end later")
    assert tree.stop() == 0
