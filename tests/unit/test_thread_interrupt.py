"""Soft timeouts of handlers in threads: raised in the handler's own code, once, and in no other job."""

from __future__ import annotations

import logging
import os
import random
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import FrameType
from typing import Any

import pytest

from framework import JobInterrupted
from framework.worker.interrupts.thread_interrupt import Call, Limits, ThreadInterrupts
from tests.support.processes import wait_until
from tests.unit.helpers import a_lease

Make = Callable[..., ThreadInterrupts]


@pytest.fixture
def make() -> Iterator[Make]:
    made: list[ThreadInterrupts] = []

    def interrupts(timeout: float | None, **options: Any) -> ThreadInterrupts:
        given = {name: options.pop(name) for name in ("hung_after", "patience") if name in options}
        made.append(ThreadInterrupts(Limits(timeout, **given), **options))
        return made[-1]

    yield interrupts
    for one in made:
        one.close()


def in_thread(act: Callable[[], Any]) -> BaseException | Any:
    """Return what it gave or raised."""
    ends: list[Any] = []

    def live() -> None:
        try:
            ends.append(act())
        except BaseException as error:
            ends.append(error)

    thread = threading.Thread(target=live)
    thread.start()
    thread.join(30)
    assert ends, "nobody interrupted"
    return ends[0]


def spin() -> None:
    end = time.monotonic() + 30
    while time.monotonic() < end:
        pass


def nap() -> None:
    for _ in range(3000):
        time.sleep(0.01)


@pytest.mark.parametrize("handler", [spin, nap])
def test_timeout(make: Make, handler: Callable[[], None]) -> None:
    interrupts = make(0.05)
    error = in_thread(lambda: interrupts.call(handler))
    assert isinstance(error, JobInterrupted)
    assert (error.why, str(error), type(error).__qualname__) == ("timeout", "timeout", "JobInterrupted")


def test_results_and_errors_pass(make: Make) -> None:
    interrupts = make(60)
    assert interrupts.call(lambda a, b: a + b, 1, 2) == 3
    for error in (KeyError("x"), SystemExit(3)):
        with pytest.raises(type(error)) as raised:
            interrupts.call(fail_with, error)
        assert raised.value is error


def fail_with(error: BaseException) -> None:
    raise error


def test_each_of_many_has_its_own_moment(make: Make) -> None:
    interrupts = make(1.5)
    with ThreadPoolExecutor(8) as pool:
        late = [pool.submit(interrupts.call, nap) for _ in range(4)]
        early = [pool.submit(interrupts.call, time.sleep, 0.01) for _ in range(100)]
        assert [one.result() for one in early] == [None] * 100
        assert all(isinstance(one.exception(), JobInterrupted) for one in late)


def test_a_call_into_c_is_interrupted_when_it_returns(make: Make) -> None:
    said: list[Call] = []
    interrupts = make(0.05, on_hung=lambda call, frame: said.append(call), hung_after=0.1)

    def handler() -> str:
        time.sleep(1.5)
        return "not interrupted"

    assert isinstance(in_thread(lambda: interrupts.call(handler)), JobInterrupted)
    assert len(said) == 1, "meanwhile it counts as hung"


def test_one_that_swallows_it_is_hung_and_interrupted_once(make: Make) -> None:
    said: list[str] = []
    enough = threading.Event()

    def hung(call: Call, frame: FrameType | None) -> None:
        assert frame is not None
        said.append(frame.f_code.co_name)
        threading.Timer(0.3, enough.set).start()  # in which a second one would come

    interrupts = make(0.05, on_hung=hung, hung_after=0.1)
    caught: list[BaseException] = []

    def handler() -> str:
        end = time.monotonic() + 30
        while not (caught and said and enough.is_set()) and time.monotonic() < end:
            try:
                nap_shortly()
            except BaseException as error:
                caught.append(error)
        return "at last"

    assert in_thread(lambda: interrupts.call(handler)) == "at last"
    assert len(caught) == 1
    assert len(said) == 1


def nap_shortly() -> None:
    time.sleep(0.01)


def test_a_drain_interrupts_what_runs_and_what_begins_later(make: Make) -> None:
    moment: list[float | None] = [None]
    interrupts = make(60, drain_at=lambda: moment[0])
    threading.Timer(0.1, lambda: (moment.__setitem__(0, time.monotonic()), interrupts.look())).start()
    for _ in range(2):
        error = in_thread(lambda: interrupts.call(spin))
        assert isinstance(error, JobInterrupted)
        assert error.why == "draining"


def test_interrupt_all(make: Make) -> None:
    interrupts = make(None)
    threading.Timer(0.1, interrupts.interrupt_all).start()
    error = in_thread(lambda: interrupts.call(spin))
    assert isinstance(error, JobInterrupted)
    assert error.why == "draining"


def test_time_for_which_the_tree_stood_still_does_not_count(make: Make) -> None:
    """The clock jumps by an hour, and the supervisor says so a moment later."""
    jump = [0.0]
    interrupts = make(10, now=lambda: time.monotonic() + jump[0])

    def handler() -> str:
        jump[0] = 3600
        interrupts.look()
        time.sleep(0.2)
        jump[0] = 0
        time.sleep(0.8)
        return "in time"

    assert in_thread(lambda: interrupts.call(handler)) == "in time"


