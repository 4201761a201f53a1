"""The notifier of a queue: a FIFO in the queue's directory that wakes waiting workers.

A notification may be lost, so a waiting worker also looks from time to time. AF_UNIX paths end at 107 bytes and inotify
instances are few; a FIFO has neither limit. Both sides open it for reading and writing, so that there is no EPIPE and
no SIGPIPE, and no `open` waits for the other side.
"""

from __future__ import annotations

import contextlib
import os
import select
import stat
import time
from collections.abc import Sequence

from framework.engine import flocks
from framework.engine.spool.disk.disk import Disk
from framework.engine.spool.disk.layout import QueueDir

LOOK = 10.0  # seconds after which a listener to many notifiers registers them anew: a FIFO may have been replaced
_OPEN = os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW


class Waker:
    """A pipe to the own process with which another thread or a signal handler ends a wait."""

    def __init__(self) -> None:
        self._pipe: tuple[int, int] | None = None
        flocks.in_child(self)

    def open(self) -> None:
        """Open the pipe, if it is not open. Raises OSError."""
        if self._pipe is None:
            self._pipe = os.pipe()
            for fd in self._pipe:
                os.set_blocking(fd, False)

    def after_fork(self) -> None:
        """Give a forked child a pipe of its own."""
        if self._pipe is not None:
            self.close()
            self.open()

    def wake(self) -> None:
        """End the wait that is under way, or the next one."""
        pipe = self._pipe
        if pipe is not None:
            with contextlib.suppress(OSError):  # the pipe is full, which wakes as well; or a handler has closed it
                os.write(pipe[1], b"\0")

    def fileno(self) -> int:
        """Return the descriptor to poll, -1 when closed."""
        return self._pipe[0] if self._pipe is not None else -1

    def clear(self) -> None:
        """Discard the wake-ups so far."""
        if self._pipe is not None:
            try:
                os.read(self._pipe[0], 4096)
            except BlockingIOError:
                return

    def close(self) -> None:
        """Close the pipe, if it is open."""
        pipe, self._pipe = self._pipe, None  # first of all: wake() may come at any moment
        for fd in pipe or ():
            with contextlib.suppress(OSError):  # a handler has closed it
                os.close(fd)


class Notifier:
    """The notifier of one queue. Where its path is not a FIFO (a planted file), it does nothing and raises nothing."""

    def __init__(self, disk: Disk, queue: QueueDir) -> None:
        self._disk = disk
        self._path = queue.notifier
        self._fd: int | None = None
        # Device and inode of the open file: a handler may close the descriptor and open another file under its number.
        self._identity = (0, 0)

    def _open(self) -> int | None:
        found = _state(self._fd) if self._fd is not None else None
        if found is None or (found.st_dev, found.st_ino) != self._identity:
            self._fd = None
        elif found.st_nlink == 0:
            self.close()  # the FIFO was removed, and another may be in its place
        if self._fd is None:
            try:
                fd = os.open(self._path, _OPEN | os.O_CLOEXEC, dir_fd=self._disk.fd)
            except OSError:
                return None
            found = os.fstat(fd)
            if not stat.S_ISFIFO(found.st_mode):
                os.close(fd)
                return None
            self._fd, self._identity = fd, (found.st_dev, found.st_ino)
        return self._fd

    def ring(self) -> None:
        """Wake the workers that wait. Never raises."""
        fd = self._open()
        if fd is not None:
            try:
                os.write(fd, b"\1")
            except OSError:
                return  # full: that wakes all waiters already

    def poll(self, poll: select.poll) -> int | None:
        """Register the notifier for a wait and return its descriptor, or None if there is no FIFO."""
        fd = self._open()
        if fd is not None:
            poll.register(fd, select.POLLIN)
        return fd

    def hangs_at(self, fd: int) -> bool:
        """Return whether a descriptor still is the notifier's: reading another file would take its content away."""
        found = _state(fd)
        return fd == self._fd and found is not None and (found.st_dev, found.st_ino) == self._identity

    def close(self) -> None:
        """Close the FIFO, if it is open."""
        fd, self._fd = self._fd, None
        if fd is not None:
            with contextlib.suppress(OSError):  # a handler has closed it
                os.close(fd)


def wait(notifiers: Sequence[Notifier], waker: Waker, seconds: float) -> tuple[bool, Sequence[Notifier]]:
    """Wait at most `seconds`. Return whether the waker ended the wait, and the notifiers that were notified.

    This reads all notifications so far, also those meant for other waiters: a waiter that then finds more jobs than it
    takes must notify again.
    """
    poll = select.poll()
    poll.register(waker.fileno(), select.POLLIN)
    listening = {notifier.poll(poll): notifier for notifier in notifiers}
    ready = [number for number, _ in poll.poll(max(0.0, seconds) * 1000)]
    woken, rang = False, []
    for number in ready:
        if number == waker.fileno():
            woken = True
            waker.clear()
        else:
            rang.append(listening[number])
            with contextlib.suppress(OSError):  # another waiter has read it; the notification was for all
                os.read(number, 65536)
    return woken, rang


class Listener:
    """A `wait` for many notifiers, which registers them once and then only renews them from time to time."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self._listening: dict[int, Notifier] = {}
        self._known: set[Notifier] = set()
        self._waker = -1
        self._renew_at = 0.0

    def __call__(self, notifiers: Sequence[Notifier], waker: Waker, seconds: float) -> tuple[bool, Sequence[Notifier]]:
        """Wait, and return the same as `wait`."""
        if time.monotonic() >= self._renew_at or waker.fileno() != self._waker or self._known != set(notifiers):
            self._renew(notifiers, waker)
        woken, rang = False, []
        for number, _ in self._poll.poll(max(0.0, seconds) * 1000):
            notifier = self._listening.get(number)
            if number == self._waker:
                woken = True
                waker.clear()
            elif notifier is not None and notifier.hangs_at(number):
                rang.append(notifier)
                with contextlib.suppress(OSError):  # another waiter has read it; the notification was for all
                    os.read(number, 65536)
            else:
                self._renew_at = 0.0  # a handler has closed it, and may have opened another file in its place
        return woken, rang

    def _renew(self, notifiers: Sequence[Notifier], waker: Waker) -> None:
        self._poll, self._waker, self._known = select.poll(), waker.fileno(), set(notifiers)
        self._poll.register(self._waker, select.POLLIN)
        self._listening = {fd: notifier for notifier in notifiers if (fd := notifier.poll(self._poll)) is not None}
        self._renew_at = time.monotonic() + LOOK


def _state(fd: int) -> os.stat_result | None:
    try:
        return os.fstat(fd)
    except OSError:  # a handler has closed it
        return None
