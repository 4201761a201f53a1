"""The supervisor's decisions, without processes: restarts, exits, deadlines; and what it tells systemd."""

from __future__ import annotations

import os
import select
import signal
import socket
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from framework import Settings, WorkerApp
from framework.process.scoreboard import EXIT_REASONS, PLANNED, KillReason, RowState, Scoreboard
from framework.process.supervisor.child import Child, describe_exit, exit_reason
from framework.process.supervisor.children import FAILED_TO_CLOSE, FAILED_TO_START, ChildInfo, ChildSpec
from framework.process.supervisor.instance import Instance
from framework.process.supervisor.notify import Notifier
from framework.process.supervisor.platform import waits_for_lock
from framework.process.supervisor.policy import MOST, Backoff, Budget
from framework.process.supervisor.watch import name_holder, overdue
from framework.runner.context import TreeContext


def a_birth(incarnation: str) -> ChildInfo:
    return ChildInfo("q/0", 1, incarnation, 1, 0, 0, 7)


def a_place(**state: object) -> Child:
    child = Child(ChildSpec("q/0", 1, lambda child: 0))
    child.begin(100, a_birth("1-a"), 5.0)
    for name, value in state.items():
        setattr(child, name, value)
    return child


# --- restarts -------------------------------------------------------------------------------------------------------


def test_the_first_replacement_is_at_once_then_backoff() -> None:
    backoff = Backoff()
    delays = [backoff.delay(uptime=0.1, failed=True) for _ in range(10)]
    assert delays == [0, 0.5, 1, 2, 4, 8, 16, 30, 30, 30]
    assert [backoff.delay(uptime=1, failed=True) for _ in range(2000)][-1] == MOST


def test_an_end_as_it_should_be_cleans_the_record() -> None:
    backoff = Backoff(failures=5)
    assert backoff.delay(uptime=0.0, failed=False) == 0.0
    assert backoff.delay(uptime=0.1, failed=True) == 0.0


def test_a_long_life_cleans_the_record() -> None:
    backoff = Backoff(failures=5)
    assert backoff.delay(uptime=10.0, failed=True) == 0.0
    assert backoff.delay(uptime=9.9, failed=True) == 0.5


def test_budget() -> None:
    budget = Budget(2, 60.0)
    assert [budget.exceeded(now) for now in (0.0, 10.0, 20.0)] == [False, False, True]
    assert not budget.exceeded(70.0)  # two of them are 60 s old
    assert budget.exceeded(79.9)


@given(st.lists(st.floats(0, 20), max_size=40), st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_budget_counts_the_window(gaps: list[float], most: int) -> None:
    budget, now, deaths = Budget(most, 60.0), 0.0, list[float]()
    for gap in gaps:
        now += gap
        deaths.append(now)
        assert budget.exceeded(now) == (sum(1 for death in deaths if death > now - 60.0) > most)


# --- exits ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "state", "draining", "out_of_memory", "expected"),
    [
        (0, {}, False, False, "failed_to_start"),
        (0, {}, True, False, "drained"),
        (0, {"leaving": True}, False, False, "drained"),
        (0, {"ready": True}, False, False, "crashed"),
        (0, {"ready": True, "left": True}, False, False, "recycled"),
        (1, {"ready": True, "left": True}, False, False, "crashed"),
        (0, {"ready": True, "left": True}, True, False, "drained"),
        (-signal.SIGTERM, {}, False, False, "crashed"),
        (-signal.SIGTERM, {"leaving": True}, False, False, "drained"),
        (-signal.SIGTERM, {}, True, False, "drained"),
        (-signal.SIGTERM, {"ready": True}, True, False, "crashed"),
        (-signal.SIGTERM, {"ready": True, "sent": {signal.SIGTERM}}, True, False, "drained"),
        (-signal.SIGTERM, {"ready": True, "sent": {signal.SIGTERM}}, False, False, "recycled"),
        (143, {"ready": True, "sent": {signal.SIGTERM}}, True, False, "drained"),
        (143, {"ready": True}, True, False, "crashed"),
        (1, {"ready": True, "sent": {signal.SIGTERM}}, True, False, "crashed"),
        (-signal.SIGUSR1, {"ready": True, "sent": {signal.SIGUSR1}}, False, False, "recycled"),
        (-signal.SIGSEGV, {"ready": True, "sent": {signal.SIGTERM}}, True, False, "crashed"),
        (1, {"ready": True}, False, False, "crashed"),
        (70, {"ready": True}, True, False, "crashed"),
        (-signal.SIGSEGV, {"ready": True}, False, False, "crashed"),
        (-signal.SIGKILL, {"ready": True}, False, False, "killed"),
        (-signal.SIGKILL, {"ready": True}, False, True, "out_of_memory"),
        (-signal.SIGSEGV, {"ready": True}, False, True, "crashed"),
        (FAILED_TO_START, {}, False, False, "failed_to_start"),
        (FAILED_TO_CLOSE, {"ready": True, "left": True}, False, False, "failed_to_close"),
        (FAILED_TO_CLOSE, {"ready": True, "leaving": True}, True, False, "failed_to_close"),
        (-signal.SIGKILL, {"killed": "drain_timeout"}, True, False, "drain_timeout"),
        (-signal.SIGKILL, {"killed": "timeout"}, False, True, "timeout"),
        (0, {"killed": "stuck"}, False, False, "stuck"),
    ],
)
def test_exit_reasons(code: int, state: dict[str, object], draining: bool, out_of_memory: bool, expected: str) -> None:
    left = bool(state.get("left"))
    child = a_place(**{name: value for name, value in state.items() if name != "left"})
    reason = exit_reason(child, code, draining=draining, left=left, out_of_memory=out_of_memory)
    assert reason == expected
    assert reason in EXIT_REASONS


