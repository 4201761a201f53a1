"""The notifier of a queue, a FIFO in the queue's directory that wakes waiting workers, and the claims that wait for it.

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
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING

from framework.engine import flocks
from framework.engine.spool.claim.listing import FEW
from framework.engine.spool.disk.disk import Disk
from framework.engine.spool.disk.layout import QueueDir
from framework.model.errors import EngineUnavailable
from framework.model.job import Lease

if TYPE_CHECKING:
    from framework.engine.spool.store import Parts

LONGEST_WAIT = 5.0  # seconds, as the contract says
LOOK_EVERY = 20.0  # seconds between two looks at one of many queues that is not notified
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


class Listener:
    """A wait for the notifications of several queues."""

    def __init__(self, waker: Waker) -> None:
        self._waker = waker
        self._poll = select.poll()
        self._listening: dict[int, Notifier] = {}
        self._known: set[Notifier] = set()
        self._waker_at = -1
        self._renew_at = 0.0

    def __call__(
        self, notifiers: Sequence[Notifier], seconds: float, *, keep: float = 0.0
    ) -> tuple[bool, Collection[Notifier]]:
        """Wait at most `seconds`. Return whether the waker ended the wait, and the notifiers that were notified.

        This reads all notifications so far, also those meant for other waiters: a waiter that then finds more jobs than
        it takes must notify again.

        Args:
            keep: seconds for which the notifiers stay registered, where they are many.
        """
        now, at = time.monotonic(), self._waker.fileno()
        if not keep or now >= self._renew_at or at != self._waker_at or self._known != set(notifiers):
            self._poll, self._waker_at, self._known = select.poll(), at, set(notifiers)
            self._poll.register(at, select.POLLIN)
            self._listening = {fd: notifier for notifier in notifiers if (fd := notifier.poll(self._poll)) is not None}
            self._renew_at = now + keep
        woken, rang = False, []
        for number, _ in self._poll.poll(max(0.0, seconds) * 1000):
            notifier = self._listening.get(number)
            if number == at:
                woken = True
                self._waker.clear()
            elif notifier is not None and notifier.hangs_at(number):
                rang.append(notifier)
                with contextlib.suppress(OSError):  # another waiter has read it; the notification was for all
                    os.read(number, 65536)
            else:
                self._renew_at = 0.0  # a handler has closed it, and may have opened another file in its place
        return woken, rang


class Claims:
    """The claims of one process on its queues: each looks for due jobs first, then waits on all notifiers at once.

    With few queues, every claim looks at all of them. With many, it looks at those that were notified, that had jobs at
    the last look, or where a job is due; it looks at the others now and then, and maintenance notifies where jobs lie.
    """

    def __init__(self, waker: Waker, unavailable: Callable[[str, OSError], EngineUnavailable]) -> None:
        self._unavailable = unavailable
        self._listen = Listener(waker)
        self._look_at: dict[Parts, float] = {}  # with many queues: when to look at each, also without a notification

    def __call__(self, parts: Sequence[Parts], limit: int, wait: float) -> list[Lease]:
        """Return up to `limit` leases, waiting for the first. Raises EngineUnavailable."""
        many = len(parts) > FEW
        keep = LOOK if many else 0.0
        deadline = time.monotonic() + min(wait, LONGEST_WAIT)
        notifiers = [part.notifier for part in parts]
        woken, rang = self._listen(notifiers, 0, keep=keep) if many else (False, ())
        leases = self._look(parts, limit, rang, first=True)
        while not (leases or woken) and (left := deadline - time.monotonic()) > 0:
            woken, rang = self._listen(notifiers, min(left, self._patience(parts)), keep=keep)
            if not (woken or rang) and time.monotonic() >= deadline:
                break  # no notification came; the next claim begins with a look
            leases = self._look(parts, limit, rang)
        return leases

    def _patience(self, parts: Sequence[Parts]) -> float:
        """Return the seconds until the next look, if no notification comes first."""
        if len(parts) <= FEW:
            return min(part.patience() for part in parts)
        return max(0.001, min(self._look_at.get(part, 0.0) for part in parts) - time.monotonic())

    def _look(
        self, parts: Sequence[Parts], limit: int, rang: Collection[Notifier], *, first: bool = False
    ) -> list[Lease]:
        """Claim from one queue after the other; of many queues, from those that may have a job.

        Args:
            rang: the notifiers that this process has read. The notifications were for other waiters, too: where jobs
                are left, this method notifies again.
            first: the look comes before the first wait.
        """
        leases: list[Lease] = []
        failed: tuple[Parts, OSError] | None = None
        began = time.monotonic()  # queues that are looked at together have their next look together, too
        if len(parts) > FEW:
            now, look_at = time.monotonic(), self._look_at
            parts = [part for part in parts if now >= look_at.get(part, 0.0) or part.notifier in rang]
        for part in parts:
            found: list[Lease] = []
            error: OSError | None = None
            called = part.notifier in rang
            if (room := limit - len(leases)) > 0:
                found, error = self._from(part, room)
                leases += found
                failed = failed or (None if error is None else (part, error))
            more = found or error is not None or room <= 0  # more jobs may be there
            self._look_at[part] = 0.0 if more else min(began + LOOK_EVERY, time.monotonic() + part.patience())
            if (called or not first) if found and len(part.listing) else called and room <= 0:
                part.notifier.ring()
        if failed is not None and not leases:
            part, error = failed
            raise self._unavailable(f"claiming from {part.queue.name!r}", error) from error
        return leases

    @staticmethod
    def _from(part: Parts, limit: int) -> tuple[list[Lease], OSError | None]:
        """Promote due jobs, then claim. Return the leases, and the error that ended the claim early.

        Due jobs come first, as they are older. Where they cannot be moved (a full disk), ready jobs are still claimed.
        """
        part.promote.soon(limit, patient=False)
        leases = part.claim(limit)
        moved = 0
        while not (leases or moved):
            moved = part.promote.soon(limit, patient=True)
            if not (moved or part.promote.looking):
                break
            leases = part.claim(limit)  # also between the steps of a look
        return leases, part.claim.error or part.promote.error


def _state(fd: int) -> os.stat_result | None:
    try:
        return os.fstat(fd)
    except OSError:  # a handler has closed it
        return None
