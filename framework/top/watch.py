"""A look at a store: its queues with their rates, what runs, and who reports. It is called in one thread."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from framework.admin import jobs, processes, queues
from framework.admin.processes import Process, Run, Tree, silence
from framework.admin.queues import QueueView
from framework.admin.store import Store
from framework.engine.port import JobView, QueueStats
from framework.model.errors import EngineError, WorkerError

WINDOW = 15.0  # seconds over which a rate is measured
SETTLED = 4.0  # seconds after which a claimed job must be on a board, if it runs here: their copies are 2 s old
MOST_CLAIMED = 200  # claimed jobs of a queue that are looked at
ID_BYTES = 64  # of a job's id, which a board keeps


Target = tuple[str, str, bytes | None]  # a queue where a job was, its id, its uid where that is known


class Gone(WorkerError):
    """A job is not in the store any more."""


@dataclass(frozen=True, slots=True)
class Overview:
    """A look at a store.

    Attributes:
        at: when, in seconds since the epoch.
        rates: by queue, attempts that end in a second in the queue's own processes on this machine. A queue of which
            this is not known is not there.
        silent: no running service reports. seen: when the last one did; None: it is not known.
        problems: what could not be read, one line each. notes: what else a person should know of the store.
    """

    at: float
    queues: Sequence[QueueView]
    trees: Sequence[Tree]
    rates: Mapping[str, float]
    silent: bool
    seen: float | None
    problems: Sequence[str]
    notes: Sequence[str]

    @property
    def living(self) -> list[Tree]:
        """Return the trees that are not known to be dead."""
        return [tree for tree in self.trees if tree.alive is not False]

    @property
    def dead_letters(self) -> int:
        """Return how many dead letters there are, as far as it is known."""
        return sum(one.stats.jobs if one.dead_letters else one.stats.dead or 0 for one in self.queues)


@dataclass(frozen=True, slots=True)
class Running:
    """A job that runs, or that is claimed by a process of which no board here tells.

    Attributes:
        job_id: whole, or the first 64 bytes of it.
        worker: the slot, with the supervisor's pid where several live here; empty: no board here tells.
        since: when it started, or was claimed, in seconds since the epoch.
        run: the row of the board; None: there is none.
    """

    queue: str
    job_id: str
    worker: str
    since: float
    run: Run | None = None


class Watch:
    """A watcher, who remembers from look to look how many attempts have ended in each process."""

    def __init__(self) -> None:
        self._ended: dict[tuple[int, str], deque[tuple[int, float, int]]] = {}

    def overview(self, store: Store, root: Path | None) -> Overview:
        """Look at a store, and at the boards in this directory of its engine.

        Raises EngineError: no queue can be read, so what was seen before tells more.
        """
        found = queues.views(store, empty=True, newer=False)
        if len(store.failed) > len(store.refused) and all(one.stats == QueueStats() for one in found):
            raise store.failed[-1]
        handlers = None if store.declared is None else store.declared.handlers
        try:
            trees, problems = processes.trees(root, handlers)
        except EngineError as error:
            trees, problems = [], [str(error)]
        failed = list(dict.fromkeys([*map(str, store.failed), *problems]))
        return Overview(time.time(), found, trees, self._rates(trees), *silence(found, trees), failed, store.notes)

    def _rates(self, trees: Sequence[Tree]) -> dict[str, float]:
        rates: dict[str, float] = {}
        slots = [(tree, one) for tree in trees if tree.alive is not False for one in tree.processes if "/" in one.slot]
        self._ended = {key: kept for key, kept in self._ended.items() if key in {_key(*slot) for slot in slots}}
        for tree, one in slots:
            kept = self._ended.setdefault(_key(tree, one), deque())
            if kept and kept[-1][0] != one.pid:  # another process, which counts from 0
                kept.clear()
            if not kept or kept[-1][1] != tree.reported:
                kept.append((one.pid, tree.reported, one.ended))
            while len(kept) > 2 and kept[-1][1] - kept[0][1] > WINDOW:
                kept.popleft()
            (_, first, before), (_, last, ended) = kept[0], kept[-1]
            if last > first and time.time() - last < WINDOW:
                queue = one.slot.rpartition("/")[0]
                rates[queue] = rates.get(queue, 0.0) + (ended - before) / (last - first)
        return rates


def _key(tree: Tree, process: Process) -> tuple[int, str]:
    return tree.supervisor, process.slot


def running(store: Store, seen: Overview) -> list[Running]:
    """Return what runs, the oldest first, with what is claimed by a process of which no board here tells."""
    found = [
        Running(run.queue, run.job_id, _worker(seen, tree, one), run.since, run)
        for tree in seen.living
        for one in tree.processes
        for run in one.runs
    ]
    known, counts = {(one.queue, one.job_id) for one in found}, Counter(one.queue for one in found)
    for queue in seen.queues:
        if queue.error or queue.stats.in_flight == counts[queue.name]:
            continue
        claimed = islice(store.each(store.engine.browse(queue.name, "in_flight")), MOST_CLAIMED)
        found += [
            Running(view.queue, view.job.id, "", view.since)
            for view in claimed
            if (view.queue, shortened(view.job.id)) not in known and seen.at - view.since > SETTLED
        ]
    return sorted(found, key=lambda one: one.since)


def _worker(seen: Overview, tree: Tree, process: Process) -> str:
    return process.slot if len(seen.living) < 2 else f"{process.slot} of {tree.supervisor}"


def shortened(job_id: str) -> str:
    """Return what a board keeps of a job's id."""
    return job_id.encode("utf-8", "replace")[:ID_BYTES].decode("utf-8", "replace")


def find(store: Store, queue: str, job_id: str, uid: bytes | None = None) -> JobView:
    """Return a job that a screen has shown, wherever it is by now.

    Args:
        queue: where it was, or its home.
        job_id: whole, or what a board keeps of it.
        uid: of this job and no later one of its id; None: it is not known.

    Raises Gone.
    """
    found = jobs.find(store, job_id, queue if uid is None else "")
    if not found and uid is None and len(job_id.encode("utf-8", "replace")) >= ID_BYTES:
        claimed = store.each(store.engine.browse(queue, "in_flight"))
        found = [view for view in claimed if shortened(view.job.id) == job_id]
    for view in found:
        if uid in (None, view.job.uid):
            return view
    if store.failed:
        raise store.failed[0]
    raise Gone(f"job {job_id[:100]} is no longer there: it has ended")
