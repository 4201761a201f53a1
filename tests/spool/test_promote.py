"""Many jobs due at one moment: each costs the same, and what is ready beside them does not wait for them."""

from __future__ import annotations

import errno
import math
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from framework.engine.spool.claim import promote as promote_module
from framework.engine.spool.engine import SpoolEngine
from framework.model.errors import EngineUnavailable
from tests.support.settling import ack

from .seam import Seam, before, fail_calls
from .world import broker, claim, ids, job

MANY = 300


class Counter:
    """Counts what a process asks of the disk below delayed/."""

    def __init__(self) -> None:
        self.names = 0
        self.renames = 0
        self.missed = 0

    def __call__(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], real: Any) -> Any:
        if name == "rename" and "/delayed/" in str(args[0]):
            self.renames += 1
            try:
                return real(*args, **kwargs)
            except FileNotFoundError:
                self.missed += 1
                raise
        found = real(*args, **kwargs)
        if name == "listdir" and "/delayed/" in os.readlink(f"/proc/self/fd/{args[0]}"):
            self.names += len(found)
        return found


def _later(spool: SpoolEngine, seconds: float = 4000.0) -> None:
    """So much time passes for this process."""
    clock = spool._spool._clock
    assert clock is not None
    clock.wall = lambda: time.time() + seconds


def _due(spool: SpoolEngine, count: int = MANY) -> None:
    """All at one moment, which has come."""
    moment = time.time() + 3600
    spool.enqueue([replace(job(f"n{n}"), not_before=moment) for n in range(count)])
    _later(spool)


