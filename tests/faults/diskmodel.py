"""Every state in which a power cut may leave the disk, after every call of short lives of a spool: recovered by the
real spool and compared with what was promised. And the same with each fsync left out in turn, which must break it.

Alone: `python -m tests.faults.diskmodel`.
"""

from __future__ import annotations

import math
import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from framework.engine.port import JobView
from framework.engine.spool.engine import SpoolEngine
from framework.model.errors import EngineError
from tests.spool.world import body, broker, claim, settle_orphan

from .disk_life import QUEUES, Life, Promise
from .disk_states import MOST_STATES, State
from .disk_traces import TRACES
from .report import Report, number, print_and_exit, seed

PLACES = ("ready", "delayed", "in_flight", "dead", "cancelled")


@contextmanager
def somewhere() -> Iterator[Path]:
    """An empty directory, in memory where that can be had."""
    memory = Path("/dev/shm")
    place = Path(tempfile.mkdtemp(prefix="disk-model-", dir=memory if memory.is_dir() else None))
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def record(name: str, base: Path) -> Life:
    """Lives one trace in an empty directory."""
    life = Life(base)
    TRACES[name](life)
    life.seam.disarm()
    life.mine.close()
    return life


def violations(
    life: Life,
    chance: random.Random,
    *,
    without: str = "",
    most: int = 10**9,
    combinations: int = MOST_STATES,
    states: Counter[str] | None = None,
    until: float = math.inf,
) -> list[str]:
    """What is broken in any state after any call of a life, at most `most` of it.

    Args:
        without: a site whose syncs do nothing.
        combinations: of what was not synced, for each moment; 1: only what was synced is there.
        states: counts those that were looked at, under `states`; and under `unfinished` that there was no time for all.
        until: time.monotonic() at which to stop. Then the moments come in an order of chance.
    """
    found: list[str] = []
    seen: set[object] = set()
    looks: dict[int, Look] = {}  # of what is on the disk: what was promised does not change what is found there
    moments = _moments(life) if combinations <= 2 else list(range(_first(life), life.recorder.moment + 1))
    if until < math.inf:
        chance.shuffle(moments)
    for moment in moments:
        active = [promise for promise in life.promises if promise.holds_at(moment)]
        for state in life.recorder.states(moment, without=without, chance=chance, most=combinations):
            disk = hash(state.key())
            key = hash((disk, tuple((p.what, p.job_id) for p in active)))
            if key in seen:
                continue
            seen.add(key)
            if disk not in looks:
                looks[disk] = _look(state, life.ours)
            broken = looks[disk].broken + [line for promise in active for line in looks[disk].broken_promise(promise)]
            found += [f"before call {moment}, data {state.variant}: {line}" for line in broken]
            if len(found) >= most:
                return found
            if time.monotonic() > until:
                return found + _stopped(states, len(seen))
    if states is not None:
        states["states"] += len(seen)
    return found


def _first(life: Life) -> int:
    return min(promise.since for promise in life.promises)


def _moments(life: Life) -> list[int]:
    """Return those at which the disk, or what is promised, is not as before: calls that only look change neither."""
    changed = {item.moment + 1 for item in (*life.recorder.changes, *life.recorder.syncs)}
    changed |= {moment + 1 for moment, _ in life.recorder.writes}
    changed |= {moment for promise in life.promises for moment in (promise.since, promise.until) if moment is not None}
    return sorted(moment for moment in changed if _first(life) <= moment <= life.recorder.moment)


def _stopped(states: Counter[str] | None, seen: int) -> list[str]:
    if states is not None:
        states["states"] += seen
        states["unfinished"] += 1
    return []


@dataclass
class Look:
    """What is there when a state of the disk has been recovered.

    Attributes:
        broken: what is wrong whatever was promised.
        there, letters, cancelled, saved, pauses: how many there are of each id; ids; ids; checkpoints; by whom.
    """

    broken: list[str]
    opened: bool = True
    there: Counter[str] = field(default_factory=Counter)
    letters: set[str] = field(default_factory=set)
    cancelled: set[str] = field(default_factory=set)
    saved: dict[str, int] = field(default_factory=dict)
    pauses: dict[str, str] = field(default_factory=dict)

    def broken_promise(self, promise: Promise) -> list[str]:
        """Return one line if it is broken."""
        kept = {
            "there": self.there[promise.job_id] > 0,
            "absent": self.there[promise.job_id] == 0,
            "letter": promise.job_id in self.letters,
            "home": promise.job_id not in self.letters,
            "cancelled": promise.job_id in self.cancelled,
            "paused by ada": self.pauses.get(promise.job_id) == "ada",
            "runs": promise.job_id not in self.pauses,
            **{f"saved {number}": self.saved.get(promise.job_id, 0) >= number for number in (1, 2, 3)},
        }[promise.what]
        return [f"{promise.job_id} was promised to be: {promise.what}"] if self.opened and not kept else []


