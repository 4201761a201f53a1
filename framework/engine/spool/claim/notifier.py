"""A notifier per queue, never the truth: a FIFO in the queue's directory. Whoever waits also looks from time to time.

AF_UNIX paths end at 107 bytes and inotify instances are few; a FIFO has neither limit. Both sides open it for reading
and writing, so that there is no EPIPE and no SIGPIPE, and no open that waits for the other side.
"""

from __future__ import annotations

import contextlib
import os
import select
import stat
import time
from collections.abc import Sequence

from framework.engine.spool.disk import flocks
from framework.engine.spool.disk.disk import Disk
from framework.engine.spool.disk.layout import QueueDir

LOOK = 10.0  # seconds between two looks whether many notifiers that are listened to still hang
_OPEN = os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW


class Waker:
    """Ends a wait from another thread or from a signal handler: a pipe to ourselves."""

    def __init__(self) -> None:
        self._pipe: tuple[int, int] | None = None
        flocks.in_child(self)

    def open(self) -> None:
        """Idempotent. Raises OSError."""
        if self._pipe is None:
            self._pipe = os.pipe()
            for fd in self._pipe:
                os.set_blocking(fd, False)

    def after_fork(self) -> None:
        """The child gets a pipe of its own."""
        if self._pipe is not None:
            self.close()
            self.open()

    def wake(self) -> None:
        """Ends the wait that is under way, or the next one."""
        pipe = self._pipe
        if pipe is not None:
            with contextlib.suppress(OSError):  # full: it is awake as can be; or a handler has closed it
                os.write(pipe[1], b"\0")

    def fileno(self) -> int:
        """To poll; -1 when closed."""
        return self._pipe[0] if self._pipe is not None else -1

    def clear(self) -> None:
        """Forgets the calls so far."""
        if self._pipe is not None:
            try:
                os.read(self._pipe[0], 4096)
            except BlockingIOError:
                return

    def close(self) -> None:
        """Idempotent."""
        pipe, self._pipe = self._pipe, None  # first: wake() may come at any moment
        for fd in pipe or ():
            with contextlib.suppress(OSError):  # a handler has closed it
                os.close(fd)


class Notifier:
    """The notifier of one queue. Something else at its place (a planted file) makes it silent, not wrong."""

    def __init__(self, disk: Disk, queue: QueueDir) -> None:
        self._disk = disk
        self._path = queue.notifier
        self._fd: int | None = None
        self._identity = (0, 0)  # of the open file: a handler that closes descriptors may give the number to another

    def _open(self) -> int | None:
        found = _state(self._fd) if self._fd is not None else None
        if found is None or (found.st_dev, found.st_ino) != self._identity:
            self._fd = None
        elif found.st_nlink == 0:
            self.close()  # somebody has removed it, and may have made another
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
        """Wakes who waits. Never raises."""
        fd = self._open()
        if fd is not None:
            try:
                os.write(fd, b"\1")
            except OSError:
                return  # full: enough to wake everybody

    def poll(self, poll: select.poll) -> int | None:
        """Add the notifier to what a waiter listens to; return its descriptor, None: it is silent."""
        fd = self._open()
        if fd is not None:
            poll.register(fd, select.POLLIN)
        return fd

    def hangs_at(self, fd: int) -> bool:
        """Return whether this descriptor still is the notifier's: a read of another file would take what is in it."""
        found = _state(fd)
        return fd == self._fd and found is not None and (found.st_dev, found.st_ino) == self._identity

    def close(self) -> None:
        """Idempotent."""
        fd, self._fd = self._fd, None
        if fd is not None:
            with contextlib.suppress(OSError):  # a handler has closed it
                os.close(fd)


def wait(notifiers: Sequence[Notifier], waker: Waker, seconds: float) -> tuple[bool, Sequence[Notifier]]:
    """Return (woken, the notifiers that rang) after at most so many seconds.

    All rings so far are taken, also those meant for other waiters: who then finds more jobs than it takes rings on.
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
            with contextlib.suppress(OSError):  # another waiter was faster; it was for us all the same
                os.read(number, 65536)
    return woken, rang


class Listener:
    """`wait` for many notifiers: they are registered once, and looked after now and then."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self._listening: dict[int, Notifier] = {}
        self._known: set[Notifier] = set()
        self._waker = -1
        self._renew_at = 0.0

    def __call__(self, notifiers: Sequence[Notifier], waker: Waker, seconds: float) -> tuple[bool, Sequence[Notifier]]:
        """Return (woken, the notifiers that rang), as `wait`."""
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
                with contextlib.suppress(OSError):  # another waiter was faster; it was for us all the same
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
