"""The service's code forks, and the child comes back into ours: it ends there, wherever that is."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.processes import alive
from tests.support.services.forking import Forking
from tests.support.tree import Tree

PLACES = {
    "constructor", "lifespan", "alifespan", "task", "callback", "on_failure-sync-error", "on_failure-many-error",
    "on_failure-sync-worker_lost",
}  # fmt: skip
AT_THE_END = {"end-of-lifespan", "end-of-alifespan", "atexit"}


def children(tree: Tree) -> dict[str, int]:
    return {where: int(pid) for _, pid, where in map(str.split, tree.ran("child "))}


@pytest.mark.parametrize("how", ["return", "raise"])
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_child_that_comes_back_is_no_second_process_of_the_tree(tree: Tree, how: str, method: str) -> None:
    """Verified: one that came back in maintenance found another parent, and ended the tree as one without a head; one
    of a task ran the jobs beside it a second time; one of a lifespan said that its worker was gone."""
    tree.start(module="tests.support.services.forking:Forking", CHILDREN=how, WORKER_START_METHOD=method)
    tree.enqueue(Forking.many, "neighbour")
    tree.wait_ledger("start neighbour")
    for key in ("task", "callback", "awaited", "fails"):
        tree.enqueue(Forking.many, key)
    tree.enqueue(Forking.sync, "fails")
    # Its worker must not abort before the child has written: the supervisor kills what a dead worker left behind.
    tree.wait(lambda: "on_failure-sync-error" in children(tree), "the child of the hook")
    tree.enqueue(Forking.sync, "aborts")
    tree.wait(lambda: set(children(tree)) >= PLACES, "a child of each place")
    tree.wait(lambda: not any(map(alive, children(tree).values())), "the end of all children")
    Path(f"{tree.ledger_path}.go").touch()
    tree.enqueue(Forking.sync, "last")
    tree.wait_ledger("end last")
    tree.wait_ledger("end neighbour")
    tree.wait_ready()
    exits = [event["slot"] for event in tree.events("process_exited") if event["slot"] != "hooks"]
    assert exits == ["sync/0"], "the one that aborts"
    assert tree.stop() == 0
    tree.wait(lambda: not any(map(alive, children(tree).values())), "the end of all children")
    assert set(children(tree)) >= AT_THE_END
    for key in ("neighbour", "task", "callback", "last"):
        assert len(tree.ran(f"end {key}")) == 1
    assert not tree.events("engine_failed")
    assert {event["reason"] for event in tree.events("process_exited")} == {"crashed", "drained"}
