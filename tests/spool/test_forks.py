"""Forked children keep nothing alive, and no descriptor is lost."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from framework.engine import flocks
from framework.engine.calls import Calls
from framework.engine.spool.engine import SpoolEngine, connect
from framework.model.errors import EngineError
from tests.support.settling import ack

from .seam import Seam, before, fail_calls
from .world import (
    broker,
    claim,
    cut_at,
    heal,
    ids,
    in_child,
    job,
)


def take_two(mine: SpoolEngine) -> None:
    mine.enqueue([job("a"), job("b")])
    claim(mine)


# Each says into the pipe that the child has come so far that it has let go of what it should not keep.


def _pause(write: int) -> None:
    os.write(write, b"c")
    signal.pause()


def _spawn_fork(write: int) -> None:
    if os.fork() == 0:
        _pause(write)


def _spawn_subprocess(write: int) -> None:
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], close_fds=False)  # returns after the exec
    os.write(write, b"c")


def _spawn_multiprocessing(write: int) -> None:
    multiprocessing.get_context("fork").Process(target=_pause, args=(write,), daemon=True).start()


def _outlived(live: Callable[[int], None], check: Callable[[], None]) -> None:
    """A parent spawns a child and is killed; the child lives on while `check` looks."""
    read, write = os.pipe()
    parent = os.fork()
    if parent == 0:
        try:
            os.setpgid(0, 0)
            live(write)
            signal.pause()
        finally:
            os._exit(1)
    try:
        assert os.read(read, 1) == b"c"
        os.kill(parent, signal.SIGKILL)
        os.waitpid(parent, 0)
        check()
    finally:
        os.killpg(parent, signal.SIGKILL)
        os.close(read)
        os.close(write)


@pytest.mark.parametrize("spawn", [_spawn_fork, _spawn_subprocess, _spawn_multiprocessing])
def test_a_child_does_not_keep_its_dead_parent_alive(root: Path, spawn: Callable[[int], None]) -> None:
    """A handler's child outlives its worker: the locks of the worker are free all the same.

    Verified: without register_at_fork the first and third fail, without O_CLOEXEC the second.
    """

    def live(write: int) -> None:
        take_two(broker(root))
        spawn(write)

    def check() -> None:
        fresh = broker(root)
        assert len(fresh.rescue()) == 2
        fresh.close()

    _outlived(live, check)


def test_a_child_does_not_keep_a_dead_producers_file(root: Path) -> None:
    """Forked by another thread in the middle of an enqueue. Verified: without register_at_fork the job stays in tmp."""

    def live(write: int) -> None:
        seam = Seam()
        mine = broker(root, calls=seam)

        def fork_and_wait() -> None:
            _spawn_fork(write)
            signal.pause()

        seam.arm(before("rename", fork_and_wait))
        mine.enqueue([job("n")])

    def check() -> None:
        fresh = heal(root)
        assert ids(claim(fresh)) == ["n"]
        fresh.close()

    _outlived(live, check)


def test_a_forked_child_is_another_owner(root: Path) -> None:
    """It may enqueue and claim for itself; the parent's claims and locks stay the parent's."""
    mine = broker(root)
    take_two(mine)

    def live() -> None:
        mine.enqueue([job("c")])
        assert ids(claim(mine)) == ["c"]
        assert mine.rescue() == []
        mine.close()

    in_child(live)
    (orphan,) = mine.rescue()
    assert orphan.lease.job.id == "c", "the child's, not the parent's own"
    mine.release([orphan.lease])
    assert ids(claim(mine)) == ["c"]
    assert mine.stats("jobs").in_flight == 3
    mine.close()


def test_a_forked_child_closes_locks_before_it_resets_objects(tmp_path: Path) -> None:
    """What an object forgets in the child would stay open there, and keep the parent's lock."""
    fd = flocks.keep(os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT))

    class Owner:
        def __init__(self) -> None:
            self.found: list[bool] = []  # for each call, whether the descriptor was open

        def after_fork(self) -> None:
            self.found.append(os.path.exists(f"/proc/self/fd/{fd}"))

    owner = Owner()
    flocks.in_child(owner)

    def live() -> None:
        assert owner.found == [False]

    in_child(live)
    assert owner.found == []
    flocks.drop(Calls(), fd)


def test_no_descriptor_leaks(root: Path) -> None:
    mine = broker(root)

    def round_() -> None:
        mine.enqueue([job("a"), job("x", chosen=True), *(job(f"n{n}") for n in range(20))])
        for lease in claim(mine):
            ack(mine, [lease])
        mine.maintain()
        mine.rescue()
        mine.stats("jobs")
        list(mine.browse("jobs", "dead"))

    round_()
    open_before = len(os.listdir("/proc/self/fd"))
    kept = len(flocks._kept)
    for _ in range(5):
        round_()
    assert len(os.listdir("/proc/self/fd")) == open_before
    assert len(flocks._kept) == kept
    mine.close()
    mine.close()


def test_opening_and_closing_leaves_no_descriptor(root: Path) -> None:
    broker(root).close()
    open_before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        mine = broker(root)
        take_two(mine)
        mine.close()
        connect(f"spool:{root}", incarnation="never-opened")
        seam = Seam()
        seam.arm(fail_calls(28, "mkfifo"))
        with pytest.raises(EngineError):
            broker(root, calls=seam)
        cut_at(root, "rename", lambda other: other.enqueue([job("n")]))
    assert len(os.listdir("/proc/self/fd")) == open_before
