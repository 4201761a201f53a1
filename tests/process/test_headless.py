"""Trees that lost their supervisor, and what their handlers had started: nothing is left behind, nobody is charged."""

from __future__ import annotations

import os
import signal

from tests.support.processes import alive
from tests.support.services.acts import Task
from tests.support.services.torture import Torture
from tests.support.tree import Tree


def children(tree: Tree) -> list[int]:
    return [int(line.split()[1]) for line in tree.ran("child ")]


def test_what_handlers_started_ends_with_a_tree_that_lost_its_supervisor(tree: Tree) -> None:
    tree.start("--queue", "sync", WORKER_DRAIN="3")
    for do in ("child", "escaped_child", "forked_child", "clean_child", "daemon"):
        tree.enqueue(Torture.sync, Task(do=do, key=do))
    tree.wait_ledger("end ", 5)
    tree.wait_ledger("child ", 5)
    tree.slots()
    tree.signal(signal.SIGKILL)
    tree.wait(lambda: not any(alive(pid, start) for pid, start in tree.pids), "nothing left of the tree")
    tree.wait(lambda: not any(alive(pid) for pid in children(tree)), "the children's end")


def test_a_tree_without_supervisor_and_maintenance_is_ended_by_the_next_one_uncharged(tree: Tree) -> None:
    environ = {"WORKER_DRAIN": "1", "WORKER_QUEUES__SYNC__TIMEOUT": "60"}
    tree.start("--queue", "sync", **environ)
    tree.enqueue(Torture.sync, Task(do="ignore_term", key="deaf", until=1))
    tree.enqueue(Torture.sync, Task(do="escaped_child", key="e"))
    [line] = tree.wait_ledger("start deaf 1")
    tree.wait_ledger("end e 1")
    deaf = int(line.split()[3])
    keeper = tree.pid("maintenance")
    tree.signal(signal.SIGSTOP)  # it must not replace maintenance
    os.kill(keeper, signal.SIGKILL)
    tree.signal(signal.SIGKILL)
    tree.exit_code()
    assert alive(deaf), "it ignores SIGTERM, and nobody is there who would kill it"
    tree.start("--queue", "sync", ready=False, **environ)
    tree.wait_ledger("start deaf 1", 2)
    assert not alive(deaf), "one that still runs must keep its job"
    assert not any(alive(pid) for pid in children(tree))


def test_a_tree_that_still_drains_is_left_alone_by_its_neighbour(tree: Tree) -> None:
    """The supervisor of the first is dead, but its deadline has not come: its job ends as it should, once."""
    environ = {"WORKER_DRAIN": "20", "WORKER_QUEUES__SYNC__TIMEOUT": "60"}
    tree.start("--queue", "sync", **environ)
    tree.enqueue(Torture.sync, Task(do="sleep", seconds=3, key="k"))
    tree.wait_ledger("start k 1")
    tree.signal(signal.SIGKILL)
    tree.exit_code()
    tree.start("--queue", "sync", ready=False, **environ)
    tree.wait_ledger("end k 1")
    assert len(tree.ran("start k")) == 1
