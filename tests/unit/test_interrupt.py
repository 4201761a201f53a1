"""Soft timeouts of sync handlers: raised in the handler's own code, and nowhere else."""

from __future__ import annotations

import contextlib
import logging
import signal
import sys
import time
import traceback
from asyncio import CancelledError
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest

from framework import JobInterrupted
from framework.worker.interrupts.interrupt import Interrupts, invoke, where
from tests.unit.helpers import a_lease


@pytest.fixture(autouse=True)
def restore_alarm() -> Iterator[None]:
    """pytest-timeout uses the same signal and timer."""
    handler, (left, _) = signal.getsignal(signal.SIGALRM), signal.getitimer(signal.ITIMER_REAL)
    yield
    signal.setitimer(signal.ITIMER_REAL, left)
    signal.signal(signal.SIGALRM, handler)


def spin() -> None:
    end = time.monotonic() + 30
    while time.monotonic() < end:
        pass
    raise AssertionError("nobody interrupted")


# --- where ----------------------------------------------------------------------------------------------------------


def in_module(name: str | None, source: str, **names: Any) -> Callable[..., Any]:
    """A function `f` whose globals say that it belongs to that module."""
    namespace: dict[str, Any] = {"__name__": name, "sys": sys, **names}
    exec(source, namespace)
    found: Callable[..., Any] = namespace["f"]
    return found


def frame_here() -> FrameType:
    return sys._getframe()


CALL = "def f(): return g()"


@pytest.mark.parametrize(
    ("module", "source", "open_"),
    [
        ("services.relay", CALL, True),
        (None, CALL, True),
        ("logging_utils", CALL, True),
        ("frameworks.other", CALL, True),
        ("requests.sessions", CALL, True),
        ("logging", CALL, False),
        ("logging.handlers", CALL, False),
        ("framework.service.queues", CALL, False),
        ("opentelemetry.sdk.trace", CALL, False),
        ("structlog._base", CALL, False),
        ("threading", CALL, False),
        ("contextlib", CALL, False),
        ("services.x", "def __exit__(): return g()\nf = __exit__", False),
        ("services.x", "def __aexit__(): return g()\nf = __aexit__", False),
        ("services.x", "def __del__(): return g()\nf = __del__", False),
        ("services.x", "def __enter__(): return g()\nf = __enter__", True),
    ],
)
def test_closed_code(module: str | None, source: str, open_: bool) -> None:
    """Also where the handler's own code, called back from the closed one, is innermost."""
    handler = in_module(module, source, g=frame_here)
    assert where(invoke(handler)) == (True, open_)


def test_no_handler_runs() -> None:
    assert where(sys._getframe()) == (False, True)
    assert where(None) == (False, True)


def test_the_border_itself_is_not_inside() -> None:
    frame = invoke(frame_here).f_back
    assert frame is not None
    assert frame.f_code is invoke.__code__
    assert where(frame) == (False, True)


# --- real alarms ----------------------------------------------------------------------------------------------------


def test_timeout() -> None:
    with pytest.raises(JobInterrupted) as interrupted:
        Interrupts(0.01).call(spin)
    assert interrupted.value.why == "timeout"
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


def test_a_result_and_an_error_pass() -> None:
    interrupts = Interrupts(60)
    assert interrupts.call(lambda a, b: a + b, 1, 2) == 3
    with pytest.raises(KeyError):
        interrupts.call({}.__getitem__, "x")


def test_quick_jobs_share_one_timer_and_each_has_its_own_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    armed: list[float] = []
    arm = signal.setitimer

    def count(which: int, seconds: float) -> tuple[float, float]:
        armed.append(seconds)
        return arm(which, seconds)

    monkeypatch.setattr(signal, "setitimer", count)
    interrupts = Interrupts(1)
    for _ in range(100):
        interrupts.call(lambda: None)
    assert len(armed) == 1
    began = time.monotonic()
    with pytest.raises(JobInterrupted):
        interrupts.call(spin)
    assert time.monotonic() - began >= 1, "not at the moment of the first job's alarm"


@pytest.mark.parametrize("seconds", [0, 100])
def test_a_handler_that_uses_the_timer_for_itself(seconds: float) -> None:
    interrupts = Interrupts(0.2)
    interrupts.call(lambda: signal.setitimer(signal.ITIMER_REAL, seconds))
    interrupts.keep_timer()
    with pytest.raises(JobInterrupted):
        interrupts.call(spin)


def test_a_timer_that_nobody_touched_is_let_be(monkeypatch: pytest.MonkeyPatch) -> None:
    interrupts = Interrupts(60)
    interrupts.call(lambda: None)
    monkeypatch.setattr(signal, "setitimer", pytest.fail)
    interrupts.keep_timer()


