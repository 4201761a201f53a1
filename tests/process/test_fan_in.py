"""Fan-ins in real trees whose processes are killed under load: each that was acknowledged is followed once."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.process.test_postgres_trees import tree_on
from tests.support import postgres
from tests.support.processes import send
from tests.support.services.fanned import Fanned, expected
from tests.support.tree import HERE, Tree, trees

MODULE = "tests.support.services.fanned"
BLOWS = 12


@pytest.fixture(params=["spool", "postgresql"])
def anywhere(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Tree]:
    if request.param == "spool":
        yield from trees(tmp_path)
    else:
        postgres.empty(postgres.shared())
        yield from tree_on(postgres.shared(), tmp_path)


def produce(tree: Tree, count: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", MODULE, str(count)], env=tree.environ, cwd=HERE)


def check(tree: Tree) -> set[str]:
    """Each acknowledged one was followed, with the counts of its members; none was enqueued twice."""
    made = dict(line.split()[2:4] for line in tree.ran("made "))
    runs: Counter[tuple[str, str]] = Counter()
    for line in tree.ran("done "):
        _, job_id, attempt, key, told = line.split()
        runs[job_id, attempt] += 1
        if key in made:  # else its producer was killed before it could write it down
            assert told == expected(int(made[key])), key
    assert set(runs.values()) <= {1}, "a second job of this id"
    followed = {line.split()[3] for line in tree.ran("done ")}
    assert made.keys() <= followed
    return followed


def test_each_fan_in_is_followed_once_with_the_counts_of_its_members(anywhere: Tree) -> None:
    tree = anywhere
    tree.app = Fanned
    tree.start(module=MODULE)
    assert produce(tree, 30).wait(60) == 0
    tree.wait(lambda: len(tree.ran("done ")) >= 30, "all follow-ups")
    assert len(check(tree)) == 30
    assert tree.stop() == 0


def test_no_kill_loses_or_doubles_a_follow_up(anywhere: Tree) -> None:
    """Workers, maintenance, the supervisor and producers, in the midst of their work."""
    tree, choices = anywhere, random.Random(1)
    tree.app = Fanned
    tree.start(module=MODULE, WORKER_RESTART_BUDGET="1000")
    producers = [produce(tree, 100_000)]
    try:
        for blow in range(BLOWS):
            before = len(tree.ran("made "))
            tree.wait(lambda before=before: len(tree.ran("made ")) >= before + choices.randint(1, 12), "more")  # type: ignore[misc]
            if blow % 4 == 3:
                producers[-1].kill()
                producers[-1].wait()
                producers.append(produce(tree, 100_000))
            elif blow % 6 == 5:
                tree.signal(signal.SIGKILL)
                tree.exit_code()
                tree.start(module=MODULE, WORKER_RESTART_BUDGET="1000")
            else:
                slots = [slot for slot in tree.slots() if slot.pid and slot.name.startswith(("parts", "done", "maint"))]
                slot = choices.choice(slots)
                send(slot.pid, slot.pid_start, signal.SIGKILL)
    finally:
        for producer in producers:
            producer.kill()
            producer.wait()
    wanted = {line.split()[2] for line in tree.ran("made ")}
    tree.wait(lambda: wanted <= {line.split()[3] for line in tree.ran("done ")}, "all follow-ups")
    tree.wait(lambda: tree.stats("parts").jobs + tree.stats("done").jobs <= tree.stats("parts").dead, "no job left")
    assert tree.stop() == 0
    check(tree)
