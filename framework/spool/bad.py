"""Files in bad/: what is wrong with each, and the way back of one that can be read (again)."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from framework.spool import frame, ids, names
from framework.spool.clock import Clock
from framework.spool.disk import Disk
from framework.spool.layout import QueueDir
from framework.spool.recover import linked

START = 4096  # bytes of a file that a person is shown
PLANTED, GONE = "not a regular file", "is no longer there"


def look(disk: Disk, path: str) -> tuple[str, bytes]:
    """Return what is wrong with a file, "" where it can be read, and how it begins."""
    start = b""
    try:
        with _opened(disk, path) as (fd, found):
            start = disk.calls.pread(fd, START, 0)
            frame.read(lambda n, at: disk.calls.pread(fd, n, at), found.st_size)
    except frame.Damaged as error:
        return str(error), start
    except OSError as error:
        return os.strerror(error.errno or 0), start
    return "", start


def restore(disk: Disk, clock: Clock, queue: QueueDir, path: str, home: Callable[[str], QueueDir]) -> str:
    """Put a file back among the jobs of its queue, in the place of its name; "" or why not. Raises OSError.

    Args:
        home: directories of a queue, which has the ids of its jobs.
    """
    try:
        with _opened(disk, path) as (fd, found):
            _, job = frame.read(lambda n, at: disk.calls.pread(fd, n, at), found.st_size)
    except FileNotFoundError:
        return GONE
    except frame.Damaged as error:
        return f"cannot be read: {error}"
    name = names.parse(os.path.basename(path)) or names.first(job, clock.stamp(), names.tails.next())
    name = name._replace(chosen=job.chosen_id)
    target = queue.waiting(name, clock.micros())
    if not name.chosen:
        return "" if disk.move(path, target) else GONE
    ids_of = home(job.queue)
    try:
        with ids.locked(disk, ids.directory(ids_of, job.id)):
            if not linked(disk, ids_of, path, job.id, found.st_ino):
                return f"is job {job.id!r}, and another job has that id"
            return "" if disk.move(path, target) else GONE
    except ids.IdBusy:
        return f"is job {job.id!r}, whose lock is held: try again"


@contextmanager
def _opened(disk: Disk, path: str) -> Iterator[tuple[int, os.stat_result]]:
    """Give descriptor and state of a regular file. Raises Damaged: it is something else; OSError."""
    try:
        with disk.opened(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK) as fd:
            found = disk.calls.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                raise frame.Damaged(PLANTED)
            yield fd, found
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            raise frame.Damaged(PLANTED) from None
        raise
