"""The limits of queues over two trees on one store, whose workers are killed: never exceeded, and nothing leaks."""

from __future__ import annotations

import json
import os
import random
import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.processes import send
from tests.support.services.acts import Task
from tests.support.services.limited import MOST, Limited
from tests.support.tree import Tree

from .pairs import start, two_trees, workers

MODULE = "tests.support.services.limited"
KILLS = 8


@pytest.fixture(params=["spool", "postgresql"])
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Tree, Tree]]:
    with two_trees(request.param, tmp_path, Limited) as found:
        yield found


@pytest.mark.parametrize(("queue", "count"), [("few", 3), ("many", 2)])
def test_killed_workers_neither_exceed_nor_keep_what_may_run_at_once(
    pair: tuple[Tree, Tree], queue: str, count: int
) -> None:
    chance, one = random.Random(7), getattr(Limited, queue)
    start(pair, queue, count)
    for number in range(60):
        pair[0].enqueue(one, Task(key=f"k{number}", seconds=chance.choice((0.0, 0.02, 0.1))))
    for kill in range(KILLS):
        pair[0].wait(lambda kill=kill: len(pair[0].ran("end ")) >= 4 * kill, "some jobs done")  # type: ignore[misc]
        slot = chance.choice(workers(pair, queue))
        send(slot.pid, slot.pid_start, signal.SIGKILL)
    pair[0].wait(lambda: len(set(pair[0].ran("end "))) == 60, "all jobs done")
    assert pair[0].ran("exceeded") == []
    for number in range(MOST + 2):
        pair[0].enqueue(one, Task(key=f"last{number}", seconds=1.0))
    pair[0].wait_ledger("end last", MOST + 2)
    lines = [line for line in pair[0].ledger() if "last" in line]
    assert [line.split()[0] for line in lines[:MOST]] == ["start"] * MOST, "all of the limit is there again"
    assert pair[0].ran("exceeded") == []
    assert [tree.stop() for tree in pair] == [0, 0]


def test_two_trees_share_a_rate_and_a_restart_gives_no_second_burst(pair: tuple[Tree, Tree]) -> None:
    start(pair, "slow", 2)
    for number in range(50):
        pair[0].enqueue(Limited.slow, Task(key=f"k{number}"))
    pair[0].wait_ledger("began", 20)
    assert pair[1].stop() == 0
    pair[1].start("--queue", "slow", module=MODULE, ready=False)
    pair[1].wait_event("worker_ready", 2)
    times = sorted(float(line.split()[1]) for line in pair[0].wait_ledger("began", 50))
    assert len(times) == 50
    assert times[-1] - times[0] >= 1.0, "50 jobs at 20 a second with a burst of 20 take 1.5 s"
    assert [tree.stop() for tree in pair] == [0, 0]


def test_a_breaker_holds_the_queue_of_both_trees_until_its_canary_succeeds(pair: tuple[Tree, Tree]) -> None:
    down = Path(f"{pair[0].ledger_path}.down")
    down.touch()
    start(pair, "frail", 2)
    for number in range(60):
        pair[0].enqueue(Limited.frail, Task(key=f"k{number}"))
    pair[0].wait(lambda: any(tree.events("queue_held") for tree in pair), "the queue is held")
    held = next(event for tree in pair for event in tree.events("queue_held"))
    assert (held["queue"], held["error_type"], held["hold"]) == ("frail", "ConnectionError", 2.0)
    seen = json.loads(pair[0].run_worker("queues", MODULE, "--json"))
    assert [one["held"] for one in seen if one["queue"] == "frail"] == [True]
    table = pair[0].run_worker("queues", MODULE)
    assert all(text in table for text in ("frail (held)", "few (max 3)", "slow (20/s)"))
    failed = len(pair[0].ran("failed"))
    pair[0].wait(lambda: len(pair[0].ran("failed")) >= failed + 3, "some canaries")
    down.unlink()
    pair[0].wait(lambda: any(tree.events("queue_reopened") for tree in pair), "the queue is reopened")
    pair[0].wait(lambda: len(pair[0].ran("end ")) == 60, "all jobs done")
    with closing(pair[0].broker()) as store:
        assert list(store.browse("frail", "dead")) == []
    assert [tree.stop() for tree in pair] == [0, 0]


def test_a_queue_whose_canaries_are_killed_reopens_by_itself(pair: tuple[Tree, Tree]) -> None:
    down = Path(f"{pair[0].ledger_path}.down")
    down.touch()
    start(pair, "frail", 2)
    for number in range(30):
        pair[0].enqueue(Limited.frail, Task(key=f"k{number}"))
    pair[0].wait(lambda: any(tree.events("queue_held") for tree in pair), "the queue is held")
    for slot in workers(pair, "frail"):
        send(slot.pid, slot.pid_start, signal.SIGKILL)
    os.unlink(down)
    pair[0].wait(lambda: len(set(pair[0].ran("end "))) == 30, "all jobs done")
    assert [tree.stop() for tree in pair] == [0, 0]