def test_a_late_alarm_interrupts_when_the_supervisor_says_nothing(make: Make) -> None:
    jump = [0.0]
    interrupts = make(10, now=lambda: time.monotonic() + jump[0], patience=0.2)

    def handler() -> None:
        jump[0] = 3600
        interrupts.look()
        spin()

    assert isinstance(in_thread(lambda: interrupts.call(handler)), JobInterrupted)


def test_never_the_next_job_nor_our_own_code(make: Make) -> None:
    """Handlers that end about when their time does. Whatever comes late is taken back, or the handler's end stands."""
    interrupts = make(0.003)
    ends = {"result": 0, "interrupted": 0}

    def lane(seed: int) -> None:
        choices = random.Random(seed)
        for _ in range(400):
            began = time.monotonic()
            try:
                assert interrupts.call(busy, choices.uniform(0.002, 0.004)) == "ended"
                ends["result"] += 1
            except JobInterrupted:
                assert time.monotonic() - began >= 0.003, "an interruption of the job before"
                ends["interrupted"] += 1
            for _ in range(50):  # what the executor does between two jobs
                time.monotonic()

    errors: list[BaseException] = []

    def live(seed: int) -> None:
        try:
            lane(seed)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=live, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert errors == []
    assert ends["interrupted"] > 50
    assert sum(ends.values()) == 1600


def busy(seconds: float) -> str:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0)
    return "ended"


def test_no_lock_stays_locked_and_no_exit_is_skipped(make: Make) -> None:
    """Handlers that are inside logging, a Condition and a context manager for much of their time."""
    astray: list[int] = []
    interrupts = make(0.004, on_astray=lambda: astray.append(1))
    log = logging.Logger("interrupted")
    log.addHandler(logging.StreamHandler(open(os.devnull, "w")))
    conditions, entered, left = [threading.Condition() for _ in range(4)], [0] * 4, [0] * 4

    class Scope:
        def __init__(self, lane: int) -> None:
            self.lane = lane

        def __enter__(self) -> None:
            entered[self.lane] += 1

        def __exit__(self, *_: object) -> None:
            sum(range(50))
            left[self.lane] += 1

    def handler(lane: int) -> None:
        while True:
            with conditions[lane]:
                log.warning("held %d", lane)
            with Scope(lane):
                log.warning("inside")
            for _ in range(10_000):
                pass

    def live(lane: int) -> None:
        for _ in range(20):
            with pytest.raises(JobInterrupted):
                interrupts.call(handler, lane)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(live, range(4)))
    assert all(in_thread(lambda one=one: one.acquire(timeout=5)) is True for one in conditions)
    assert in_thread(lambda: log.handlers[0].lock.acquire(timeout=5)) is True  # type: ignore[union-attr]
    # Between the call of `__enter__` and the block, the handler's own code may be interrupted, as everywhere.
    assert all(0 <= began - ended <= 20 for began, ended in zip(entered, left, strict=True))
    assert astray == []


def test_a_handler_that_gives_the_interpreter_away_inside_logging_only(make: Make) -> None:
    interrupts = make(0.01)
    log = logging.Logger("interrupted")
    log.addHandler(logging.StreamHandler(open(os.devnull, "w")))

    def handler() -> None:
        while True:
            for _ in range(20_000):  # less than a turn of the interpreter
                pass
            log.warning("a line")

    interval = sys.getswitchinterval()
    assert isinstance(in_thread(lambda: interrupts.call(handler)), JobInterrupted)
    assert wait_until(lambda: sys.getswitchinterval() == interval, 10), "the interpreter's own interval comes back"


def test_a_call_into_c_that_fails_may_skip_an_exit_and_that_is_told(make: Make) -> None:
    astray: list[int] = []
    interrupts = make(0.05, on_astray=lambda: astray.append(1))
    condition = threading.Condition()

    def handler() -> None:
        one, _other = socket.socketpair()
        one.settimeout(0.3)
        with condition:
            one.recv(1)

    assert isinstance(in_thread(lambda: interrupts.call(handler)), JobInterrupted)
    assert astray == [1]


def test_a_child_that_comes_back_ends_there(make: Make) -> None:
    interrupts = make(60)
    pid = in_thread(lambda: interrupts.call(os.fork))
    assert pid > 0
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_a_lost_lease_stops_the_call_that_is_for_it_and_a_call_that_goes_on_still_counts_as_hung(make: Make) -> None:
    lost, other, hung = a_lease(), a_lease(), threading.Event()
    interrupts = make(0.2, hung_after=0.05, on_hung=lambda call, frame: hung.set())
    seen: list[str] = []

    def job() -> str:
        interrupts.lose(other)
        interrupts.lose(lost)
        try:
            spin()
        except JobInterrupted as interrupted:
            seen.append(interrupted.why)
        interrupts.lose(lost)
        assert hung.wait(30), "it goes on after its soft timeout"
        return "done"

    assert in_thread(lambda: interrupts.call(job, lease=lost)) == "done"
    assert seen == ["lease_lost"]
