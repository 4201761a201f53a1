"""A worker's parts: claims that wait, leaving, what the handlers of a process mean."""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest

from framework import Context, Queue, Slot, WorkerApp
from framework.model.job import Lease
from framework.process.scoreboard import before_deadline
from framework.worker import LeaveSignal, base
from framework.worker.base import explain_missing
from framework.worker.core import resident
from framework.worker.gate.claims import MOST, PATIENCE, Claims
from tests.unit.helpers import a_lease, an_executor

LONG = 30.0  # seconds after which something promised counts as missing


class Desk:
    """Claims with a clock of our own; notes what comes back, and when the helper has looked at the clock."""

    def __init__(self) -> None:
        self.now = 100.0
        self.given: list[list[str]] = []
        self.came = threading.Event()
        self.looks = 0
        self.looked = threading.Condition()
        self.claims = Claims(self.give_back, clock=self.clock)

    def give_back(self, leases: Sequence[Lease]) -> None:
        self.given.append([lease.job.id for lease in leases])
        self.came.set()

    def clock(self) -> float:
        if threading.current_thread() is not threading.main_thread():
            with self.looked:
                self.looks += 1
                self.looked.notify_all()
        return self.now

    def await_looks(self, count: int) -> None:
        with self.looked:
            wanted = self.looks + count
            assert self.looked.wait_for(lambda: self.looks >= wanted, LONG)

    def run_for(self, seconds: float) -> None:
        self.claims.started = self.now
        self.now += seconds
        self.claims.ended(seconds)


@pytest.fixture
def desk() -> Iterator[Desk]:
    desk = Desk()
    yield desk
    desk.claims.close()


def leases(*ids: str) -> list[Lease]:
    return [a_lease(job_id=job_id) for job_id in ids]


def taken(desk: Desk) -> list[str]:
    found = []
    while (lease := desk.claims.take()) is not None:
        found.append(lease.job.id)
    return found


def test_claims_are_taken_in_order(desk: Desk) -> None:
    desk.claims.add(leases("a", "b"))
    desk.claims.add(leases("c"))
    assert taken(desk) == ["a", "b", "c"]
    assert desk.given == []


def test_what_waits_behind_a_long_job_goes_back_in_order(desk: Desk) -> None:
    desk.claims.add(leases("a", "b", "c"))
    assert desk.claims.take() is not None
    desk.claims.started = desk.now
    desk.now += 2 * PATIENCE
    assert desk.came.wait(LONG)
    assert desk.given == [["b", "c"]]
    assert desk.claims.take() is None


def test_a_short_job_keeps_its_neighbours(desk: Desk) -> None:
    desk.claims.add(leases("a", "b", "c"))
    desk.claims.take()
    desk.claims.started = desk.now
    desk.now += PATIENCE / 2
    desk.await_looks(3)
    desk.claims.ended(1.0)
    assert desk.given == []
    assert taken(desk) == ["b", "c"]


def test_the_next_batch_is_watched_again(desk: Desk) -> None:
    for batch in (("a", "b"), ("c", "d")):
        desk.came.clear()
        desk.claims.add(leases(*batch))
        desk.claims.take()
        desk.claims.started = desk.now
        desk.now += 1.0
        assert desk.came.wait(LONG)
        desk.claims.ended(1.0)
    assert desk.given == [["b"], ["d"]]


def test_a_signal_gives_everything_back(desk: Desk) -> None:
    desk.claims.add(leases("a", "b"))
    desk.claims.give_back()
    assert desk.came.wait(LONG)
    assert desk.given == [["a", "b"]]


def test_close_gives_everything_back_and_may_be_called_twice() -> None:
    desk = Desk()
    desk.claims.add(leases("a"))
    desk.claims.close()
    desk.claims.close()
    assert desk.given == [["a"]]


def test_each_lease_has_one_owner(desk: Desk) -> None:
    """The loop takes from one end while the helper empties from the other."""
    ids = [f"{n}" for n in range(20_000)]
    desk.claims.add(leases(*ids))
    mine = []
    desk.claims.give_back()
    while (lease := desk.claims.take()) is not None:
        mine.append(lease.job.id)
    desk.claims.close()
    theirs = [job_id for batch in desk.given for job_id in batch]
    assert sorted(mine + theirs, key=int) == ids
    assert theirs == sorted(theirs, key=int)


