"""Schedules in real trees: each tick is one job, however many supervisors there are and whatever is killed."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.schedules import soak
from tests.process.test_postgres_trees import tree_on
from tests.support import postgres
from tests.support.services.scheduled import broken, handled
from tests.support.tree import Tree, trees

MODULE = "tests.support.services.scheduled"


@pytest.fixture(params=["spool", "postgresql"])
def anywhere(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Tree]:
    if request.param == "spool":
        yield from trees(tmp_path)
    else:
        postgres.empty(postgres.shared())
        yield from tree_on(postgres.shared(), tmp_path)


def test_each_tick_is_a_job_with_its_moment(anywhere: Tree) -> None:
    tree = anywhere
    tree.start(module=MODULE)
    tree.wait_ledger("second ", 3)
    tree.wait_ledger("more ", 2)
    shown = json.loads(tree.run_worker("schedules", MODULE, "--json"))
    assert [(one["key"], one["missed"]) for one in shown] == [("every 1 s", 0), ("every 1.5 s", 0), ("new year", 0)]
    assert tree.stop() == 0
    assert broken(tree.ledger()) == []
    assert all(tick % 1.5 == 0 for tick in handled(tree.ledger(), "more"))
    assert handled(tree.ledger(), "yearly") == {}
    assert {event["schedule"] for event in tree.events("schedule_fired")} == {"every 1 s", "every 1.5 s"}


def test_missed_ticks_are_made_up_for(tree: Tree) -> None:
    """Nothing was running meanwhile; this service's schedules say missed="all"."""
    tree.start(module=MODULE)
    tree.wait_ledger("second ")
    last = max(handled(tree.ledger(), "second"))
    tree.signal(signal.SIGKILL)
    tree.exit_code()
    tree.start(module=MODULE)
    tree.wait(lambda: max(handled(tree.ledger(), "second")) >= last + 4, "a later tick")
    assert tree.stop() == 0
    assert broken(tree.ledger()) == []


def test_of_three_supervisors_that_are_killed_each_tick_comes_once(tmp_path: Path) -> None:
    """The bounded share of tests.faults.schedules."""
    report = soak(blows=15, seed=1, place=tmp_path)
    assert report.violations == []
    assert report.tried["ticks"] > 2  # type: ignore[operator]
