"""Signals as a queue, and events as facts that nobody can disturb."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from framework.model.events import Event, JobsClaimed
from framework.process.signals import SignalQueue, drain, poke, reset_in_child
from framework.runner.bus import Bus

LONG = 30.0  # seconds; a wait that is not ended by an event fails by the test's own timeout


@pytest.fixture
def signals() -> Iterator[SignalQueue]:
    before = signal.getsignal(signal.SIGUSR1), signal.getsignal(signal.SIGUSR2)
    queue = SignalQueue((signal.SIGUSR1, signal.SIGUSR2))
    yield queue
    queue.close()
    assert (signal.getsignal(signal.SIGUSR1), signal.getsignal(signal.SIGUSR2)) == before
    assert signal.set_wakeup_fd(-1) == -1


def take_all(queue: SignalQueue) -> list[signal.Signals]:
    taken = []
    while (number := queue.take()) is not None:
        taken.append(number)
    return taken


def test_signals_come_in_order_and_end_a_wait(signals: SignalQueue) -> None:
    for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGUSR1):
        signal.raise_signal(number)
    assert signals.wait(LONG) == []
    assert take_all(signals) == [signal.SIGUSR1, signal.SIGUSR2, signal.SIGUSR1]
    assert signals.take() is None


def test_a_signal_during_the_wait_ends_it(signals: SignalQueue) -> None:
    timer = threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGUSR2))
    timer.start()
    assert signals.wait(LONG) == []
    timer.join()
    assert take_all(signals) == [signal.SIGUSR2]


def test_a_signal_not_taken_yet_keeps_the_wait_short(signals: SignalQueue) -> None:
    signal.raise_signal(signal.SIGUSR1)
    for _ in range(3):
        assert signals.wait(LONG) == []
    assert len(take_all(signals)) == 1


def test_a_byte_on_the_waker_ends_a_wait_once(signals: SignalQueue) -> None:
    poke(signals.waker)
    poke(signals.waker)
    assert signals.wait(LONG) == []
    assert signals.wait(0.0) == []
    assert signals.take() is None


def test_other_descriptors_are_told_apart(signals: SignalQueue) -> None:
    pipes = [os.pipe() for _ in range(2)]
    try:
        os.write(pipes[1][1], b"x")
        signal.raise_signal(signal.SIGUSR1)
        os.write(pipes[0][1], b"x")
        take_all(signals)
        readers = [pipes[0][0], pipes[1][0]]
        assert signals.wait(LONG, *readers) == readers
        os.read(readers[0], 1)
        assert signals.wait(LONG, *readers) == [readers[1]]
    finally:
        for descriptor in (descriptor for pipe in pipes for descriptor in pipe):
            os.close(descriptor)


def test_poke_fills_no_pipe_for_ever() -> None:
    reader, writer = os.pipe2(os.O_NONBLOCK)
    for _ in range(100_000):
        poke(writer)
    drain(reader)
    poke(writer)
    assert os.read(reader, 10) == b"\0"
    os.close(reader)
    poke(writer)
    os.close(writer)


def test_a_child_forgets_its_parents_handlers(signals: SignalQueue) -> None:
    pid = os.fork()
    if pid == 0:
        reset_in_child()
        defaults = all(signal.getsignal(n) == signal.SIG_DFL for n in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT))
        os._exit(7 if defaults and signal.set_wakeup_fd(-1) == -1 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    assert take_all(signals) == []


def test_a_subscriber_that_fails_disturbs_nobody() -> None:
    seen: list[Event] = []

    def fail(event: Event) -> None:
        raise RuntimeError

    bus = Bus(fail, seen.append)
    bus.subscribe(fail)
    bus.subscribe(seen.append)
    event = JobsClaimed("q", 1, 0.1)
    bus.emit(event)
    assert seen == [event, event]
    assert bus.errors == 2
