"""Real power cuts under live producers and workers, on ext4, xfs and btrfs; and on two disks that must lose.

CUTS=number for each file system (10,000 is the long run), else what fits into the budget. ONLY_FS=ext4,xfs.
Alone: `python -m tests.faults.powercuts`.
"""

from __future__ import annotations

import os
import pickle
import random
import shutil
import signal
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from framework.engine.spool.engine import SpoolEngine, connect
from framework.model.errors import EngineError
from framework.model.job import Job
from tests.spool.world import settle_orphan

from .actor_ledger import ActorLedger, Finding, Said, claim_all, examine, try_ids
from .disks import KINDS, Disk, Kind, alone, die_with_parent, missing
from .report import Report, number, print_and_exit, seed
from .traffic import CHOSEN, QUEUES, Actor, body, note_death

ACTORS = 3
KILL_EVERY = 15  # cuts: one actor dies and another takes its place
GO_ON_EVERY = 150  # cuts: the live disk is replaced by what a cut left of it
PACE = 0.02  # seconds between two cuts, at most


@dataclass
class Series:
    """Cuts of one file system."""

    cuts: int = 0
    tried: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)


class Trial:
    """One file system under traffic, cut again and again."""

    def __init__(self, kind: Kind, place: Path, chance: random.Random, durability: str) -> None:
        self._disk = Disk(kind, place)
        self._ledgers = place / "ledgers"
        self._ledgers.mkdir()
        self._chance = chance
        self._durability = durability
        self._actors: list[tuple[int, Path]] = []
        self._born = 0
        self._ledger = ActorLedger()
        self.series = Series()

    def run(self, cuts: int, until: float) -> None:
        """So many cuts, or as many as there is time for (monotonic seconds)."""
        connect_and_open(self._disk.live / "spool", "power").close()
        for _ in range(ACTORS):
            self._spawn()
        while self.series.cuts < cuts and time.monotonic() < until and len(self.series.broken) < 50:
            time.sleep(self._chance.random() * PACE)
            self._cut()
            if self.series.cuts % KILL_EVERY == 0:
                self._kill(*self._actors.pop(0))
                self._spawn()
            if self.series.cuts % GO_ON_EVERY == 0:
                self._go_on()
        self.end()

    def end(self) -> None:
        """All actors."""
        while self._actors:
            self._kill(*self._actors.pop())

    def _spawn(self) -> None:
        self._born += 1
        name, number_ = f"a{self._born}", self._chance.randrange(2**31)
        child = os.fork()
        if child == 0:
            self._live(name, number_)
        self._actors.append((child, self._ledgers / name))

    def _live(self, name: str, number_: int) -> None:
        try:
            die_with_parent()
            ledger = self._ledgers / name
            actor = Actor(self._disk.live / "spool", ledger, name, number_, self._durability)
            while True:
                actor.step()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)

    def _kill(self, pid: int, ledger: Path) -> None:
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        note_death(ledger)
        if not os.WIFSIGNALED(status):
            self.series.broken.append(f"an actor ended by itself, status {status}")
        self.series.tried["actors killed"] += 1

    def _cut(self) -> None:
        ledger = self._ledger
        ledger.read(self._ledgers)
        before, said = ledger.must(), ledger.said()
        image = self._disk.cut()
        ledger.read(self._ledgers)
        after = ledger.must()
        try:
            finding = self._look(image, {i for i, over in before.items() if after.get(i) == over}, said)
        except EngineError as error:
            finding = Finding(broken=[f"the whole spool is gone: {error}"])
        self._disk.discard(image)
        ledger.forget_done()
        self._count(finding)

    def _count(self, finding: Finding) -> None:
        self.series.cuts += 1
        self.series.broken += [f"cut {self.series.cuts}: {line}" for line in finding.broken]
        self.series.tried["jobs looked at"] += finding.jobs
        self.series.tried["letters looked at"] += finding.letters
        self.series.tried["there again"] += finding.again

    def _look(self, image: Path, must: set[str], said: Said) -> Finding:
        root = self._disk.restart(image) / "spool"
        broker = connect_and_open(root, "process")
        try:
            for _ in range(2):
                broker.maintain()
                for orphan in broker.rescue():
                    settle_orphan(broker, orphan)
            finding = examine(broker, must, self._ledger, said)
            self.series.tried["acknowledged jobs that had to be there"] += len(must)
            try_ids(broker, finding, [self._again(f"chosen.{n}") for n in self._chance.sample(range(CHOSEN), 3)])
            claim_all(broker, finding)
        finally:
            broker.close()
        return finding

    def _again(self, job_id: str) -> Job:
        return Job(job_id, os.urandom(16), "jobs", body(f"{job_id}#again"), {}, time.time(), chosen_id=True)

    def _go_on(self) -> None:
        """What a cut left is the disk from now on: everybody on it is dead, and what it has lost is lost."""
        self.end()
        self._disk.go_on_with(self._disk.cut())
        self.series.tried["went on with what a cut left"] += 1
        for _ in range(ACTORS):
            self._spawn()


