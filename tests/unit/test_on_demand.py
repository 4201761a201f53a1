"""A child that lives on demand, at the end of a drain: it may use what is left of it, and no more."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from framework.model.events import Event
from framework.process.scoreboard import Scoreboard
from framework.process.supervisor import LAST_GRACE, SupervisorOptions
from framework.process.supervisor.child import Child
from framework.process.supervisor.children import ChildInfo, ChildSpec
from framework.process.supervisor.drain import LEAST_GRACE, LONGEST, MOST_FAILURES, Drain
from framework.process.supervisor.notify import Notifier
from framework.process.supervisor.tree import Tree

NAMES = ("maintenance", "hooks", "exporter")


class Desk:
    """A tree whose workers are gone; what leaves last are `sleep` processes that do not leave."""

    def __init__(self, path: Path, drain: float | None) -> None:
        self.wanted, self.events = True, list[Event]()
        board = Scoreboard.create(path / "board", [(name, 1) for name in NAMES], app="App")
        specs = [
            ChildSpec(name, index, lambda _: 0, last=True, wanted=(lambda: self.wanted) if name == "hooks" else None)
            for index, name in enumerate(NAMES)
        ]
        self.tree = Tree(specs, board, SupervisorOptions(drain=drain), self.events.append)
        self.drain = Drain(self.tree, Notifier({}))
        self.maintenance, self.hooks, self.exporter = self.tree.children
        self.processes: list[subprocess.Popen[bytes]] = []

    def live(self, child: Child, now: float) -> None:
        process = subprocess.Popen(["sleep", "600"], process_group=0)
        self.processes.append(process)
        name, index = child.spec.name, child.spec.index
        child.begin(process.pid, ChildInfo(name, index, f"{index}-{now}", 1, 0, 0, index), now)

    def die(self, child: Child, *, again_at: float | None) -> None:
        child.end()
        child.start_at = again_at

    def begin(self, now: float, deadline: float | None) -> None:
        self.tree.draining, self.tree.deadline = True, deadline
        for child in (self.maintenance, self.exporter):
            self.live(child, now)
        self.drain.advance(now)
        assert self.maintenance.leaving
        assert not self.hooks.leaving, "maintenance may still have work for it"
        self.die(self.maintenance, again_at=None)


@pytest.fixture
def desks() -> Iterator[list[Desk]]:
    made: list[Desk] = []
    yield made
    for process in (process for desk in made for process in desk.processes):
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    ("deadline", "now", "kill_at"),
    [(110.0, 101.0, 110.0), (110.0, 109.95, 109.95 + LEAST_GRACE), (None, 101.0, 101.0 + LONGEST)],
)
def test_it_has_the_rest_of_the_drain(
    desks: list[Desk], tmp_path: Path, deadline: float | None, now: float, kill_at: float
) -> None:
    desks.append(desk := Desk(tmp_path, None if deadline is None else 10.0))
    desk.begin(100.0, deadline)
    assert not desk.drain.advance(now)
    assert desk.hooks.due_at is not None, "it is started for what waits"
    desk.live(desk.hooks, now)
    assert not desk.drain.advance(now)
    assert (desk.hooks.leaving, desk.hooks.kill_at) == (True, kill_at)
    assert not desk.exporter.leaving


@pytest.mark.parametrize("deadline", [110.0, None])
def test_each_life_ends_by_the_same_moment_and_none_begins_after_it(
    desks: list[Desk], tmp_path: Path, deadline: float | None
) -> None:
    desks.append(desk := Desk(tmp_path, None if deadline is None else 10.0))
    desk.begin(100.0, deadline)
    end = 100.0 + LONGEST if deadline is None else deadline
    for now in (100.0, 103.0, 106.0):
        assert not desk.drain.advance(now)
        desk.live(desk.hooks, now)
        assert not desk.drain.advance(now)
        assert desk.hooks.kill_at == end
        desk.die(desk.hooks, again_at=now)  # by its hook
    assert not desk.drain.advance(end)
    assert desk.hooks.due_at is None
    assert desk.exporter.leaving
    assert desk.exporter.kill_at == max((deadline or end) + LAST_GRACE, end + LEAST_GRACE)


def test_what_is_not_wanted_or_never_works_holds_up_nothing(desks: list[Desk], tmp_path: Path) -> None:
    for number, (wanted, vain) in enumerate([(False, 0), (True, MOST_FAILURES + 1)]):
        (child := tmp_path / str(number)).mkdir()
        desks.append(desk := Desk(child, 10.0))
        desk.begin(100.0, 110.0)
        desk.wanted, desk.hooks.vain = wanted, vain
        assert not desk.drain.advance(100.0)
        assert desk.exporter.leaving
        desk.die(desk.exporter, again_at=None)
        assert desk.drain.advance(100.0)


def test_a_second_signal_ends_it_for_good(desks: list[Desk], tmp_path: Path) -> None:
    desks.append(desk := Desk(tmp_path, None))
    desk.begin(100.0, None)
    desk.live(desk.hooks, 100.0)
    desk.drain.kill_workers("second signal")
    assert (desk.hooks.killed, desk.hooks.start_at, desk.tree.exit_code) == ("killed", None, 0)
    assert not desk.exporter.killed