@pytest.mark.parametrize(
    ("code", "state", "planned"),
    [
        (-signal.SIGTERM, {"sent": {signal.SIGTERM}}, True),
        (0, {"sent": {signal.SIGTERM}}, True),
        (0, {"sent": {signal.SIGUSR1}}, False),
        (0, {}, False),
        (-signal.SIGTERM, {}, False),
        (-signal.SIGTERM, {"sent": {signal.SIGTERM}, "killed": "timeout"}, False),
    ],
)
def test_which_deaths_answer_a_signal_of_ours(code: int, state: dict[str, object], planned: bool) -> None:
    assert a_place(**state).planned(code) == planned


def test_a_death_that_is_not_written_yet(tmp_path: Path) -> None:
    """A rescuer that looks between the death and its burial waits for what the supervisor writes."""
    instance = Instance.take(tmp_path / "run", tmp_path / "instances")
    board = Scoreboard.create(instance.board_path, [("maintenance", 0), ("q/0", 1)], app="App")
    child = TreeContext(WorkerApp, Settings(), {}, [], "spool", instance, tmp_path / "leader", "module", "/")
    board.occupy(1, "1-a")
    assert child.kill_reason(board, "1-unknown") is None
    threading.Timer(0.05, lambda: board.write_kill_reason("1-a", PLANNED)).start()
    assert child.kill_reason(board, "1-a") == KillReason("planned")
    board.occupy(1, "1-b")
    assert child.kill_reason(board, "1-b") is None, "it does not wait for ever"
    board.set_ruin(1, "closed", 0)
    assert child.kill_reason(board, "1-b") == KillReason("died", (0,), "closed"), "it lives, and its locks are free"


def test_a_child_on_demand_is_due_only_when_it_is_wanted_and_leaves_in_order() -> None:
    wanted = [False]
    child = Child(ChildSpec("hooks", 1, lambda child: 0, wanted=lambda: wanted[0]), start_at=7.0)
    assert child.due_at is None
    wanted[0] = True
    assert child.due_at == 7.0
    child.begin(100, a_birth("1-a"), 8.0)
    assert child.due_at is None
    child.ready = True
    assert exit_reason(child, 0, draining=False, left=True, out_of_memory=False) == "drained"
    assert exit_reason(child, 0, draining=False, left=False, out_of_memory=False) == "crashed"


def test_exits_in_words() -> None:
    assert [describe_exit(code) for code in (0, 78, -11, -9, -200)] == [
        "exit code 0",
        "exit code 78",
        "signal SIGSEGV",
        "signal SIGKILL",
        "signal 200",
    ]


def test_a_new_life_forgets_the_old_one() -> None:
    child = a_place(ready=True, leaving=True, kill_at=9.0, killed="stuck", start_at=3.0)
    child.end()
    assert (child.pid, child.kill_at, child.killed) == (None, None, "stuck")
    child.begin(101, a_birth("1-b"), 7.0)
    assert (child.pid, child.incarnation, child.born_at, child.ready, child.leaving) == (101, "1-b", 7.0, False, False)
    assert (child.kill_at, child.killed, child.start_at) == (None, "", None)


# --- deadlines ------------------------------------------------------------------------------------------------------

NOW = 100_000_000_000
LATE, ON_TIME = NOW - 1, NOW + 1
TURNED, STANDS_STILL = NOW - 1_000_000_000, NOW - 3_000_000_000


def row(number: int, hard: int, on_cpu: bool = False) -> RowState:
    return RowState(number, f"j{number}", 1, 1, 1, hard, on_cpu)


