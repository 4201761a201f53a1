"""Files prepared for jobs that come one by one: one page of zeros each, written and durable.

A new file is durable with a commit of the journal, which flushes the disk twice. Overwriting blocks that are allocated
and written needs no commit: `fdatasync` flushes once. So a producer that enqueues often makes thirty-two files at once,
with one commit, after the job that has used the last one up: that job is on its way already.

Each is a draft like any other: locked, in tmp, under a name of its own. What a dead producer leaves of them is no whole
job, and recovery removes it.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from framework.spool import flocks
from framework.spool.disk import Disk
from framework.spool.names import Name

PAGE = 4096  # bytes: a longer job gets a file of its own
BATCH = 32
WORTH = 8  # jobs one by one within a second, from which on it pays
MOST_KEPT = 128  # locked descriptors of this process, all queues together: a process may have few


@dataclass(slots=True)
class Blank:
    """An open, locked file in tmp, and its inode."""

    name: Name
    path: str
    fd: int
    inode: int


class Blanks:
    """Of one queue in one process. Any thread may call.

    Args:
        create: makes an empty draft. Raises OSError.
    """

    def __init__(self, disk: Disk, create: Callable[[], Blank]) -> None:
        self._disk = disk
        self._create = create
        self._ready: list[Blank] = []
        self._times: deque[float] = deque(maxlen=WORTH)  # monotonic, of the last jobs that came alone
        self._making = False
        self._batch = BATCH
        flocks.in_child(self)

    def after_fork(self) -> None:
        """They are the parent's; their descriptors are closed here already."""
        self._ready, self._making = [], False

    def take(self) -> Blank | None:
        """One to overwrite; None: there is none."""
        while self._ready:
            try:
                blank = self._ready.pop()
            except IndexError:  # another thread was faster
                return None
            if self._is_ours(blank):
                return blank
        return None

    def _is_ours(self, blank: Blank) -> bool:
        """Code that closes all descriptors of its process leaves us numbers that are soon somebody else's files."""
        try:
            found = self._disk.calls.fstat(blank.fd)
            if (found.st_ino, found.st_size) == (blank.inode, PAGE):
                return found.st_nlink > 0  # else somebody has removed it
        except OSError:
            pass
        flocks.forget(blank.fd)
        return False

    def begin(self) -> list[Blank]:
        """After a job that came alone: new ones, not durable yet, if the last is used up and they are worth it.

        Else, and where the disk refuses, none.
        """
        self._times.append(time.monotonic())
        if self._ready or self._making or not self._worth():
            return []
        self._making = True  # two threads that both come here make twice as many, which does no harm
        made: list[Blank] = []
        try:
            for _ in range(self._batch):
                blank = self._create()
                made.append(blank)
                self._disk.write_all(blank.fd, bytes(PAGE))
        except OSError:
            self.drop(made)
            return []
        return made

    def _worth(self) -> bool:
        """On btrfs an overwritten page moves, which is as dear as a new file."""
        if not self._disk.power or self._disk.forgetful or flocks.kept() > MOST_KEPT:
            return False
        return len(self._times) == WORTH and self._times[-1] - self._times[0] <= 1.0

    def keep(self, made: list[Blank]) -> None:
        """They are durable."""
        self._ready += made
        self._making = False

    def drop(self, blanks: list[Blank]) -> None:
        """Removes them; what cannot be removed is left to recovery."""
        self._making = False
        for blank in blanks:
            with contextlib.suppress(OSError):
                self._disk.unlink(blank.path)
            flocks.drop(self._disk.calls, blank.fd)

    def close(self) -> None:
        """Removes all. Idempotent."""
        blanks, self._ready = self._ready, []
        self.drop([blank for blank in blanks if self._is_ours(blank)])
