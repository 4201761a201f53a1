"""Groups over two trees on one store, whose workers are killed: the limit holds, and so does a strict order."""

from __future__ import annotations

import random
import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.processes import send
from tests.support.services.acts import Task
from tests.support.services.grouped import Grouped
from tests.support.tree import Tree

from .pairs import start, two_trees, workers

KILLS = 8
GROUPS, JOBS = "abcd", 15


@pytest.fixture(params=["spool", "postgresql"])
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Tree, Tree]]:
    with two_trees(request.param, tmp_path, Grouped) as found:
        yield found


@pytest.mark.parametrize("queue", ["alone", "strict"])
def test_killed_workers_break_neither_limit_nor_order(pair: tuple[Tree, Tree], queue: str) -> None:
    chance, one = random.Random(11), getattr(Grouped, queue)
    start(pair, queue, 3)
    for number in range(JOBS):
        for group in GROUPS:
            pair[0].enqueue(one, Task(key=f"{group}{number}", seconds=chance.choice((0.0, 0.02, 0.05))))
    for kill in range(KILLS):
        pair[0].wait(lambda kill=kill: len(pair[0].ran("end ")) >= 4 * kill, "some jobs done")  # type: ignore[misc]
        slot = chance.choice(workers(pair, queue))
        send(slot.pid, slot.pid_start, signal.SIGKILL)
    pair[0].wait(lambda: len(set(pair[0].ran("end "))) == JOBS * len(GROUPS), "all jobs done")
    assert pair[0].ran("exceeded") == []
    ended = [line.split()[-1] for line in pair[0].ran("end ")]
    for group in GROUPS:
        order = [int(key[1:]) for key in ended if key[0] == group]
        # A job whose worker is killed behind its last line runs again: it may end twice, and the next one waits for it.
        assert queue == "alone" or order == sorted(order)
        assert sorted(set(order)) == list(range(JOBS))
    with closing(pair[0].broker()) as store:
        assert list(store.browse(queue, "dead")) == []
    assert [tree.stop() for tree in pair] == [0, 0]
