"""Whole trees on a real PostgreSQL, which is killed and started again under load."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from framework.model.errors import EnqueueError, EnqueueUncertain
from tests.process.test_death import test_unstarted_claims_of_the_dead_run_again_within_a_second_uncharged
from tests.process.test_resources import receiver, test_a_killed_attempt_belongs_to_the_process_that_died
from tests.process.test_traces import test_every_attempt_of_a_poison_job_has_its_span_though_each_killed_its_process
from tests.support import postgres
from tests.support.services.acts import Task
from tests.support.services.torture import Torture
from tests.support.tree import Tree, trees

__all__ = [
    "receiver",
    "test_a_killed_attempt_belongs_to_the_process_that_died",
    "test_every_attempt_of_a_poison_job_has_its_span_though_each_killed_its_process",
    "test_unstarted_claims_of_the_dead_run_again_within_a_second_uncharged",
]


def tree_on(server: postgres.Server, place: Path) -> Iterator[Tree]:
    yield from trees(place, f"{server.url}?local_dir={place}/spool")


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Tree]:
    postgres.empty(postgres.shared())
    yield from tree_on(postgres.shared(), tmp_path)


@pytest.fixture
def server() -> Iterator[postgres.Server]:
    """One that may be killed."""
    found = postgres.Server()
    list(postgres.migrated(found))
    yield found
    found.stop()


def test_a_killed_worker_is_replaced_and_its_job_is_charged(tree: Tree) -> None:
    """And the tree forks: the engine leaves no thread behind in the supervisor."""
    tree.start(WORKER_QUEUES__SYNC__TIMEOUT="60", WORKER_START_METHOD="auto")
    assert not tree.events("supervisor_note", level="warning")
    tree.enqueue(Torture.sync, Task(do="sleep", key="k", until=1))
    [line] = tree.wait_ledger("start k 1")
    os.kill(int(line.split()[3]), signal.SIGKILL)
    tree.wait_ledger("end k 2")
    assert tree.wait_event("attempt_lost")["reason"] == "worker_lost"
    assert tree.stop() == 0


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_server_that_comes_back_finds_everything_that_was_acknowledged(
    server: postgres.Server, tmp_path: Path, how: signal.Signals
) -> None:
    for tree in tree_on(server, tmp_path):
        tree.start("--queue", "many", WORKER_QUEUES__MANY__CONCURRENCY="5")
        stored: list[str] = []
        maybe: list[str] = []
        over = threading.Event()

        def produce() -> None:
            number = 0
            while not over.wait(0.002):
                number += 1
                try:
                    tree.enqueue(Torture.many, Task(key=f"k{number}"))
                except EnqueueUncertain:
                    maybe.append(f"k{number}")
                except EnqueueError:
                    over.wait(0.05)
                else:
                    stored.append(f"k{number}")

        producer = threading.Thread(target=produce)
        producer.start()
        try:
            for done in (50, 100):
                tree.wait_ledger("end ", done)
                server.stop(how)
                server.start()
            before = len(tree.ran("end "))
            tree.wait_ledger("end ", before + 50)
        finally:
            over.set()
            producer.join(60)
        tree.wait(lambda: tree.stats("many").jobs == 0, "all jobs done")
        ran = {line.split()[1] for line in tree.ran("end ")}
        assert set(stored) <= ran <= {*stored, *maybe}
        assert not tree.events("process_exited"), "the workers go on"
        assert tree.stop() == 0
