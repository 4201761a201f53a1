"""A machine on PostgreSQL whose clock is an hour wrong: the database's time decides, and waits are measured right."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from tests.support import postgres
from tests.support.services.torture import Task, Torture
from tests.support.tree import HERE, Tree, trees

HOUR = 3600.0
NEAR = 1.0  # seconds by which two clocks may be taken for one
# For the processes of one machine. What the kernel counts (monotonic) is right there, as on a real one.
SHIFTED = """
import time
real, real_ns = time.time, time.time_ns
time.time = lambda: real() + {shift}
time.time_ns = lambda: real_ns() + int({shift} * 1e9)
"""


@pytest.fixture(params=[HOUR, -HOUR], ids=["ahead", "behind"])
def wrong(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Tree]:
    """A tree on a machine whose clock is wrong; the test itself and the server have the right time."""
    postgres.empty(postgres.shared())
    (tmp_path / "clock").mkdir()
    (tmp_path / "clock" / "sitecustomize.py").write_text(SHIFTED.format(shift=request.param))
    for tree in trees(tmp_path, f"{postgres.shared().url}?local_dir={tmp_path}/spool"):
        tree.environ["PYTHONPATH"] = f"{tmp_path}/clock:{tree.environ['PYTHONPATH']}"
        yield tree


def test_delays_retries_and_lifetimes_are_those_of_the_database(wrong: Tree) -> None:
    due = time.time() + 2
    wrong.enqueue(Torture.sync, Task(key="delayed"), delay=2)
    wrong.enqueue(Torture.sync, Task(key="short"))
    wrong.enqueue(Torture.sync, Task(key="again", do="fail", until=1))
    wrong.start("--queue", "sync", fresh=True)
    for key, attempt in (("short", 1), ("again", 2), ("delayed", 1)):
        wrong.wait_ledger(f"end {key} {attempt}")
    assert time.time() >= due, "the delayed job ran early"
    finished = wrong.events("job_finished")
    assert len(finished) == 4
    assert all(0 <= event["wait"] < HOUR / 2 and 0 <= event["duration"] < HOUR / 2 for event in finished), finished
    assert not wrong.events("attempt_lost")
    assert wrong.stop() == 0


def test_what_a_wrong_machine_enqueues_is_due_when_it_should_be(wrong: Tree) -> None:
    """A delay counts from now, a lifetime from then; a moment that is named is that moment."""
    before = time.time()
    code = (
        "from datetime import UTC, datetime; from framework import Settings; "
        "from framework.runner.connecting import open_producer; "
        "from tests.support.services.torture import Task, Torture; q = Torture.sync; "
        "p = open_producer(Settings()); q.connected(p).__enter__(); q.enqueue(Task()); q.enqueue(Task(), delay=100); "
        f"q.enqueue(Task(), run_at=datetime.fromtimestamp({before + 200}, UTC)); q.enqueue_many([Task()], delay=300)"
    )
    done = subprocess.run([sys.executable, "-c", code], env=wrong.environ, cwd=HERE, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    after = time.time()
    with psycopg.connect(postgres.shared().url) as connection:
        query = "select eligible_at from worker.{} order by place"
        ready, later = ([at for (at,) in connection.execute(query.format(table))] for table in ("job", "later"))
    assert len(ready) == 1
    assert before - NEAR <= ready[0] <= after + NEAR
    assert before + 100 - NEAR <= later[0] <= after + 100 + NEAR
    assert later[1] == pytest.approx(before + 200, abs=0.001)
    assert before + 300 - NEAR <= later[2] <= after + 300 + NEAR


def test_neither_machine_takes_what_the_other_runs(wrong: Tree, tmp_path: Path) -> None:
    (tmp_path / "right").mkdir()
    with contextmanager(trees)(
        tmp_path / "right", f"{postgres.shared().url}?local_dir={tmp_path}/right/spool"
    ) as right:
        both = {"module": "tests.process.quick_torture", "LEDGER": str(wrong.ledger_path)}
        for tree in (wrong, right):
            tree.start("--queue", "sync", fresh=True, WORKER_QUEUES__SYNC__WORKERS="1",
                       WORKER_QUEUES__SYNC__TIMEOUT="60", **both)  # fmt: skip
        keys = ("one", "two")  # one for each, for longer than a silent machine is waited for
        for key in keys:
            wrong.enqueue(Torture.sync, Task(do="steps", seconds=8, key=key))
        for key in keys:
            wrong.wait_ledger(f"end {key} 1")
        assert len(wrong.ran("start ")) == 2
        for tree in (wrong, right):
            assert not tree.events("attempt_lost")
            assert len(tree.events("job_finished")) == 1
            assert tree.stop() == 0