def connect_and_open(root: Path, durability: Any) -> SpoolEngine:
    """A broker on the queues of the traffic."""
    broker = connect(f"spool:{root}", incarnation=f"looker-{os.urandom(4).hex()}", durability=durability)
    broker.open(QUEUES)
    return broker


def series(kind: Kind, cuts: int, until: float, chance: random.Random, durability: str = "power") -> Series:
    """In a process with a mount table of its own, so that nothing stays mounted whatever happens."""
    memory = Path("/dev/shm")
    place = Path(tempfile.mkdtemp(prefix="cuts-", dir=memory if memory.is_dir() else None))
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        _in_child(kind, place, cuts, until, chance, durability, write)
    os.close(write)
    with open(read, "rb") as pipe:
        data = pipe.read()
    os.waitpid(child, 0)
    shutil.rmtree(place, ignore_errors=True)
    found: Series = pickle.loads(data) if data else Series(broken=["the series broke off"])
    return found


def _in_child(
    kind: Kind, place: Path, cuts: int, until: float, chance: random.Random, durability: str, write: int
) -> None:
    found = Series()
    try:
        die_with_parent()
        alone()
        trial = Trial(kind, place, chance, durability)
        found = trial.series
        try:
            trial.run(cuts, until)
        finally:
            trial.end()
    except BaseException as error:
        traceback.print_exc()
        found.broken.append(f"the series itself broke: {error!r}")
    finally:
        with open(write, "wb") as pipe:
            pipe.write(pickle.dumps(found))
        os._exit(0)


def run(budget_seconds: float) -> Report:
    """Every file system, then the controls."""
    report = Report("powercuts", seed=seed())
    chance = random.Random(report.seed)
    cuts = int(number("CUTS", 0)) or 10**9
    only = os.environ.get("ONLY_FS", "ext4,xfs,btrfs").split(",")
    began = time.monotonic()
    for at, name in enumerate(only):
        if why := missing(KINDS[name]):
            report.left_out.append(f"{name}: {why}")
            continue
        share = budget_seconds * 0.9 * (at + 1) / len(only)
        found = series(KINDS[name], cuts, began + (share if cuts == 10**9 else 10**9), chance)
        report.tried[f"{name}: cuts"] = found.cuts
        report.tried.update({f"{name}: {what}": count for what, count in sorted(found.tried.items())})
        report.expect(found.cuts, f"{name}: not a single cut")
        report.violations += [f"{name}: {line}" for line in found.broken]
        print(f"  {name}: {found.cuts} cuts, {len(found.broken)} broken promises", flush=True)
    _controls(report, chance)
    return report


def _controls(report: Report, chance: random.Random) -> None:
    """Disks that must lose: if they keep everything, the cuts prove nothing."""
    for name, kind, durability in (
        ("control, no fsync on ext4", KINDS["ext4"], "process"),
        ("control, ext4 without journal", KINDS["ext4 without journal"], "power"),
    ):
        if why := missing(kind):
            report.left_out.append(f"{name}: {why}")
        else:
            found = series(kind, 60, time.monotonic() + 60, chance, durability)
            lost = sum("is gone" in line for line in found.broken)
            report.tried[f"{name}: jobs lost in {found.cuts} cuts"] = lost
            report.expect(lost, f"{name} has lost nothing")


if __name__ == "__main__":
    print_and_exit(run(60 * number("BUDGET", 5)))
