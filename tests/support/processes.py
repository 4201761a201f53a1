"""Processes as the kernel sees them: whether one lives, a signal to it, and waiting for what it does."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable

from framework.process.scoreboard import SlotState, process_start
from framework.process.scoreboard.processes import stat_of


def alive(pid: int, start: int | None = None) -> bool:
    """Return whether a process runs; a zombie does not."""
    fields = stat_of(pid)
    return bool(fields) and fields[0] not in "ZX" and (start is None or int(fields[19]) == start)


def send(pid: int, start: int, number: signal.Signals) -> bool:
    """Send a signal to one life of a process, never to a stranger who has its pid by now. False: it is gone."""
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        if process_start(pid) != start:
            return False
        signal.pidfd_send_signal(descriptor, number)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def kill(slot: SlotState) -> bool:
    """Send SIGKILL to the process that a board names, a child of our own supervisor. False: it is gone already."""
    return send(slot.pid, slot.pid_start, signal.SIGKILL)


def wait_until(happened: Callable[[], object], seconds: float, pause: float = 0.02) -> bool:
    """Look until something has happened. False: it has not."""
    end = time.monotonic() + seconds
    while not happened():
        if time.monotonic() > end:
            return False
        time.sleep(pause)
    return True


def readable(fd: int, seconds: float | None) -> bool:
    """Return whether something can be read within so many seconds; None: wait for ever.

    `select.select` takes descriptors below 1,024 only, and a process of tests has higher ones.
    """
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(None if seconds is None else seconds * 1000))
