"""Whoever could plant a link in the run directory must not have another file written, emptied or locked through it."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from framework.engine.flocks import FileLock
from framework.process.scoreboard import Scoreboard
from framework.process.supervisor.instance import Instance
from framework.process.supervisor.reserve import Reserve
from framework.telemetry.ring import ring
from framework.telemetry.ring.ring import RingFile
from framework.telemetry.ring.rings import readers_lock

CONTENT = b"somebody else's " * 100


def _board(run: Path) -> None:
    Scoreboard.create(run / "0.board", [("a", 1)], app="App")


def _ring(run: Path) -> None:
    ring.create(run / "0.a.ring", capacity=1 << 15)


def _draft(name: str) -> str:
    return f".{name}.{os.getpid()}"


PLACES: list[tuple[Callable[[Path], object], str]] = [
    (_board, _draft("0.board")),
    (_ring, _draft("0.a.ring")),
    (lambda run: Instance.take(run, run), "0.lock"),
    (lambda run: FileLock(run / "leader.lock").take(), "leader.lock"),
    (lambda run: Reserve(run, 0, 0).fill(), "piece0"),
    (lambda run: readers_lock(run, 0).take(), "0.reader"),
]


@pytest.mark.parametrize(("act", "name"), PLACES, ids=["board", "ring", "instance", "leader", "reserve", "reader"])
def test_a_planted_link_is_not_followed(act: Callable[[Path], object], name: str, tmp_path: Path) -> None:
    """Neither to a file that is there, nor to one that would have to be made."""
    target, missing = tmp_path / "target", tmp_path / "missing"
    target.write_bytes(CONTENT)
    for number, of in enumerate((target, missing)):
        run = tmp_path / f"run{number}"
        run.mkdir()
        (run / name).symlink_to(of)
        told: object = False
        with suppress(OSError):
            told = act(run)
        assert not told, "it took the link for its own"
    assert target.read_bytes() == CONTENT
    assert not missing.exists()


def test_a_planted_pipe_keeps_no_start_waiting(tmp_path: Path) -> None:
    """Regression: a supervisor waited for ever for somebody to read it, deaf to SIGTERM."""
    for name in ("piece0", "probe1"):
        os.mkfifo(tmp_path / name)
    reserve = Reserve(tmp_path, 0, 0)
    assert reserve.has_room()
    reserve.fill()


def test_a_ring_is_not_opened_through_a_link(tmp_path: Path) -> None:
    ring.create(tmp_path / "real.ring", capacity=1 << 15)
    (tmp_path / "link.ring").symlink_to(tmp_path / "real.ring")
    RingFile(tmp_path / "real.ring").close()
    with pytest.raises(OSError, match=r"link\.ring"):
        RingFile(tmp_path / "link.ring")


def test_one_reads_the_rings_of_an_instance_at_a_time(tmp_path: Path) -> None:
    first, second = readers_lock(tmp_path, 0), readers_lock(tmp_path, 0)
    assert [first.take(), second.take(), first.take()] == [True, False, True]
    first.release()
    assert second.take()
