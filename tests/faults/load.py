"""Load on a service whose engine is a PostgreSQL server that a suite breaks, and what must hold of it at the end."""

from __future__ import annotations

import random
import socket
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from framework.model.errors import EnqueueError, EnqueueUncertain
from tests.faults.report import Report
from tests.support.services.torture import Task, Torture
from tests.support.tree import Tree, trees

RECOVERED = 5.0  # seconds after the server's return in which a new job must have run
NOTICED = 10.0  # seconds in which readiness must tell that the engine fails


class Load:
    """A tree, a producer, and a watch over the tree's probes.

    Args:
        url: of the database, as the service has it.
    """

    def __init__(self, place: Path, report: Report, url: str) -> None:
        self.report = report
        self.random = random.Random(report.seed)
        self.trees = trees(place, f"{url}?local_dir={place}/spool&timeout=1")
        self.tree: Tree = next(self.trees)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.health = f"127.0.0.1:{free.getsockname()[1]}"
        self.stored: list[str] = []
        self.maybe: list[str] = []
        self.refused = 0
        self.slowest: dict[str, float] = {}  # seconds of the slowest recovery, by fault
        self._over = threading.Event()
        self._threads = [threading.Thread(target=act, daemon=True) for act in (self._produce, self._watch)]

    def start(self) -> None:
        """Start the tree and the load."""
        assert self.tree.producer is not None, "opened here: the first fault must not meet its first connection"
        self.tree.start("--queue", "many", "--queue", "sync", WORKER_HEALTH=self.health, WORKER_LOG_LEVEL="info")
        for thread in self._threads:
            thread.start()

    def _produce(self) -> None:
        number = 0
        while not self._over.wait(0.005):
            number += 1
            key, queue = f"k{number}", (Torture.many, Torture.sync)[number % 2]
            try:
                self.tree.enqueue(queue, Task(key=key))
            except EnqueueUncertain:
                self.maybe.append(key)
            except EnqueueError:
                self.refused += 1
                self._over.wait(0.02)
            else:
                self.stored.append(key)

    def _watch(self) -> None:
        """Liveness never depends on the server."""
        while not self._over.wait(0.1):
            if (status := self.probe("livez")) != 200:
                self.report.expect(False, f"/livez answers {status}")

    def probe(self, name: str) -> int:
        try:
            with urllib.request.urlopen(f"http://{self.health}/{name}", timeout=10) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0

    def recovery(self, name: str, late: float) -> None:
        """Wait until a job has run that is enqueued from now on."""
        back = time.monotonic()
        known = len(self.stored)
        recovered = self._within(late, lambda: self._ran_after(known) and self.probe("readyz") == 200)
        self.slowest[name] = max(self.slowest.get(name, 0.0), time.monotonic() - back)
        self.report.expect(recovered, f"{name}: no job has run {late:g} s after the server's return")

    def unready(self, name: str) -> None:
        """Wait until readiness tells that the engine fails."""
        noticed = self._within(NOTICED, lambda: self.probe("readyz") == 503)
        self.report.expect(noticed, f"{name}: /readyz says that all is well")

    def _ran_after(self, known: int) -> bool:
        """Whether a job has run that was enqueued after so many others. The last lines tell."""
        new = {f"end {key} 1" for key in self.stored[known:]}
        return not new.isdisjoint(self.tree.ledger()[-400:])

    def _within(self, seconds: float, happened: Callable[[], bool]) -> bool:
        end = time.monotonic() + seconds
        while not happened():
            if time.monotonic() >= end:
                return False
            time.sleep(0.02)
        return True

    def finish(self) -> None:
        """End the load, and compare what was acknowledged with what ran."""
        self._over.set()
        for thread in self._threads:
            thread.join(60)
        queues = ("many", "sync")
        done = self._within(60, lambda: all(self.tree.stats(queue).jobs == 0 for queue in queues))
        self.report.expect(done, f"jobs are left: {[self.tree.stats(queue) for queue in queues]}")
        ends = Counter(line.split()[1] for line in self.tree.ran("end "))
        stored, maybe = set(self.stored), set(self.maybe)
        self.report.expect(stored <= ends.keys(), f"{len(stored - ends.keys())} acknowledged jobs did not run")
        self.report.expect(ends.keys() <= stored | maybe, f"{len(ends.keys() - stored - maybe)} refused jobs have run")
        exits = [event for event in self.tree.events("process_exited") if event["slot"] != "hooks"]
        self.report.expect(not exits, f"{len(exits)} processes have ended: {exits[:2]}")
        self.report.expect(self.tree.stop() == 0, "the tree has left with an error")
        self.report.tried["jobs acknowledged, uncertain, refused"] = f"{len(stored)}, {len(maybe)}, {self.refused}"
        self.report.tried["runs of one job beyond the first"] = sum(ends.values()) - len(ends)
        self.report.tried["slowest recoveries, seconds"] = ", ".join(
            f"{name} {took:.1f}" for name, took in sorted(self.slowest.items())
        )

    def close(self) -> None:
        self._over.set()
        self.trees.close()  # type: ignore[attr-defined]
