"""A service that was stopped starts again where nothing can be written, and its waiting jobs make room."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.services.acts import Task
from tests.support.services.torture import Torture
from tests.support.tree import Tree

pytestmark = pytest.mark.root
JOBS = 12


def _mount(*command: object) -> None:
    if os.geteuid() != 0 or subprocess.run(["mount", *map(str, command)], capture_output=True).returncode:
        pytest.skip("needs root, and mounts")


@pytest.fixture
def unmounted(tree: Tree) -> Iterator[None]:
    """What a test mounts below the tree's place is unmounted after it."""
    yield
    tree.close()
    for path in (tree.root / "run", tree.root / "run", tree.root):  # a bind mount and its remount, then the disk
        subprocess.run(["umount", "--lazy", path], capture_output=True)


def _ext4(tree: Tree) -> None:
    image = tree.place / "image"
    with image.open("wb") as file:
        file.truncate(16 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", image], check=True, capture_output=True)
    _mount("-o", "loop", image, tree.root)


def _tmpfs(tree: Tree) -> None:
    _mount("-t", "tmpfs", "-o", "size=16m,nr_inodes=600", "none", tree.root)


def _no_blocks(root: Path) -> None:
    with suppress(OSError), (root / "filler").open("ab", buffering=0) as file:
        while True:
            file.write(bytes(1 << 12))


def _no_inodes(root: Path) -> None:
    with pytest.raises(OSError, match="No space left"):  # noqa: PT012 -- one of many is the first that finds none
        for number in range(10_000):
            (root / f"filler{number}").touch()


@pytest.mark.parametrize(("disk", "fill"), [(_ext4, _no_blocks), (_tmpfs, _no_blocks), (_tmpfs, _no_inodes)])
def test_a_start_on_a_full_disk(
    tree: Tree, disk: Callable[[Tree], None], fill: Callable[[Path], None], unmounted: None
) -> None:
    """Verified: without the room that is kept back the start ends with exit code 3, or no worker can claim."""
    tree.root.mkdir(mode=0o700, exist_ok=True)
    disk(tree)
    tree.root.chmod(0o700)
    tree.start("--queue", "sync")
    assert tree.stop() == 0
    for number in range(JOBS):
        tree.enqueue(Torture.sync, Task(key=f"k{number}"))
    fill(tree.root)
    tree.start("--queue", "sync")
    tree.wait_ledger("end", JOBS)
    [line] = [event["event"] for event in tree.events(level="warning") if "full" in event["event"]]
    assert "started on the room kept back for this" in line
    assert tree.stop() == 0
    fill(tree.root)  # the room that the jobs and this run have left is kept back again
    tree.start("--queue", "sync")
    assert tree.stop() == 0


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_start_where_run_is_read_only(tree: Tree, method: str, unmounted: None) -> None:
    """The board lies in memory then, which every process of the tree finds."""
    tree.start("--queue", "sync")
    assert tree.stop() == 0
    run = tree.root / "run"
    _mount("--bind", run, run)
    _mount("-o", "remount,bind,ro", run)
    tree.start("--queue", "sync", ready=False, WORKER_START_METHOD=method)
    tree.enqueue(Torture.sync, Task(key="a"))
    tree.wait_ledger("end a")
    [line] = [event["event"] for event in tree.events(level="warning") if str(run) in event["event"]]
    assert "cannot hold a board" in line
    assert tree.stop() == 0
