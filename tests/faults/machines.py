"""Two machines and a database in network namespaces: one is killed or cut off again and again, the other takes over.

    ROUNDS=20 SECONDS=900 python -m tests.faults.machines

Needs root, for the namespaces. A round takes some 25 s, because a machine counts as dead after 15.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import tempfile
import threading
import time
from collections import defaultdict
from contextlib import closing, suppress
from pathlib import Path

import psycopg

from framework.engine.postgres.owner import BEAT, PATIENCE
from framework.model.errors import EnqueueError
from tests.faults import report as reports
from tests.faults.machines_service import Shared, Work
from tests.faults.report import Report
from tests.support import postgres
from tests.support.tree import Tree, trees

NAMES = ("a", "b")
LATE = 6.0  # seconds after the promised time in which the other has begun what was running


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


class Network:
    """A namespace for each machine, and a cable from each to the database."""

    def __init__(self) -> None:
        number = os.getpid() % 250
        self.addresses = {name: f"10.{230 + at}.{number}" for at, name in enumerate(NAMES)}
        self.space = {name: f"wm{number}{name}" for name in NAMES}

    def open(self) -> None:
        for name, space in self.space.items():
            ip("netns", "add", space)
            ip("link", "add", space, "type", "veth", "peer", "name", f"{space}p", "netns", space)
            ip("addr", "add", f"{self.addresses[name]}.1/30", "dev", space)
            ip("-n", space, "addr", "add", f"{self.addresses[name]}.2/30", "dev", f"{space}p")
            ip("link", "set", space, "up")
            for device in ("lo", f"{space}p"):
                ip("-n", space, "link", "set", device, "up")

    def cut(self, name: str) -> None:
        ip("link", "set", self.space[name], "down")

    def heal(self, name: str) -> None:
        ip("link", "set", self.space[name], "up")

    def close(self) -> None:
        for space in self.space.values():
            with suppress(subprocess.CalledProcessError):
                ip("netns", "del", space)


class World:
    """The machines, the load, and what was done to them."""

    def __init__(self, place: Path, report: Report) -> None:
        self.report, self.place = report, place
        self.random = random.Random(report.seed)
        self.network = Network()
        self.network.open()
        listen = ",".join(["127.0.0.1", *(f"{address}.1" for address in self.network.addresses.values())])
        self.server = postgres.Server(listen_addresses=listen)
        with (self.server._data / "pg_hba.conf").open("a") as rules:
            rules.write("host all all 10.0.0.0/8 trust\n")
        self.server.execute("select pg_reload_conf()")
        list(postgres.migrated(self.server))
        self.ledger = place / "ledger"
        self._open = {name: trees(place / name, self._url(name, f"{self.network.addresses[name]}.1")) for name in NAMES}
        for name in NAMES:
            (place / name).mkdir()
            enter = place / f"enter-{name}"
            enter.write_text(f'#!/bin/sh\nexec ip netns exec {self.network.space[name]} "$@"\n')
            enter.chmod(0o755)
        self.machines: dict[str, Tree] = {name: next(found) for name, found in self._open.items()}
        # The load comes from beside the database, by the way that is never cut.
        self._produce = trees(place, self._url("load", "127.0.0.1"))
        self.load = next(self._produce)
        self.stored: list[str] = []
        self._over = threading.Event()
        self._producer = threading.Thread(target=self._enqueue, daemon=True)
        self.takeovers: list[float] = []

    def _url(self, name: str, host: str) -> str:
        return f"postgresql://postgres@{host}:{self.server.port}/postgres?local_dir={self.place}/{name}/spool&timeout=2"

    def start(self, name: str) -> None:
        self.machines[name].start(
            module="tests.faults.machines_service", command=str(self.place / f"enter-{name}"), MACHINE=name,
            LEDGER=str(self.ledger), WORKER_RESTART_BUDGET="1000", WORKER_LOG_LEVEL="info",
        )  # fmt: skip

    def _enqueue(self) -> None:
        number = 0
        while not self._over.wait(0.02):
            number += 1
            with suppress(EnqueueError):
                self.load.enqueue(Shared.jobs, Work(key=f"k{number}"))
                self.stored.append(f"k{number}")

    def lines(self) -> list[list[str]]:
        return [line.split() for line in self.ledger.read_text().splitlines()] if self.ledger.exists() else []

    def round(self, number: int, how: str) -> tuple[str, float, float]:
        """Take one machine away while it runs a long job; return which, from when to when."""
        key = f"long{number}"
        self.load.enqueue(Shared.jobs, Work(key=key, seconds=3.0))
        self.stored.append(key)
        self._wait(lambda: any(line[:2] == ["start", key] for line in self.lines()), 30, f"{key} has not started")
        [victim] = {line[3] for line in self.lines() if line[:2] == ["start", key]}
        time.sleep(0.5)  # it is noted as started by now
        began = time.time()
        if how == "cut":
            self.network.cut(victim)
        else:
            self._kill(victim)
        self._wait(lambda: self._elsewhere(key, victim), PATIENCE + LATE, f"{how}: nobody takes over {key}")
        again = min((float(line[4]) for line in self.lines() if line[:2] == ["start", key] and line[3] != victim),
                    default=began)  # fmt: skip
        self.takeovers.append(again - began)
        self.report.expect(again - began > PATIENCE - 2 * BEAT, f"{how}: {key} was taken after {again - began:.1f} s")
        self._wait(lambda: self._led_by(victim) is False, PATIENCE + LATE, f"{how}: the dead machine leads on")
        if how == "cut":
            self.network.heal(victim)
        else:
            self.start(victim)
        return victim, began, time.time()

    def _kill(self, name: str) -> None:
        tree = self.machines[name]
        assert tree.process is not None
        for pid in (tree.process.pid, *(slot.pid for slot in tree.slots() if slot.pid)):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        tree.process.wait()
        for board in tree.boards():
            board.unlink()

    def _elsewhere(self, key: str, victim: str) -> bool:
        return any(line[:2] == ["end", key] and line[3] != victim for line in self.lines())

    def _led_by(self, name: str) -> bool:
        """Whether one of a machine's processes leads."""
        node = (self.place / name / "spool" / "node").read_text()
        with psycopg.connect(self.server.url) as connection:
            query = "select count(*) from worker.leader l join worker.owner o on o.id = l.owner where o.node like %s"
            return bool(connection.execute(query, [f"%{node}%"]).fetchone()[0])  # type: ignore[index]

    def _wait(self, happened: object, seconds: float, broken: str) -> None:
        end = time.monotonic() + seconds
        while not happened():  # type: ignore[operator]
            if time.monotonic() > end:
                self.report.expect(False, broken)
                return
            time.sleep(0.05)

    def run(self, rounds: int, seconds: float) -> int:
        for name in NAMES:
            self.start(name)
        self._producer.start()
        end, done = time.monotonic() + seconds, []
        while len(done) < rounds and (not done or time.monotonic() < end):
            done.append(self.round(len(done), ("cut", "kill")[len(done) % 2]))
        self._over.set()
        self._producer.join(30)
        self._wait(lambda: self.load_left() == 0, 60, "jobs are left")
        self._compare(done)
        for name in NAMES:
            self.report.expect(self.machines[name].stop() == 0, f"{name} has left with an error")
        return len(done)

    def load_left(self) -> int:
        with psycopg.connect(self.server.url) as connection:
            return sum(connection.execute(f"select count(*) from worker.{table}").fetchone()[0]  # type: ignore
                       for table in ("job", "later", "dead"))  # fmt: skip

    def _compare(self, away: list[tuple[str, float, float]]) -> None:
        """All jobs ran, and none again that had ended on a machine that could tell."""
        ends: dict[str, list[tuple[str, float]]] = defaultdict(list)
        ran: dict[str, int] = defaultdict(int)
        for what, key, _, machine, moment in self.lines():
            if what == "end":
                ends[key].append((machine, float(moment)))
                ran[machine] += 1
        self.report.expect(set(self.stored) <= set(ends), f"{len(set(self.stored) - set(ends))} jobs did not run")
        twice = [key for key, found in ends.items() if len(found) > 1]
        # A machine that is away cannot tell what it has ended, nor what it had a moment before.
        known = [key for key in twice if all(not _away(one, away) for one in ends[key][:1])]
        self.report.expect(not known, f"jobs that had ended ran again: {[(key, ends[key]) for key in known[:3]]}")
        self.report.tried["jobs, by machine"] = f"{len(ends)}, " + ", ".join(f"{n} {c}" for n, c in sorted(ran.items()))
        self.report.tried["ran again, their machine could not tell that they had ended"] = len(twice)
        self.report.tried["seconds until the other had begun"] = ", ".join(f"{took:.1f}" for took in self.takeovers)
        self.report.expect(all(ran[name] for name in NAMES), "one machine did nothing")

    def close(self) -> None:
        self._over.set()
        for name in NAMES:
            with suppress(subprocess.CalledProcessError):
                self.network.heal(name)
        for found in (*self._open.values(), self._produce):
            found.close()  # type: ignore[attr-defined]
        self.server.stop(signal.SIGKILL)
        self.network.close()


def _away(end: tuple[str, float], away: list[tuple[str, float, float]]) -> bool:
    machine, moment = end
    return any(machine == name and began - 1.0 <= moment <= back + 1.0 for name, began, back in away)


def run(budget_seconds: float) -> Report:
    """For `make faults`."""
    rounds, seconds = int(reports.number("ROUNDS", 1000)), reports.number("SECONDS", max(30.0, budget_seconds - 40))
    report = Report("machines", seed=reports.seed())
    with tempfile.TemporaryDirectory() as place, closing(World(Path(place), report)) as world:
        done = world.run(rounds, seconds)
    report.tried["rounds: a machine was cut off, or killed"] = done
    report.part = "" if done >= rounds else f"{done} rounds"
    return report


if __name__ == "__main__":
    reports.print_and_exit(run(900))