def test_a_batch_holds_some_ten_milliseconds_of_work(desk: Desk) -> None:
    assert desk.claims.limit() == 1  # nothing is known yet
    for _ in range(200):
        desk.run_for(0.001)
    assert 9 <= desk.claims.limit() <= 10
    for _ in range(200):
        desk.run_for(0.0)
    assert desk.claims.limit() == MOST
    desk.run_for(1.0)  # quick to become careful
    assert desk.claims.limit() == 1


# --- leaving --------------------------------------------------------------------------------------------------------


def test_the_first_reason_wins() -> None:
    leave = LeaveSignal(25.0, lambda: 0)
    assert not leave
    assert leave.leave("max_memory")
    assert leave
    assert not leave.leave("max_jobs_per_process")
    assert (leave.why, leave.interrupt_at) == ("max_memory", None)


def test_a_drain_sets_the_moment_of_interruption_also_for_who_leaves_already() -> None:
    leave = LeaveSignal(25.0, lambda: 1_000 * 10**9)
    leave.leave("max_memory")
    assert leave.leave("drain")
    assert (leave.why, leave.interrupt_at) == ("drain", 1_000 - 2.0)
    assert not leave.leave("drain")
    assert leave.interrupt_at == 998.0


def test_without_a_board_deadline_the_drain_begins_now() -> None:
    before = time.monotonic()
    leave = LeaveSignal(1.0, lambda: 0)
    leave.leave("drain")
    assert leave.interrupt_at is not None
    assert before <= leave.interrupt_at - 1.0 + before_deadline(1.0, 2.0) <= time.monotonic()


def test_an_unbounded_drain_interrupts_nobody() -> None:
    leave = LeaveSignal(None, lambda: 5)
    assert leave.leave("drain")
    assert leave.interrupt_at is None


# --- explaining -----------------------------------------------------------------------------------------------------


class Missing(WorkerApp):
    q = Queue[int]("jobs")

    @q.handler
    def use(self, number: int, ctx: Context) -> None:
        if number:
            raise AttributeError("elsewhere")
        print(self.http)  # type: ignore[attr-defined]


class OnLoop(Missing):
    @asynccontextmanager
    async def alifespan(self, slot: Slot) -> Any:
        self.http = 1
        yield


class InProcess(Missing):
    @contextmanager
    def lifespan(self, slot: Slot) -> Any:
        yield


@pytest.mark.parametrize(
    ("app", "payload", "explained"),
    [
        (OnLoop, b"0", True),
        (InProcess, b"0", False),
        (Missing, b"0", False),
        (OnLoop, b"1", False),
        (OnLoop, b"x", False),
    ],
)
def test_what_only_alifespan_opens_is_explained_to_a_sync_handler(
    app: type[Missing], payload: bytes, explained: bool
) -> None:
    executor = an_executor(app())
    attempt = executor.attempt(a_lease(payload))
    executor.run(attempt)
    text = explain_missing(executor.app, attempt)
    expected = "self.http does not exist: alifespan() is not entered for sync handlers; open it in lifespan()"
    assert text == (expected if explained else "")


def test_resident_memory() -> None:
    assert 2**20 < resident() < 2**40


def test_a_stack_whose_lines_cannot_be_had_does_not_end_who_looks_at_it() -> None:
    """Python asks the loader of a module for them, and passes on what that raises."""

    class Broken:
        def get_source(self, name: str) -> str:
            raise ValueError(name)

    names: dict[str, Any] = {"__name__": "generated", "__loader__": Broken(), "sys": sys}
    exec(compile("def f(): return sys._getframe()", "made-by-no-file", "exec"), names)
    frame = names["f"]()
    with pytest.raises(ValueError, match="generated"):
        traceback.format_stack(frame)
    assert base.stack_of(frame) == ""
    assert base._where(frame, "made-by-no-file") == "made-by-no-file:1"
