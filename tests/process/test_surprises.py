"""An engine that raises what its contract does not know fails for a moment; no job is charged for that."""

from __future__ import annotations

import os
import signal

import pytest

from tests.support.services.threads import Task, Threads
from tests.support.tree import Tree

jobs = Threads.jobs


@pytest.mark.parametrize("environ", [{"LOCAL": "1"}, {}], ids=["local", "far"])
def test_a_surprise_of_an_engine_is_an_outage(tree: Tree, environ: dict[str, str]) -> None:
    """Regression: the worker ended with the innocent that ran there, and maintenance with it, up to the budget."""
    tree.app = Threads
    tree.environ |= {"WORKER_ENGINE_URL": f"surprising:{tree.root}", "WORKER_QUEUES__JOBS__TIMEOUT": "60", **environ}
    for number in range(4):
        tree.enqueue(jobs, Task(do="sleep", seconds=1, key=f"k{number}"))
    tree.start(module="tests.support.services.engines:Threads")
    tree.wait_ledger("end k", 4)
    for verb in ("claim", "settle", "maintain", "rescue", "lead"):
        tree.wait_ledger(f"surprise {verb}")
    tree.wait(lambda: tree.stats("jobs").in_flight == 0, "all are settled")
    failed = tree.events("engine_failed", verb="claim")[0]["error"]
    assert failed.startswith("ValueError: a driver's surprise in claim (")
    assert "engines.py:" in failed
    tree.wait_event("worker_leaving", why="its engine failed in an unknown way")
    tree.wait_event("process_exited", slot="jobs/0", reason="recycled")
    assert len(tree.ran("start k")) == 4
    tree.enqueue(jobs, Task(do="sleep", key="killed", until=1))
    tree.wait_ledger("start killed 1")
    if "LOCAL" not in environ:  # a far one is asked for lost leases while a job runs
        tree.wait_ledger("surprise lost")
    os.kill(tree.pid("jobs/0"), signal.SIGKILL)
    tree.wait_ledger("end killed 2")
    exits = [event for event in tree.events("process_exited") if event["slot"] != "hooks"]
    assert [(event["slot"], event["reason"]) for event in exits] == [("jobs/0", "recycled"), ("jobs/0", "killed")]
    assert tree.stop() == 0