@pytest.mark.parametrize("error", [SystemExit(0), KeyboardInterrupt(), CancelledError()])
def test_an_exit_by_a_signal_handler_of_the_job(error: BaseException) -> None:
    """Told to leave, and our own handler has not been called: the job's own has, and ended it so."""

    def handler() -> None:
        raise error

    with pytest.raises(JobInterrupted, match="draining"):
        Interrupts(60, must_leave=lambda: True).call(handler)
    with pytest.raises(type(error)):
        Interrupts(60).call(handler)


def test_once_per_job_so_that_a_handler_can_clean_up() -> None:
    seen = []

    def handler() -> str:
        try:
            spin()
        except JobInterrupted as interrupted:
            seen.append(interrupted.why)
            end = time.monotonic() + 0.03  # several times the timeout
            while time.monotonic() < end:
                pass
        return "cleaned up"

    interrupts = Interrupts(0.005)
    assert interrupts.call(handler) == "cleaned up"
    assert interrupts.call(handler) == "cleaned up"
    assert seen == ["timeout", "timeout"]


def test_no_timeout_sets_no_timer() -> None:
    signal.setitimer(signal.ITIMER_REAL, 0)
    assert Interrupts(None).call(lambda: signal.getitimer(signal.ITIMER_REAL)[0]) == 0


def test_except_exception_does_not_swallow_it() -> None:
    def handler() -> None:
        with contextlib.suppress(Exception):
            spin()

    with pytest.raises(JobInterrupted):
        Interrupts(0.01).call(handler)


def test_drain() -> None:
    interrupts = Interrupts(60)
    interrupts.drain_at(time.monotonic() + 0.01)
    with pytest.raises(JobInterrupted) as interrupted:
        interrupts.call(spin)
    assert interrupted.value.why == "draining"


def test_a_drain_that_is_due_before_the_handlers_first_frame_is_not_lost() -> None:
    """The alarm comes at once, while `call` is still on its way in."""
    for _ in range(50):
        interrupts = Interrupts(None)
        interrupts.drain_at(time.monotonic() - 1)
        with pytest.raises(JobInterrupted):
            interrupts.call(spin)


def test_the_earlier_of_timeout_and_drain_comes_first() -> None:
    interrupts = Interrupts(0.01)
    interrupts.drain_at(time.monotonic() + 60)
    with pytest.raises(JobInterrupted) as interrupted:
        interrupts.call(spin)
    assert interrupted.value.why == "timeout"


def test_a_lost_lease_stops_the_handler_that_runs_for_it_once_and_no_other() -> None:
    interrupts, lost, other = Interrupts(60), a_lease(), a_lease()
    seen: list[str] = []

    def job() -> None:
        interrupts.lose(other)  # it has ended, or has not begun
        try:
            interrupts.lose(lost)
            spin()
        except JobInterrupted as interrupted:
            seen.append(interrupted.why)
        interrupts.lose(lost)  # said once a second until the job ends: it may need time to clean up
        raise ConnectionError("cannot clean up")

    interrupts.lease = lost
    with pytest.raises(JobInterrupted, match="lease_lost"):
        interrupts.call(job)
    assert seen == ["lease_lost"]
    interrupts.lease = other
    interrupts.lose(lost)
    assert interrupts.call(lambda: "done") == "done"


def test_a_lease_that_is_lost_before_the_handlers_first_frame_is_not_forgotten() -> None:
    interrupts, lost = Interrupts(60), a_lease()
    interrupts.lease = lost
    interrupts.lose(lost)
    with pytest.raises(JobInterrupted, match="lease_lost"):
        interrupts.call(spin)


def test_no_alarm_outside_a_handler() -> None:
    interrupts = Interrupts(60)
    interrupts.drain_at(time.monotonic() + 0.001)
    end = time.monotonic() + 0.02
    while time.monotonic() < end:
        pass


class Locked:
    """Code that must not be interrupted, in a module that counts as closed."""

    def __init__(self) -> None:
        self.inside = 0
        namespace: dict[str, Any] = {"__name__": "logging.handlers", "guard": self}
        source = "def emit():\n    guard.inside += 1\n    for _ in range(3000): pass\n    guard.inside -= 1\n"
        exec(source, namespace)
        self.emit: Callable[[], None] = namespace["emit"]


def test_a_storm_of_timeouts_leaves_nothing_half_done(caplog: pytest.LogCaptureFixture) -> None:
    locked, log = Locked(), logging.getLogger("tests.storm")

    def handler() -> None:
        end = time.monotonic() + 30
        while time.monotonic() < end:
            locked.emit()
            log.info("x")
            for _ in range(3000):  # the part that may be interrupted
                pass

    caplog.set_level(logging.INFO)
    for number in range(60):
        with pytest.raises(JobInterrupted) as interrupted:
            Interrupts(0.0005 + number % 7 * 0.0003).call(handler)
        assert locked.inside == 0
        names = [frame.f_globals["__name__"] for frame, _ in traceback.walk_tb(interrupted.tb)]
        assert not any(name.startswith("logging") for name in names)
        caplog.clear()
