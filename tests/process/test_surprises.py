"""An engine that raises what its contract does not know fails for a moment; it ends no process, and charges no job."""

from __future__ import annotations

import os
import signal

import pytest

from tests.process.threads import Task, Threads
from tests.process.tree import Tree

jobs = Threads.jobs


@pytest.mark.parametrize("environ", [{"LOCAL": "1"}, {}], ids=["local", "far"])
def test_a_surprise_of_an_engine_is_an_outage(tree: Tree, environ: dict[str, str]) -> None:
    """Regression: the worker ended with the innocent that ran there, and maintenance with it, up to the budget."""
    tree.app = Threads
    tree.environ |= {"WORKER_ENGINE_URL": f"surprising:{tree.root}", "WORKER_QUEUES__JOBS__TIMEOUT": "60", **environ}
    for number in range(4):
        tree.enqueue(jobs, Task(do="sleep", seconds=1, key=f"k{number}"))
    tree.start(module="tests.process.surprising:Threads")
    tree.wait_ledger("end k", 4)
    for verb in ("claim", "settle", "maintain", "rescue", "lead"):
        tree.wait_ledger(f"surprise {verb}")
    tree.wait(lambda: tree.stats("jobs").in_flight == 0, "all are settled")
    failed = tree.events("engine_failed", verb="claim")[0]["error"]
    assert failed.startswith("ValueError: a driver's surprise in claim (")
    assert "surprising.py:" in failed
    assert len(tree.ran("start k")) == 4
    tree.enqueue(jobs, Task(do="sleep", key="killed", until=1))
    tree.wait_ledger("start killed 1")
    if "LOCAL" not in environ:  # a far one is asked for lost leases while a job runs
        tree.wait_ledger("surprise lost")
    os.kill(tree.pid("jobs/0"), signal.SIGKILL)
    tree.wait_ledger("end killed 2")
    assert [event["slot"] for event in tree.events("process_exited") if event["slot"] != "hooks"] == ["jobs/0"]
    assert tree.stop() == 0
