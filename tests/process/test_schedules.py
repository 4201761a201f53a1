"""Schedules in real trees: each tick once, however many supervisors there are and whatever is killed."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from framework.process.scoreboard import MAINTENANCE
from tests.process.test_postgres_trees import tree_on
from tests.support import postgres
from tests.support.cluster import Cluster
from tests.support.processes import kill
from tests.support.tree import Tree, trees

MODULE = "tests.support.services.scheduled"


def handled(ledger: Path, which: str) -> list[float]:
    """The ticks of a schedule that a handler has seen."""
    lines = [line.split() for line in ledger.read_text().splitlines()]
    return sorted(float(line[1]) for line in lines if line[0] == which)


def assert_each_once(found: list[float], period: float) -> None:
    assert found == [found[0] + period * number for number in range(len(found))]


@pytest.fixture(params=["spool", "postgres"])
def anywhere(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Tree]:
    if request.param == "spool":
        yield from trees(tmp_path)
    else:
        postgres.empty(postgres.shared())
        yield from tree_on(postgres.shared(), tmp_path)


def test_each_tick_is_a_job_with_its_moment(anywhere: Tree) -> None:
    tree = anywhere
    tree.start(module=MODULE)
    tree.wait(lambda: len(handled(tree.ledger_path, "second")) >= 3, "three ticks")
    tree.wait(lambda: len(handled(tree.ledger_path, "more")) >= 2, "two more")
    shown = json.loads(tree.run_worker("schedules", MODULE, "--json"))
    assert [(one["key"], one["missed"]) for one in shown] == [("every 1 s", 0), ("every 1.5 s", 0), ("new year", 0)]
    assert tree.stop() == 0
    assert_each_once(handled(tree.ledger_path, "second"), 1.0)
    assert_each_once(handled(tree.ledger_path, "more"), 1.5)
    assert handled(tree.ledger_path, "yearly") == []
    assert {event["schedule"] for event in tree.events("schedule_fired")} == {"every 1 s", "every 1.5 s"}


def test_missed_ticks_are_made_up_for(tree: Tree) -> None:
    """Nothing was running meanwhile; this service's schedules say missed="all"."""
    tree.start(module=MODULE)
    tree.wait(lambda: handled(tree.ledger_path, "second"), "a tick")
    last = handled(tree.ledger_path, "second")[-1]
    tree.signal(signal.SIGKILL)
    tree.exit_code()
    tree.start(module=MODULE)
    tree.wait(lambda: handled(tree.ledger_path, "second")[-1] >= last + 4, "a later tick")
    assert tree.stop() == 0
    assert_each_once(handled(tree.ledger_path, "second"), 1.0)


def test_of_three_supervisors_whose_maintenance_is_killed_each_tick_comes_once(tmp_path: Path) -> None:
    """Verified: with the job moved before the record is replaced, or the latest tick not compared, it fails."""
    cluster = Cluster(tmp_path, MODULE, OTEL_SDK_DISABLED="true")
    try:
        ours = [cluster.start_tree() for _ in range(3)]
        for tree in ours:
            tree.wait(lambda tree=tree: cluster.ready(tree), "a tree")  # type: ignore[misc]
        for number in range(9):
            before = len(handled(cluster.ledger_path, "second"))
            ours[0].wait(lambda least=before: len(handled(cluster.ledger_path, "second")) > least, "a tick")  # type: ignore[misc]
            found = cluster.slots(ours[number % 3])
            for slot in found[1] if found else ():
                if slot.name == MAINTENANCE:
                    kill(slot)
        assert [tree.stop() for tree in ours] == [0, 0, 0]
        assert_each_once(handled(cluster.ledger_path, "second"), 1.0)
        assert_each_once(handled(cluster.ledger_path, "more"), 1.5)
    finally:
        cluster.close()