@pytest.mark.parametrize(
    ("rows", "tick", "charged"),
    [
        ([], STANDS_STILL, None),
        ([row(0, ON_TIME)], STANDS_STILL, None),
        ([row(0, NOW)], TURNED, [0]),
        ([row(0, LATE)], TURNED, [0]),
        ([row(0, 0)], STANDS_STILL, None),
        # The hung one waits for its neighbours, until they are late, too.
        ([row(0, LATE), row(1, ON_TIME)], TURNED, None),
        ([row(0, LATE), row(1, 0)], TURNED, None),
        ([row(0, LATE), row(3, LATE)], TURNED, [0, 3]),
        # It holds the loop: the neighbours cannot use their time.
        ([row(0, LATE, on_cpu=True), row(1, ON_TIME)], STANDS_STILL, [0]),
        ([row(0, LATE, on_cpu=True), row(1, ON_TIME)], TURNED, None),
        ([row(0, LATE), row(1, ON_TIME, on_cpu=True)], STANDS_STILL, None),
        ([row(0, LATE, on_cpu=True), row(1, LATE)], STANDS_STILL, [0]),
        ([row(0, LATE), row(1, LATE)], STANDS_STILL, [0, 1]),
    ],
)
def test_overdue(rows: list[RowState], tick: int, charged: list[int] | None) -> None:
    assert overdue(rows, NOW, tick) == charged


@pytest.mark.parametrize(
    ("rows", "tick", "waiting", "marked"),
    [
        ({1: LATE, 2: ON_TIME, 3: LATE}, STANDS_STILL, {9, 2, 3}, [1]),
        ({1: LATE, 2: LATE, 3: LATE}, STANDS_STILL, {9, 2, 3}, [1]),
        ({1: ON_TIME, 2: LATE, 3: LATE}, STANDS_STILL, {9, 2, 3}, [1]),  # in time yet: nobody is charged
        ({1: LATE, 2: LATE, 3: LATE}, STANDS_STILL, {9, 1, 2, 3}, []),
        ({1: LATE, 2: LATE}, TURNED, {9, 2}, []),
        ({1: LATE, 2: LATE}, STANDS_STILL, {2}, []),  # the main thread is not held up by the interpreter
        ({1: LATE}, STANDS_STILL, {9}, []),
        ({1: ON_TIME, 2: ON_TIME}, STANDS_STILL, {9, 2}, []),
    ],
)
def test_who_holds_the_interpreter(rows: dict[int, int], tick: int, waiting: set[int], marked: list[int]) -> None:
    busy = [replace(row(number, hard), thread=number) for number, hard in rows.items()]
    found = name_holder(9, busy, NOW, tick, waits=lambda pid, thread: thread in waiting)
    assert [row.row for row in found if row.on_cpu] == marked


def test_whether_a_thread_waits_for_a_lock() -> None:
    lock, numbers = threading.Lock(), [0, 0]

    def take() -> None:
        numbers[0] = threading.get_native_id()
        lock.acquire()

    def poll() -> None:
        numbers[1] = threading.get_native_id()
        select.select([], [], [], 600)

    lock.acquire()
    for target in (take, poll):
        threading.Thread(target=target, daemon=True).start()
    wanted = [True, False]
    end = time.monotonic() + 30
    while [waits_for_lock(os.getpid(), number) for number in numbers] != wanted:
        if waits_for_lock(os.getpid(), numbers[1]) is None and numbers[1]:
            pytest.skip("this kernel does not tell where a thread waits")
        assert time.monotonic() < end
    lock.release()


# --- systemd --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("abstract", [False, True])
def test_notify(abstract: bool, tmp_path: Path) -> None:
    name = f"@worker-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind("\0" + name[1:] if abstract else name)
        systemd.setblocking(False)
        notifier = Notifier({"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "20000000", "WATCHDOG_PID": str(os.getpid())})
        notifier.send("READY=1", "STATUS=2 workers ready")
        assert systemd.recv(1000) == b"READY=1\nSTATUS=2 workers ready"
        due = [notifier.watchdog(now) for now in (100.0, 105.0, 109.9, 110.0, 119.0, 125.0)]
        assert due == [110.0, 110.0, 110.0, 120.0, 120.0, 135.0], "the loop turns by then"
        assert [systemd.recv(1000) for _ in range(3)] == [b"WATCHDOG=1"] * 3
        with pytest.raises(BlockingIOError):
            systemd.recv(1000)


@pytest.mark.parametrize(
    ("environment", "interval"),
    [
        ({}, None),
        ({"NOTIFY_SOCKET": "/x"}, None),
        ({"WATCHDOG_USEC": "1000000"}, None),
        ({"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "3000000"}, 1.5),
        ({"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}, None),
        ({"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_watchdog_interval(environment: dict[str, str], interval: float | None) -> None:
    assert Notifier(environment).interval == interval


def test_a_broken_socket_stops_nothing(tmp_path: Path) -> None:
    for address in ("", str(tmp_path / "missing"), "/" + "x" * 300, str(tmp_path)):
        notifier = Notifier({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "1"})
        notifier.send("READY=1")
        notifier.watchdog(1.0)


# --- instances ------------------------------------------------------------------------------------------------------
