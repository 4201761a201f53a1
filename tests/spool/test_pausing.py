"""The file that pauses a queue: what a kill, a hand and a damage make of it, and what a claim pays for it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from framework.engine.port import Pause

from .seam import Seam
from .world import broker, claim, cut_at, heal, ids, job


def test_a_kill_anywhere_leaves_a_pause_or_none(root: Path) -> None:
    """Before each change on the disk; an acknowledged pause, or the end of one, holds."""
    for call in ("open", "write", "fsync"):
        cut_at(root / call, call, lambda mine: mine.pause("jobs", "ada"))
        mine = heal(root / call)
        found = mine.paused("jobs")
        assert found is None or found.paused
        assert mine.stats("jobs").paused is (found is not None)
        assert mine.pause("jobs", "bob") is (found is None)
        mine.close()
    for call in ("open", "write", "unlink"):
        mine = broker(root / f"end {call}")
        mine.pause("jobs", "ada")
        mine.close()
        cut_at(root / f"end {call}", call, lambda mine: mine.resume("jobs", "bob"))
        mine = heal(root / f"end {call}")
        found = mine.paused("jobs")
        assert found is not None
        assert found.paused
        assert found.by == "ada"
        assert mine.resume("jobs", "bob")
        mine.close()


DAMAGES: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "garbage": lambda path: path.write_bytes(b"\xff{"),
    "of another type": lambda path: path.write_bytes(b'{"by": "ada", "since": "soon"}'),
    "deep": lambda path: path.write_bytes(b"[" * 4096),
    "a link": lambda path: path.symlink_to("/etc/hostname"),
    "a directory": lambda path: path.mkdir(),
    "a pipe": lambda path: os.mkfifo(path),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_whatever_lies_there_is_a_pause(root: Path, damage: str) -> None:
    mine = broker(root)
    mine.enqueue([job("a")])
    path = root / "jobs" / "ready" / "paused"
    DAMAGES[damage](path)
    assert mine.paused("jobs") == Pause(True, "", 0.0)
    assert mine.stats("jobs").paused
    assert mine.stats("jobs").ready == 1
    assert claim(mine) == []
    assert not mine.pause("jobs", "ada")
    path.rmdir() if damage == "a directory" else mine.resume("jobs", "ada")
    assert ids(claim(mine)) == ["a"]
    mine.close()


@pytest.mark.parametrize("jobs", [0, 3])
@pytest.mark.parametrize("paused", [False, True])
def test_a_claim_never_looks_for_the_file(root: Path, jobs: int, paused: bool) -> None:
    """It sees the file among the buckets, at which it looks in any case."""
    seam, paths = Seam(), []

    def note(name: str, args: tuple[Any, ...], kwargs: dict[str, Any], real: Callable[..., Any]) -> Any:
        paths.append(str(args[0]))
        return real(*args, **kwargs)

    mine = broker(root, calls=seam)
    mine.enqueue([job(f"{n}") for n in range(jobs)])
    if paused:
        mine.pause("jobs", "ada")
    seam.arm(note)
    assert len(claim(mine)) == (0 if paused else jobs)
    seam.disarm()
    assert "jobs/ready" in paths
    assert not any(path.endswith("paused") for path in paths)
    mine.close()
