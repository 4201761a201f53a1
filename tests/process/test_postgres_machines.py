"""Two machines, which share nothing but the database: one is killed or cut off, and the other takes over its jobs."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.proxy import Proxy
from tests.support import postgres
from tests.support.services.torture import Task, Torture
from tests.support.tree import Tree, trees

MODULE = "tests.process.quick_torture"


class Machines:
    """Two trees, each with a local directory and a way to the server of its own, and one record of what ran."""

    def __init__(self, place: Path) -> None:
        postgres.empty(postgres.shared())
        self.proxies = [Proxy(postgres.shared().port) for _ in range(2)]
        self._trees = [
            trees(place / name, f"{proxy.url()}?local_dir={place}/{name}/spool&timeout=1")
            for name, proxy in zip("ab", self.proxies, strict=True)
        ]
        for name in "ab":
            (place / name).mkdir()
        self.a, self.b = (next(found) for found in self._trees)
        self.b.ledger_path = self.a.ledger_path

    def start(self, tree: Tree) -> None:
        # One process that runs one job, and claims others ahead.
        tree.start("--queue", "sync", module=MODULE, LEDGER=str(self.a.ledger_path), WORKER_QUEUES__SYNC__WORKERS="1",
                   WORKER_QUEUES__SYNC__TIMEOUT="60")  # fmt: skip

    def ran(self, key: str) -> list[list[str]]:
        """(start or end, attempt) of each run of a job."""
        return [[line.split()[0], line.split()[2]] for line in self.a.ledger() if f" {key} " in line]

    def close(self) -> None:
        for proxy in self.proxies:
            proxy.heal()
        for found in self._trees:
            found.close()  # type: ignore[attr-defined]
        for proxy in self.proxies:
            proxy.close()


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[Machines]:
    made = Machines(tmp_path)
    yield made
    made.close()


def test_the_jobs_of_a_killed_machine_run_elsewhere_and_only_the_running_one_is_charged(machines: Machines) -> None:
    a, b = machines.a, machines.b
    machines.start(a)
    a.enqueue(Torture.sync, Task(key="done"))
    a.wait_ledger("end done")
    a.enqueue(Torture.sync, Task(do="steps", seconds=600, key="poison", until=1))
    a.wait_ledger("start poison")
    a.wait(lambda: started() == 1, "the server knows that it has started")
    a.enqueue(Torture.sync, Task(key="next"))
    assert a.process is not None
    for pid in (a.process.pid, *(slot.pid for slot in a.slots() if slot.pid)):
        os.kill(pid, signal.SIGKILL)
    machines.start(b)
    b.wait_ledger("end poison 2")
    b.wait_ledger("end next 1")
    lost = b.wait_event("attempt_lost")
    assert (lost["reason"], lost["attempt"]) == ("worker_lost", 1)
    assert machines.ran("done") == [["start", "1"], ["end", "1"]]
    assert b.stop() == 0


def test_who_is_cut_off_loses_its_job_to_the_other_and_stops_it(machines: Machines) -> None:
    a, b = machines.a, machines.b
    machines.start(a)
    a.enqueue(Torture.sync, Task(key="done"))
    a.wait(lambda: a.stats("sync").jobs == 0, "it is settled")
    a.enqueue(Torture.sync, Task(do="steps", seconds=600, key="long", until=1))
    a.wait_ledger("start long 1")
    a.wait(lambda: started() == 1, "the server knows that it has started")
    machines.proxies[0].hole()
    machines.start(b)
    b.enqueue(Torture.sync, Task(key="other"))
    b.wait_ledger("end long 2")
    b.wait_ledger("end other 1")
    machines.proxies[0].heal()
    a.wait_event("job_finished", outcome="lease_lost")
    assert machines.ran("long") == [["start", "1"], ["start", "2"], ["end", "2"]]
    assert machines.ran("done") == [["start", "1"], ["end", "1"]]
    b.wait(lambda: b.stats("sync").jobs == 0, "nothing is left")
    assert [a.stop(), b.stop()] == [0, 0]


def started() -> int:
    import psycopg

    with psycopg.connect(postgres.shared().url) as connection:
        found = connection.execute("select count(*) from worker.job where started = delivery").fetchone()
        assert found is not None
        return int(found[0])
