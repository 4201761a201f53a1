"""Real processes that pause at random at their system calls: what any two of them do meets in every order.

Producers (some with ids of their own choice, again and again), workers that settle in every way, newborns, rescuers,
recoverers, people who replay, and one who removes empty buckets the moment he sees them. At the end nothing
acknowledged is lost, and nothing was taken from the living. Alone: `python -m tests.faults.interleavings`.
"""

from __future__ import annotations

import os
import random
import signal
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .actor_ledger import ActorLedger, Finding, examine
from .diskmodel import somewhere
from .disks import die_with_parent
from .powercuts import connect_and_open
from .report import Report, number, print_and_exit, seed
from .traffic import Actor, note_death, settle_orphan

ROLES = ("any", "any", "newborn", "rescuer", "sweeper")
LIFE = 0.4  # seconds of a newborn, about: it is killed and another is born
PAUSE = 0.002  # seconds at most


class Slow(Actor):
    """An actor that stops before some of its calls, long enough for the others to do many."""

    def pausing(self, chance: float) -> None:
        """From now on."""
        rng = random.Random(self._rng.random())

        def hook(name: str, args: tuple[Any, ...], kwargs: dict[str, Any], real: Callable[..., Any]) -> Any:
            if rng.random() < chance:
                time.sleep(rng.random() * PAUSE)
            return real(*args, **kwargs)

        self._seam.arm(hook)

    def _in_vain(self) -> None:
        """Needs the seam for itself: left to the power cuts."""
        self._chosen()


def live(root: Path, ledger: Path, name: str, role: str, number_: int) -> None:
    """Until it is killed."""
    try:
        die_with_parent()
        actor = Slow(root, ledger, name, number_, "process")
        actor.pausing(0.15)
        while True:
            if role == "rescuer":
                actor._keep_house()
            elif role == "sweeper":
                _sweep(actor)
            else:
                actor.step()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


def _sweep(actor: Actor) -> None:
    """Empty buckets, at once: no spool does that so early, but all must bear it."""
    disk = actor.broker._spool._disk
    assert disk is not None
    for queue in ("jobs", "plain", "letters"):
        for state in ("ready", "delayed"):
            for bucket in disk.listdir(f"{queue}/{state}"):
                disk.rmdir(f"{queue}/{state}/{bucket}")
    actor.step()


class Crowd:
    """Processes on one root."""

    def __init__(self, place: Path, chance: random.Random) -> None:
        self._root = place / "spool"
        self._ledgers = place / "ledgers"
        self._ledgers.mkdir()
        self._chance = chance
        self._alive: list[tuple[int, str, Path]] = []
        self._born = 0
        self.killed = 0
        self.broken: list[str] = []

    def run(self, until: float) -> None:
        """Until then (monotonic seconds); newborns come and go."""
        for role in ROLES:  # they open a root that is not there yet, all at once
            self._spawn(role)
        while time.monotonic() < until and not self.broken:
            time.sleep(LIFE * self._chance.random())
            at = next(at for at, (_, role, _) in enumerate(self._alive) if role == "newborn")
            self._kill(at)
            self._spawn("newborn")
        while self._alive:
            self._kill(0)

    def _spawn(self, role: str) -> None:
        self._born += 1
        name, number_ = f"{role}{self._born}", self._chance.randrange(2**31)
        child = os.fork()
        if child == 0:
            live(self._root, self._ledgers / name, name, role, number_)
        self._alive.append((child, role, self._ledgers / name))

    def _kill(self, at: int) -> None:
        pid, role, ledger = self._alive.pop(at)
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        note_death(ledger)
        self.killed += 1
        if not os.WIFSIGNALED(status):
            self.broken.append(f"a {role} ended by itself")

    def look(self, ledger: ActorLedger) -> Finding:
        """What is there when all are dead and the next one has come."""
        ledger.read(self._ledgers)
        broker = connect_and_open(self._root, "process")
        for _ in range(3):
            broker.maintain()
            for orphan in broker.rescue():
                settle_orphan(broker, orphan)
        finding = examine(broker, set(ledger.must()), ledger, ledger.said())
        finding.broken += [f"left in tmp: {path.name}" for path in self._root.glob("*/tmp/*")]
        broker.close()
        return finding


def run(budget_seconds: float) -> Report:
    """Rounds of some seconds, each on a fresh root, so that a finding is near its cause."""
    report = Report("interleavings", seed=seed())
    chance = random.Random(report.seed)
    end = time.monotonic() + budget_seconds
    tried = {"rounds": 0, "processes killed": 0, "jobs begun": 0, "acknowledged jobs that had to be there": 0}
    while time.monotonic() < end and not report.violations:
        ledger = ActorLedger()
        with somewhere() as place:
            crowd = Crowd(place, chance)
            crowd.run(min(end, time.monotonic() + 15))
            finding = crowd.look(ledger)
        tried["rounds"] += 1
        tried["processes killed"] += crowd.killed
        tried["jobs begun"] += len(ledger.begun)
        tried["acknowledged jobs that had to be there"] += len(ledger.must())
        report.violations += crowd.broken + finding.broken
    report.tried = dict(tried)
    return report


if __name__ == "__main__":
    print_and_exit(run(60 * number("BUDGET", 2)))
