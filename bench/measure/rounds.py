"""Enqueue, drain and latency, interleaved: in each round every system has its turn, and the order rotates."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from bench.children.marks import Marks
from bench.samples import Samples, quantile
from bench.sizes import Sizes
from bench.spans import Receiver
from bench.spawn import ROOT, Failed
from bench.systems.base import System, Workers
from bench.systems.ours import WithReceiver
from bench.systems.sqlite import Sqlite

# Way of enqueueing → turns in a round; they divide the sizes.
SLICES = {"single": 4, "concurrent": 2, "coroutines": 2, "bulk": 1}
WARM = 300  # jobs at the start of a drain that do not count: batches find their size, caches fill
RATE = 100.0  # jobs a second
ARRIVAL = 10.0  # seconds that spans may take after their process has left
FAILED = ROOT / "var" / "bench-failed"
PROBLEMS = (Failed, OSError, ValueError, subprocess.SubprocessError)


class Rounds:
    """Measures open systems; one that fails is closed, reported, and left out from then on."""

    def __init__(
        self, systems: Sequence[System], marks: Marks, samples: Samples, sizes: Sizes, receiver: Receiver
    ) -> None:
        self.systems = list(systems)
        self._marks = marks
        self._samples = samples
        self._sizes = sizes
        self._receiver = receiver

    def run(self, progress: Callable[[str], None]) -> None:
        """All rounds."""
        for number in range(self._sizes.rounds):
            progress(f"round {number + 1} of {self._sizes.rounds}: enqueue")
            self._enqueue_all(number)
            for system in [one for one in self._order(number) if not isinstance(one, Sqlite)]:
                progress(f"round {number + 1} of {self._sizes.rounds}: drain, {system.name}")
                self.guarded(system, "drain", self._pair)
                if number < self._sizes.solo_rounds and system in self.systems:
                    self.guarded(system, "drain with one process", self._solo)

    def _order(self, number: int) -> list[System]:
        """Who begins changes from turn to turn."""
        turn = number % max(1, len(self.systems))
        return [*self.systems[turn:], *self.systems[:turn]]

    def _enqueue_all(self, number: int) -> None:
        """In slices, because a disk's speed changes within seconds: what is compared is done side by side."""
        at = 0
        for verb, slices in SLICES.items():
            count = getattr(self._sizes, verb) // slices
            seconds: dict[str, float] = defaultdict(float)
            for turn in range(slices):
                for system in self._order(number + turn):
                    self.guarded(system, f"enqueue, {verb}", partial(_enqueue, verb, at, count, seconds))
                at += count
            for system in self.systems:
                has = {"bulk": system.has_bulk, "coroutines": system.has_coroutines}
                if system.name in seconds and has.get(verb, True):
                    self._samples.add(system.name, verb, count * slices / seconds[system.name])

    def guarded(self, system: System, what: str, measure: Callable[[Any], None]) -> None:
        """Runs one measurement; a failure ends the system, not the run."""
        try:
            measure(system)
        except PROBLEMS as error:
            self._samples.skipped[system.name] = f"{what}: {error}"
            self.systems.remove(system)
            system.close()
            self._keep_logs(system)

    def _keep_logs(self, system: System) -> None:
        """The place is removed after the run, and then nobody could find out why."""
        FAILED.mkdir(parents=True, exist_ok=True)
        for log in system.place.glob("*.log"):
            shutil.copy(log, FAILED / f"{system.place.name}-{log.name}")
        self._samples.note(f"logs of {system.name} are kept in {FAILED.relative_to(ROOT)}")

    def _pair(self, system: System) -> None:
        """Drain with two processes what was enqueued in all ways."""
        self._marks.reset()
        self._drain(system, 2, self._sizes.jobs, "drain2").stop()
        self._check_spans(system, self._sizes.jobs)

    def _solo(self, system: System) -> None:
        """Drain with one process; then, while it idles, jobs at a steady rate."""
        self._marks.reset()
        system.ask("bulk", first=0, count=self._sizes.solo)
        workers = self._drain(system, 1, self._sizes.solo, "drain1")
        try:
            self._latency(system, workers)
        finally:
            workers.stop()

    def _drain(self, system: System, processes: int, jobs: int, metric: str) -> Workers:
        """Runs a full queue empty; gives the workers, still up."""
        if isinstance(system, WithReceiver):
            self._receiver.forget()
        workers = system.start_workers(processes)
        try:
            rate = drain_rate(workers, self._marks, processes, jobs)
            self._samples.add(system.name, metric, rate)
        except BaseException:
            workers.stop()
            raise
        repeats = self._marks.ran() - jobs
        if repeats > 0:
            self._samples.note(f"{system.name} ran {repeats} of {jobs} jobs more than once")
        return workers

    def _latency(self, system: System, workers: Workers) -> None:
        count = self._sizes.paced
        self._marks.forget_jobs()
        system.ask("paced", first=0, count=count, rate=RATE)
        workers.processes[0].wait_until(lambda: len(self._marks.latencies()) >= count, f"{count} paced jobs")
        found = self._marks.latencies()
        self._samples.add(system.name, "p50", quantile(found, 0.50) * 1e3)
        self._samples.add(system.name, "p99", quantile(found, 0.99) * 1e3)

    def _check_spans(self, system: System, jobs: int) -> None:
        """After the tree has left: each job's span must have arrived, once or more often, under one id."""
        if not isinstance(system, WithReceiver):
            return
        wanted = jobs if system.trace == "sampled" else 0
        found = self._receiver.wait_for(wanted, ARRIVAL)
        if not wanted and found["spans"]:
            self._samples.note(f"{system.name}: {found['spans']} spans arrived, and there should be none")
        if wanted:
            self._samples.add(system.name, "missing_spans", wanted - found["distinct"])
            if found["last"]:
                self._samples.add(system.name, "span_lag", (found["last"] - self._marks.times()[-1]) / 1e9)


def _enqueue(verb: str, first: int, count: int, seconds: dict[str, float], system: System) -> None:
    """Adds the time that it took to `seconds`."""
    if verb == "single" or not isinstance(system, Sqlite):
        seconds[system.name] += system.ask(verb, first=first, count=count)["seconds"]


def drain_rate(workers: Workers, marks: Marks, processes: int, jobs: int) -> float:
    """Jobs a second from a common start: handlers wait at a gate until each process has a job. Raises Failed."""
    first = workers.processes[0]
    first.wait_until(lambda: marks.arrived() >= processes, f"{processes} processes had their first job", patience=30)
    marks.open_gate()
    first.wait_until(lambda: marks.ran() >= jobs and len(marks.times()) >= jobs, f"{jobs} jobs ran", patience=120)
    times = marks.times()
    warm = min(WARM, jobs // 2)
    return (len(times) - 1 - warm) / (times[-1] - times[warm]) * 1e9


def load_note() -> str | None:
    """A machine that does something else meanwhile."""
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    return f"load average {load:.1f} on {cores} cores before the run: others are at work" if load > cores / 2 else None