def _look(state: State, ours: set[str]) -> Look:
    with somewhere() as base:
        state.build(base)
        try:
            fresh = broker(base / "var" / "spool", *QUEUES, durability="process")
        except EngineError as error:
            return Look([f"cannot be opened: {error}"], opened=False)
        try:
            for _ in range(2):
                fresh.maintain()
                for orphan in fresh.rescue():
                    settle_orphan(fresh, orphan)
            handled = fresh.ticks("jobs", ["hourly"])[1].get("hourly")
            return _found(fresh, ours, handled.last if handled else 0.0)
        finally:
            fresh.close()


def _found(fresh: SpoolEngine, ours: set[str], handled: float) -> Look:
    views = [view for queue in QUEUES for place in PLACES for view in fresh.browse(queue.name, place)]  # type: ignore[arg-type]
    there = Counter(view.job.id for view in views)
    letters = {view.job.id for view in views if view.queue == "letters" or view.state == "dead"}
    broken = [f"{view.job.id} is torn" for view in views if view.job.payload != body(view.job.id)]
    broken += [f"{job_id} is there {count} times" for job_id, count in there.items() if count > 1]
    broken += [f"{job_id} was never enqueued" for job_id in there.keys() - ours]
    broken += [f"letter {v.job.id} says not why" for v in views if v.job.id in letters and not _says_why(v)]
    ticks = [float(job_id.partition("-")[2]) for job_id in there if job_id.startswith("tick-")]
    broken += [f"tick {tick} has a job and comes again" for tick in ticks if tick > handled]
    paused = {queue.name: fresh.paused(queue.name) for queue in QUEUES}
    for queue in QUEUES:
        broken += [
            f"{x.job.id} was handed out torn" for x in claim(fresh, queue.name) if x.job.payload != body(x.job.id)
        ]
    broken += [f"{fresh.stats(queue.name).bad} bad files" for queue in QUEUES if fresh.stats(queue.name).bad]
    return Look(
        broken,
        there=there,
        letters=letters,
        cancelled={view.job.id for view in views if view.state == "cancelled"},
        saved={view.job.id: int(view.job.extras.saved or 0) for view in views},
        pauses={name: pause.by for name, pause in paused.items() if pause is not None and pause.paused},
    )


def _says_why(view: JobView) -> bool:
    """Whether a dead letter has the record of its death; one of a handler's failure may stand behind it."""
    return any(failure.message == "why" or failure.reason == "expired" for failure in view.job.history)


def _broken_without(site: str, lives: dict[str, Life], chance: random.Random) -> str:
    """What the first trace that breaks loses without the syncs of a site; empty = nothing. Likely states first."""
    for combinations in (1, 2, MOST_STATES):
        for name, life in lives.items():
            if any(sync.site == site for sync in life.recorder.syncs):
                found = violations(life, chance, without=site, most=1, combinations=combinations)
                if found:
                    return f"{name}: {found[0]}"
    return ""


def run(budget_seconds: float) -> Report:
    """Half of the time for the traces with all syncs, the rest for traces without one: what fits, in a seed's order."""
    report = Report("diskmodel", seed=seed())
    end = time.monotonic() + budget_seconds
    chance = random.Random(report.seed)
    states: Counter[str] = Counter()
    lives: dict[str, Life] = {}
    for name in chance.sample(sorted(TRACES), len(TRACES)):
        with somewhere() as base:
            lives[name] = record(name, base)
    for left, (name, life) in zip(range(len(lives), 0, -1), lives.items(), strict=True):
        now = time.monotonic()
        until = now + max(1.0, (end - budget_seconds / 2 - now) / left)
        broken = violations(life, chance, most=5, states=states, until=until)
        report.violations += [f"{name}: {line}" for line in broken]
    report.tried = {"traces": len(lives), "states of the disk": states["states"]}
    sites = sorted({sync.site for life in lives.values() for sync in life.recorder.syncs})
    tried = 0
    for site in chance.sample(sites, len(sites)):
        if tried and time.monotonic() > end:
            break
        tried += 1
        loss = _broken_without(site, lives, chance)
        report.tried[f"without the sync of {site}"] = loss[:140] or "NOTHING BREAKS"
        report.expect(loss, f"the sync of {site} can be left out and nothing breaks")
    whole = len(lives) - states["unfinished"]
    if whole < len(lives) or tried < len(sites):
        report.part = f"all states of {whole} of {len(lives)} traces, {tried} of {len(sites)} syncs"
    return report


if __name__ == "__main__":
    print_and_exit(run(60 * number("BUDGET", 60)))
