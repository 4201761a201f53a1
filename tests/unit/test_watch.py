"""The supervisor's deadlines on a real board and over real processes, by a clock of the test."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from framework.model.events import Event, ProcessKilled, SupervisorNote
from framework.process.scoreboard import LEAVING, READY, Scoreboard
from framework.process.standstill import Standstill
from framework.process.supervisor import Stacks, Supervisor, SupervisorOptions
from framework.process.supervisor.children import ChildInfo, ChildSpec
from framework.process.supervisor.drain import Drain
from framework.process.supervisor.notify import Notifier
from framework.process.supervisor.tree import QUIET_TURN, TURN, Tree
from framework.process.supervisor.watch import STUCK_AFTER, Watch

START = 1_000.0
NAMES = ("maintenance", "q/0", "q/1")


class Desk:
    """Three children: `sleep` processes, each in a group of its own."""

    def __init__(self, path: Path) -> None:
        self.events: list[Event] = []
        self.board = Scoreboard.create(path / "board", [(NAMES[0], 0), (NAMES[1], 2), (NAMES[2], 2)], app="App")
        specs = [ChildSpec(name, index, lambda _: 0, last=not index) for index, name in enumerate(NAMES)]
        self.tree = Tree(specs, self.board, SupervisorOptions(drain=25.0, ready_within=60.0), self.events.append)
        self.tree.still = Standstill(TURN, START, cpu=lambda: 0.0)
        self.drain = Drain(self.tree, Notifier({}))
        self.watch = Watch(self.tree, self.drain, Notifier({}))
        self.watch._began = START
        self.processes = [subprocess.Popen(["sleep", "600"], process_group=0) for _ in NAMES]
        self.now = START
        for index, process in enumerate(self.processes):
            self.board.occupy(index, f"life-{index}")
            child = ChildInfo(NAMES[index], index, f"life-{index}", 1, 0, 0, index)
            self.tree.children[index].begin(process.pid, child, START)
            self.beat(index, ready=True)

    def beat(self, *indices: int, ready: bool = False) -> None:
        for index in indices:
            if ready:
                self.board.set_state(index, READY, int(self.now * 1e9))
            self.board.tick(index, int(self.now * 1e9))

    def work(self, index: int, hard: float, *, row: int = 0) -> None:
        started = int(self.now * 1e9)
        self.board.row_writer(index, row).start(f"j{row}", 1, started, 0, started + int(hard * 1e9))

    def turn(self, seconds: float, *beating: int) -> None:
        """The supervisor turns; before that the children turn whose index is given."""
        self.now += seconds
        self.beat(*beating)
        self.tree.turned(self.now)
        self.watch.look(self.now)

    def live(self, seconds: float, *beating: int) -> None:
        end = self.now + seconds
        while self.now < end - 1e-6:
            self.turn(min(TURN, end - self.now), *beating)

    @property
    def killed(self) -> list[str]:
        return [event.process for event in self.events if isinstance(event, ProcessKilled)]

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path)
    yield desk
    desk.close()


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """Processes that wait for the disk."""
    waiting: set[int] = set()
    monkeypatch.setattr("framework.process.supervisor.watch.waits_for_disk", lambda pid: pid in waiting)
    return waiting


def test_an_idle_child_whose_loop_does_not_turn_is_killed(desk: Desk) -> None:
    desk.live(STUCK_AFTER, 0, 1)
    assert desk.killed == []
    desk.turn(TURN, 0, 1)
    assert desk.killed == ["q/1"]
    assert desk.tree.children[2].killed == "stuck"
    assert desk.processes[2].wait(10) == -signal.SIGKILL


def test_maintenance_that_hangs_is_killed_while_all_workers_are_busy(desk: Desk) -> None:
    desk.work(1, 600.0)
    desk.work(2, 600.0)
    desk.live(STUCK_AFTER + 1)
    assert desk.killed == ["maintenance"]


@pytest.mark.parametrize(("count", "why"), [(1, "1 job past the hard timeout"), (2, "2 jobs past the hard timeout")])
def test_a_kill_says_for_how_many_jobs(desk: Desk, count: int, why: str) -> None:
    for row in range(count):
        desk.work(1, 1.0, row=row)
    desk.live(1.0 + 2 * TURN, 0, 1, 2)
    assert [event.why for event in desk.events if isinstance(event, ProcessKilled)] == [why]


def test_a_job_past_its_hard_deadline_is_killed(desk: Desk) -> None:
    desk.work(1, 7.0)
    desk.live(6.5, 0, 2)
    assert desk.killed == []
    desk.live(1.0, 0, 2)
    assert desk.killed == ["q/0"]
    assert desk.board.kill_reason("life-1").charges(0)  # type: ignore[union-attr]


def test_time_in_which_all_stood_still_is_charged_to_nobody(desk: Desk) -> None:
    desk.work(1, 7.0)
    desk.live(3.0, 0, 2)
    desk.turn(40.0)  # neither the job's deadline nor the silence of the idle counts it
    desk.live(3.0, 0, 2)
    assert desk.killed == []
    assert desk.board.stood_still == 40.0
    assert any("stood still for 40.0 s" in event.text for event in desk.events if isinstance(event, SupervisorNote))
    desk.work(2, 2.0)  # it began after the standstill: nothing moves its deadline
    desk.live(2.0, 0)
    assert sorted(desk.killed) == ["q/0", "q/1"]


def test_a_drain_deadline_moves_with_the_standstill(desk: Desk) -> None:
    desk.tree.deadline = START + 25.0
    desk.tree.children[1].kill_at = START + 24.0
    desk.turn(30.0)
    assert desk.killed == []
    assert (desk.tree.deadline, desk.tree.children[1].kill_at) == (START + 55.0, START + 54.0)
    assert desk.board.deadline == int((START + 55.0) * 1e9)
    desk.live(24.5, 0, 1, 2)
    assert desk.killed == ["q/0"]


def test_the_time_to_become_ready_does_not_count_the_standstill(desk: Desk) -> None:
    desk.board.occupy(1, "life-1")
    desk.tree.children[1].ready = False
    desk.live(30.0, 0, 2)
    desk.turn(60.0, 0, 2)
    desk.live(29.0, 0, 2)
    assert desk.killed == []
    desk.live(2.0, 0, 2)
    assert desk.killed == ["q/0"]
    assert desk.tree.children[1].killed == "failed_to_start"


def test_a_disk_that_stands_still_for_all_is_charged_to_nobody(desk: Desk, disk: set[int]) -> None:
    desk.work(1, 7.0)
    desk.live(2.0, 0, 2)
    disk.add(desk.processes[0].pid)
    desk.live(60.0)
    assert desk.killed == []
    disk.clear()
    desk.turn(TURN, 0, 2)
    assert desk.board.stood_still >= 60.0
    desk.live(4.0, 0, 2)
    assert desk.killed == []
    desk.live(2.0, 0, 2)
    assert desk.killed == ["q/0"]


def test_a_drain_does_not_wait_for_the_disk(desk: Desk, disk: set[int]) -> None:
    disk.add(desk.processes[0].pid)
    desk.tree.children[1].kill_at = START + 24.0
    desk.live(25.0)
    assert desk.killed == ["q/0"]


def test_nobody_is_excused_by_a_disk_that_others_use(desk: Desk, disk: set[int]) -> None:
    disk.add(desk.processes[1].pid)  # a handler that reads much, seen in the middle of it
    desk.work(1, 7.0)
    desk.live(8.0, 0, 2)
    assert desk.killed == ["q/0"]


def test_a_job_whose_handler_has_ended_is_not_charged_for_what_the_engine_takes(desk: Desk) -> None:
    desk.work(1, 7.0)
    desk.work(1, 7.0, row=1)
    desk.live(6.0, 0, 2)
    desk.board.row_writer(1, 0).ended()
    desk.board.row_writer(1, 1).ended()
    desk.beat(1)
    desk.live(STUCK_AFTER - 1.0, 0, 2)
    assert desk.killed == []
    desk.live(2.0, 0, 2)
    assert desk.tree.children[1].killed == "stuck"
    assert not desk.board.kill_reason("life-1").charges(0)  # type: ignore[union-attr]


def test_a_tree_is_quiet_while_all_are_ready_and_no_job_runs(desk: Desk) -> None:
    def is_quiet() -> bool:
        desk.turn(TURN, 0, 1, 2)
        return desk.watch.quiet

    assert is_quiet()
    desk.work(2, 7.0, row=1)
    assert not is_quiet()
    desk.board.row_writer(2, 1).ended()  # it is being settled, and may still hang
    assert not is_quiet()
    desk.board.row_writer(2, 1).clear()
    assert is_quiet()
    desk.board.set_state(1, LEAVING, int(desk.now * 1e9))
    assert not is_quiet()


def test_a_quiet_tree_is_looked_at_less_often_but_before_a_new_job_can_be_late(desk: Desk) -> None:
    def patience(quickest: float) -> float:
        options = SupervisorOptions(quickest=quickest)
        supervisor = Supervisor([], desk.board, options, print, stacks=Stacks(), idle=lambda: None)
        supervisor._watch, supervisor._watchdog_at = desk.watch, float("inf")
        return supervisor._patience()

    desk.turn(TURN, 0, 1, 2)
    assert [patience(quickest) for quickest in (0.1, 0.7, 60.0)] == [TURN, 0.7, QUIET_TURN]
    desk.board.row_writer(1, 0).start("j", 1, int(desk.now * 1e9), 0, 0)
    desk.turn(TURN, 0, 1, 2)
    assert patience(60.0) == TURN


def test_what_a_process_waits_for_in_the_kernel_is_read_from_it() -> None:
    from framework.process.supervisor.platform import waits_for_disk

    assert not waits_for_disk(os.getpid())
    assert not waits_for_disk(2**30)
