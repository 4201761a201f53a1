"""Breaks a PostgreSQL server, and the connections to it, under load, and checks what workers and producers make of it.

    ROUNDS=1000 SECONDS=3600 python -m tests.faults.postgres_faults

It ends after ROUNDS faults, or after SECONDS. ONLY_FAULTS=hole,cut names some of them.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg

from framework.model.errors import EnqueueError, EnqueueUncertain
from tests.faults import report as reports
from tests.faults.report import Report
from tests.proxy import Proxy
from tests.support import postgres
from tests.support.services.torture import Task, Torture
from tests.support.tree import Tree, trees

RECOVERED = 5.0  # seconds after the server's return in which a new job must have run
NOTICED = 10.0  # seconds in which readiness must tell that the engine fails
FREE = "-c statement_timeout=0 -c default_transaction_read_only=off"


class World:
    """A server behind a proxy, a tree, a producer, and a watch over the tree's probes."""

    def __init__(self, place: Path, report: Report) -> None:
        self.report = report
        self.random = random.Random(report.seed)
        self.server = postgres.Server(max_connections="25")
        list(postgres.migrated(self.server))
        self.proxy = Proxy(self.server.port)
        self.trees = trees(place, f"{self.proxy.url()}?local_dir={place}/spool&timeout=1")
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

    # --- faults -----------------------------------------------------------------------------------------------------

    @contextmanager
    def control(self) -> Iterator[Any]:
        with psycopg.connect(self.server.url, autocommit=True, options=FREE) as connection:
            yield connection

    @contextmanager
    def setting(self, name: str, value: str) -> Iterator[None]:
        """For all sessions, also those that are open."""
        with self.control() as connection:
            connection.execute(f"alter system set {name} = '{value}'")
            connection.execute("select pg_reload_conf()")
        yield
        with self.control() as connection:
            connection.execute(f"alter system reset {name}")
            connection.execute("select pg_reload_conf()")

    @contextmanager
    def killed(self) -> Iterator[None]:
        self.server.stop(signal.SIGKILL)
        yield
        self.server.start()

    @contextmanager
    def restarted(self) -> Iterator[None]:
        self.server.stop(signal.SIGINT)
        yield
        self.server.start()

    @contextmanager
    def refused_connections(self) -> Iterator[None]:
        self.proxy.refuse()
        yield
        self.proxy.heal()

    @contextmanager
    def hole(self) -> Iterator[None]:
        self.proxy.hole()
        yield
        self.proxy.heal()

    @contextmanager
    def cut(self) -> Iterator[None]:
        self.proxy.cut(reset=self.random.random() < 0.5)
        yield

    @contextmanager
    def terminated(self) -> Iterator[None]:
        with self.control() as connection:
            self._terminate(connection)
        yield

    def _terminate(self, connection: Any) -> None:
        connection.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where backend_type = 'client backend' "
            "and pid <> pg_backend_pid()"
        )

    @contextmanager
    def too_many(self) -> Iterator[None]:
        others = []
        self.proxy.refuse()
        with self.control() as connection:
            self._terminate(connection)
            with suppress(psycopg.OperationalError):
                while True:
                    others.append(psycopg.connect(self.server.url))
        self.proxy.heal()
        yield
        for one in others:
            one.close()

    @contextmanager
    def slow(self) -> Iterator[None]:
        self.proxy.delay = 0.1
        yield
        self.proxy.delay = 0.0

    @contextmanager
    def serializable(self) -> Iterator[None]:
        with self.setting("default_transaction_isolation", "serializable"), self.terminated():
            yield

    def faults(self) -> dict[str, tuple[Callable[[], Any], bool]]:
        """By name, what breaks and mends it, and whether no verb works meanwhile."""
        return {
            "killed": (self.killed, True),
            "restarted": (self.restarted, True),
            "refused": (self.refused_connections, True),
            "hole": (self.hole, True),
            "read_only": (lambda: self.setting("default_transaction_read_only", "on"), True),
            "too_many": (self.too_many, True),
            "cut": (self.cut, False),
            "terminated": (self.terminated, False),
            "slow": (self.slow, False),
            "statement_timeout": (lambda: self.setting("statement_timeout", "1ms"), False),
            "serializable": (self.serializable, False),
        }

    # --- a round ----------------------------------------------------------------------------------------------------

    def round(self, name: str, *, late: float) -> None:
        """One fault, and the recovery from it."""
        begin, total = self.faults()[name]
        with begin():
            if total:
                self.report.expect(
                    self._within(NOTICED, lambda: self.probe("readyz") == 503), f"{name}: /readyz says that all is well"
                )
            time.sleep(self.random.uniform(0.0, 1.0))
        back = time.monotonic()
        known = len(self.stored)
        recovered = self._within(late, lambda: self._ran_after(known) and self.probe("readyz") == 200)
        self.slowest[name] = max(self.slowest.get(name, 0.0), time.monotonic() - back)
        self.report.expect(recovered, f"{name}: no job has run {late:g} s after the server's return")

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
        self.proxy.heal()
        self.trees.close()  # type: ignore[attr-defined]
        self.proxy.close()
        self.server.stop(signal.SIGKILL)


def soak(rounds: int, seconds: float, seed: int, *, late: float = RECOVERED, only: str = "") -> Report:
    """Return the report of a run; each fault comes once before any comes again."""
    report = Report("postgres", seed=seed)
    counts: Counter[str] = Counter()
    end = time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as place, closing(World(Path(place), report)) as world:
        world.start()
        names = [name for name in world.faults() if not only or name in only.split(",")]
        left: list[str] = []
        while time.monotonic() < end and counts.total() < rounds:
            left = left or world.random.sample(names, len(names))
            name = left.pop()
            world.round(name, late=late)
            counts[name] += 1
        world.finish()
    report.tried["faults"] = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
    report.part = "" if counts.total() >= rounds else f"{counts.total()} of {rounds} faults"
    return report


def run(budget_seconds: float) -> Report:
    """For `make faults`."""
    seconds = reports.number("SECONDS", max(20.0, budget_seconds - 15))
    return soak(int(reports.number("ROUNDS", 1000)), seconds, reports.seed(), only=os.environ.get("ONLY_FAULTS", ""))


if __name__ == "__main__":
    reports.print_and_exit(run(3600))