def test_claims_of_what_is_due_cost_the_same_for_each_job(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Verified: where every claim lists the minute again, it reads some 5,000 names."""
    monkeypatch.setattr(promote_module, "LONG", math.inf)  # however slow this machine is
    monkeypatch.setattr(promote_module, "LEAST_PAUSE", 600.0)
    _due(mine := broker(root, calls=(seam := Seam())))
    seam.arm(counter := Counter())
    found: list[str] = []
    while leases := claim(mine, limit=16):
        found += ids(leases)
        ack(mine, leases)
    seam.disarm()
    assert found == [f"n{n}" for n in range(MANY)]
    assert counter.renames - counter.missed == MANY
    assert counter.missed <= 1  # its bucket was not there yet
    assert counter.names <= 2 * MANY  # once, and again when nothing was left of what the first look had found
    mine.close()


def test_a_claim_moves_no_more_than_it_can_take(root: Path) -> None:
    """What is ready beside them does not wait for thousands of renames. Verified: with 1,024 a claim it does."""
    _due(mine := broker(root, calls=(seam := Seam())))
    mine.enqueue([job("urgent")])
    seam.arm(counter := Counter())
    claim(mine, limit=10)
    assert counter.renames <= 10
    seam.disarm()
    mine.close()


def test_what_is_ready_does_not_wait_for_a_long_look(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every look takes long here: it waits until nothing else is to be claimed."""
    mine = broker(root, calls=(seam := Seam()))
    mine.enqueue([job("later", delay=3600), job("first")])
    promote = mine._spool.parts("jobs").promote
    promote.soon(1, patient=True)
    monkeypatch.setattr(promote_module, "LONG", -1.0)
    _later(mine)
    promote._looked_at, promote._waiting = time.monotonic() - 5, []  # it had not found it
    seam.arm(counter := Counter())
    assert ids(claim(mine, limit=5)) == ["first"]
    assert counter.names == 0
    assert ids(claim(mine, limit=5)) == ["later"]
    seam.disarm()
    mine.close()


def test_what_comes_during_a_long_look_does_not_wait_for_its_end(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A look at 100,000 names takes a quarter of a second."""
    monkeypatch.setattr(promote_module, "STEP", 100)
    mine, other = broker(root, calls=(seam := Seam())), broker(root)
    _due(mine)
    came: list[Any] = []

    def another_enqueues(name: str, args: tuple[Any, ...], kwargs: dict[str, Any], real: Any) -> Any:
        if name == "listdir" and "/delayed/" in os.readlink(f"/proc/self/fd/{args[0]}") and not came:
            came.append(other.enqueue([job("urgent")]))
        return counter(name, args, kwargs, real)

    counter = Counter()
    seam.arm(another_enqueues)
    assert ids(claim(mine, limit=5)) == ["urgent"]
    assert (counter.names, counter.renames) == (MANY, 0)
    assert ids(claim(mine, limit=5)) == [f"n{n}" for n in range(5)]
    assert counter.names == MANY  # the same look has gone on
    seam.disarm()
    mine.close()
    other.close()


def test_a_look_parses_only_the_names_that_are_new(root: Path) -> None:
    mine, other = broker(root), broker(root)
    _due(mine, 20)
    promote = mine._spool.parts("jobs").promote
    claim(mine, limit=5)
    first = {id(waiting) for line in promote._lines for waiting in line.waiting}
    (due, _, _) = promote._lines[1].waiting[0]
    other.enqueue([replace(job("new"), not_before=due / 1e6)])
    promote._looked_at = -math.inf
    claim(mine, limit=5)
    again = [waiting for line in promote._lines for waiting in line.waiting]
    assert len(again) == 16
    assert sum(id(waiting) not in first for waiting in again) == 1
    mine.close()
    other.close()


def test_maintenance_moves_them_in_steps(root: Path) -> None:
    """A rescue must not wait for 100,000 renames. Verified: without a step it moves all in one call."""
    mine = broker(root)
    _due(mine, 20)
    promote = mine._spool.parts("jobs").promote
    for left in range(19, 15, -1):
        assert not promote.now(until=0.0)
        assert mine.stats("jobs").delayed == left
    assert promote.now()
    assert mine.stats("jobs").delayed == 0
    mine.close()


def test_what_others_have_moved_is_passed_over(root: Path) -> None:
    """All processes move the same jobs in the same order. Verified: one by one it loses 300 renames."""
    mine, other = broker(root, calls=(seam := Seam())), broker(root)
    _due(mine)
    while not mine._spool.parts("jobs").promote._go_on():
        pass
    _later(other)
    while other.stats("jobs").delayed:
        other.maintain()
    seam.arm(counter := Counter())
    mine._spool.parts("jobs").promote._move(MANY, math.inf)
    seam.disarm()
    assert 2 <= counter.missed <= 4
    assert len(claim(mine, limit=MANY)) == MANY
    mine.close()
    other.close()


def test_a_disk_where_nothing_can_be_moved_lets_what_is_ready_go(root: Path) -> None:
    """As when it is full: the new directory finds no room, and the jobs that run make some.

    Verified: where that error ends the claim, nothing runs.
    """
    mine = broker(root, calls=(seam := Seam()))
    _due(mine, 2)
    mine.enqueue([job("a")])
    seam.arm(fail_calls(errno.ENOSPC, "rename", when=lambda args: "/delayed/" in str(args[0])))
    ack(mine, claim(mine))
    with pytest.raises(EngineUnavailable, match="No space left"):
        claim(mine)
    seam.disarm()
    assert ids(claim(mine)) == ["n0", "n1"]
    mine.close()


def test_minutes_that_are_over_and_empty_go(root: Path) -> None:
    """One that is not over stays, and one with something in it: a producer's rename would fail, a file would be lost.

    Verified: where they stay, a queue with delays gathers 1,440 a day.
    """
    mine = broker(root)
    delayed = root / "jobs" / "delayed"
    for minute in ("00000000001", "00000000002"):
        (delayed / minute).mkdir()
    (delayed / "00000000002" / "notes.txt").touch()
    mine.enqueue([job("a", delay=3600)])
    (minute,) = {path.name for path in delayed.iterdir()} - {"00000000001", "00000000002"}
    mine.maintain()
    assert {path.name for path in delayed.iterdir()} == {"00000000002", minute}
    _later(mine, 3600.0 + 1)  # within the minute, or just after it
    mine.maintain()
    assert mine.stats("jobs").ready == 1
    mine.maintain()
    assert {path.name for path in delayed.iterdir()} == {"00000000002", minute}
    _later(mine, 3600.0 + 180)
    mine.maintain()
    assert {path.name for path in delayed.iterdir()} == {"00000000002"}
    mine.close()


def test_a_job_that_comes_to_a_minute_that_goes_finds_another(root: Path) -> None:
    mine, sweeper = broker(root, calls=(seam := Seam())), broker(root)
    seam.arm(before("rename", sweeper.maintain, when=lambda args: "/delayed/" in str(args[1])))
    mine.enqueue([job("a", delay=-300.0), job("b", delay=3600)])
    seam.disarm()
    assert ids(claim(mine)) == ["a"]
    mine.close()
    sweeper.close()
