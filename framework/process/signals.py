"""A queue of signals: a handler only queues the signal, and the loop acts on it. For the process's main thread."""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections import deque
from collections.abc import Iterable
from types import FrameType
from typing import Final

# The signal by which the supervisor asks a process for its stacks before a kill: one that services do not use, where
# the system has such signals.
BLACK_BOX: Final[int] = int(signal.SIGRTMAX) - 3 if hasattr(signal, "SIGRTMAX") else int(signal.SIGUSR1)
# All handlers that a parent may have set up and that a child must not inherit.
RESET = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGALRM,
    signal.SIGCHLD,
    signal.SIGQUIT,
    BLACK_BOX,
)


class SignalQueue:
    """A queue of the given signals; a signal ends `wait`, which also watches other descriptors.

    The write end is the interpreter's wakeup descriptor, so that a signal just before poll() still ends it.
    """

    def __init__(self, signals: Iterable[signal.Signals]) -> None:
        self._pending: deque[signal.Signals] = deque()
        self._reader, self.waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC) if hasattr(os, "pipe2") else _pipe()
        self._previous_fd = signal.set_wakeup_fd(self.waker, warn_on_full_buffer=False)
        self._previous = {number: signal.signal(number, self._queue) for number in signals}

    def _queue(self, number: int, frame: FrameType | None) -> None:
        self._pending.append(signal.Signals(number))

    def wait(self, timeout: float, *others: int) -> list[int]:
        """Sleep until a signal, a byte on `waker`, a readable descriptor of `others`, or `timeout` seconds.

        Returns the readable descriptors of `others`.
        """
        poll = select.poll()  # select() takes no descriptor above 1023
        for fd in (self._reader, *others):
            poll.register(fd, select.POLLIN)
        ready = {fd for fd, _ in poll.poll(0 if self._pending else max(0.0, timeout) * 1000)}
        if self._reader in ready:
            drain(self._reader)
        return [fd for fd in others if fd in ready]

    def take(self) -> signal.Signals | None:
        """Remove and return the oldest signal in the queue; None: it is empty."""
        return self._pending.popleft() if self._pending else None

    def close(self, ignored: Iterable[signal.Signals] = ()) -> None:
        """Restore the handlers and the wakeup descriptor that were set before.

        Args:
            ignored: signals that the kernel ignores from now on, in a process that is about to end. Python handlers
                would be reset to the default when the interpreter ends.
        """
        signal.set_wakeup_fd(self._previous_fd)
        for number, handler in self._previous.items():
            signal.signal(number, signal.SIG_IGN if number in ignored else handler)
        os.close(self._reader)
        os.close(self.waker)


def _pipe() -> tuple[int, int]:
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    return reader, writer


def drain(reader: int) -> None:
    """Empty a non-blocking pipe."""
    with contextlib.suppress(BlockingIOError):
        while os.read(reader, 4096):
            pass


def poke(writer: int) -> None:
    """Write one byte into a non-blocking pipe. If it is full, its reader is awake already; if it is closed, it has no
    reader."""
    with contextlib.suppress(BlockingIOError, BrokenPipeError):
        os.write(writer, b"\0")


def ignore(*numbers: signal.Signals) -> None:
    """Ignore signals in this process only. A handler that does nothing ends at an exec, but SIG_IGN would also apply in
    every subprocess of a job."""
    for number in numbers:
        signal.signal(number, _nothing)
        signal.siginterrupt(number, False)


def _nothing(number: int, frame: FrameType | None) -> None: ...


def reset_in_child() -> None:
    """Reset signals to their defaults in a child, before anything there can be interrupted.

    This includes signals that were ignored where the service was started (nohup, a shell's `&`), and those that Python
    ignores.
    """
    signal.set_wakeup_fd(-1)
    ignored = {number for number in signal.valid_signals() if signal.getsignal(number) is signal.SIG_IGN}
    for number in {*RESET, *ignored}:
        signal.signal(number, signal.SIG_DFL)
    ignore(signal.SIGPIPE, signal.SIGXFSZ)  # a write to a broken pipe is an error, as usual in Python
