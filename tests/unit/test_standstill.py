"""Time in which a process stood still, by a clock of the test."""

from __future__ import annotations

import signal
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from framework.maintenance import OtherTrees
from framework.model.outcome import JobInterrupted
from framework.process.scoreboard import Scoreboard, process_start
from framework.process.standstill import Standstill
from framework.worker.core import LeaveSignal
from framework.worker.interrupts.interrupt import Interrupts


def standstill(turn: float = 0.5, now: float = 100.0) -> Standstill:
    return Standstill(turn, now, cpu=lambda: 0.0)


def test_a_loop_that_turns_in_time_stands_not_still() -> None:
    still = standstill()
    assert [still.turned(now) for now in (100.5, 100.6, 101.6)] == [0.0, 0.0, 0.0]
    assert still.total == 0.0


def test_a_gap_counts_whole_and_moves_what_began_before_it() -> None:
    still = standstill()
    still.turned(100.4)
    assert still.turned(112.4) == 12.0
    assert still.between(90.0, 200.0) == still.total == 12.0
    assert still.between(106.4, 200.0) == 6.0
    assert still.between(112.4, 200.0) == still.between(90.0, 100.0) == 0.0
    assert still.elapsed(99.0, 113.4) == pytest.approx(2.4)


def test_a_loop_that_is_slow_all_the_time_does_not_stop_the_clock() -> None:
    still, now = standstill(), 100.0
    for _ in range(100):
        now += 1.2
        still.turned(now)
    assert still.total < 0.7 * (now - 100.0)


def test_what_the_process_has_worked_is_no_standstill() -> None:
    worked = iter([0.0, 3.0, 3.0])
    still = Standstill(0.5, 100.0, cpu=lambda: next(worked))
    assert still.turned(103.2) == 0.0
    assert still.turned(106.0) == pytest.approx(2.8)


def test_gaps_that_overlap_count_once() -> None:
    still = standstill()
    still.turned(102.0)
    still.add(101.0, 104.0)
    assert still.between(100.0, 104.0) == still.total == 4.0
    still.add(99.0, 105.0)  # a disk that stood still before and after
    assert still.between(90.0, 110.0) == still.total == 6.0


# --- soft timeouts --------------------------------------------------------------------------------------------------


class Frozen:
    """SIGALRM is held back as long as the process stands still."""

    def __init__(self) -> None:
        self.stood_still = 0.0

    def still_ns(self) -> int:
        return int(self.stood_still * 1e9)

    def freeze(self, seconds: float, *, told: bool = True) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
        time.sleep(seconds)
        if told:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0.01)  # the supervisor turns a little later
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])


@pytest.fixture
def tree() -> Iterator[Frozen]:
    tree = Frozen()
    before = signal.signal(signal.SIGVTALRM, lambda *_: setattr(tree, "stood_still", 0.7))
    yield tree
    signal.setitimer(signal.ITIMER_VIRTUAL, 0)  # what still rings would end the process
    signal.signal(signal.SIGVTALRM, before)


def spin(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_a_late_alarm_waits_for_the_supervisor_which_knows_that_all_stood_still(tree: Frozen) -> None:
    def handler() -> str:
        tree.freeze(0.7)
        spin(0.05)
        return "done"

    assert Interrupts(0.15, still_ns=tree.still_ns).call(handler) == "done"


def test_a_late_alarm_interrupts_when_nobody_says_so(tree: Frozen) -> None:
    def handler() -> None:
        tree.freeze(0.7, told=False)
        spin(10.0)

    with pytest.raises(JobInterrupted):
        Interrupts(0.1, still_ns=tree.still_ns, patience=0.1).call(handler)


def test_the_rest_of_the_timeout_holds_after_the_standstill(tree: Frozen) -> None:
    def handler() -> None:
        tree.freeze(0.7)
        spin(10.0)

    with pytest.raises(JobInterrupted):
        Interrupts(0.1, still_ns=tree.still_ns).call(handler)


# --- drains ---------------------------------------------------------------------------------------------------------


def test_the_interruption_of_a_drain_moves_with_the_standstill() -> None:
    still = [3.0]
    leave = LeaveSignal(25.0, lambda: 1_000 * 10**9, lambda: still[0])
    leave.leave("drain")
    assert leave.interrupt_at == 998.0
    still[0] = 13.0
    assert leave.interrupt_at == 1_008.0


def test_a_tree_without_a_head_gets_the_time_in_which_its_neighbour_stood_still_too(tmp_path: Path) -> None:
    path = tmp_path / "1.board"
    board = Scoreboard.create(path, [("maintenance", 0), ("q/0", 1)], app="App")
    struct.pack_into("<I", board._memory, 16, 0)  # no supervisor
    now = [1_000.0]
    trees = OtherTrees(lambda: [path], 10.0, clock=lambda: now[0])
    with subprocess.Popen(["sleep", "600"]) as worker:
        board.set_pid(1, worker.pid, process_start(worker.pid))
        try:
            killed = []
            for seconds in (1.0, 4.0, 60.0, *[1.0] * 5):
                now[0] += seconds
                killed += trees.look()
            assert killed == []
            for _ in range(10):
                now[0] += 1.0
                killed += trees.look()
            assert killed == [worker.pid]
        finally:
            worker.kill()
