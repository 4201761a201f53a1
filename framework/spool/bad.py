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


def look(disk: Disk, path: str) -> tuple[str, bytes]:
    """Return what is wrong with a file, "" where it can be read, and how it begins."""
    start = b""
    try:
        with _opened(disk, path) as (fd, size):
            start = disk.calls.pread(fd, START, 0)
            frame.read(lambda n, at: disk.calls.pread(fd, n, at), size)
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
        with _opened(disk, path) as (fd, size):
            _, job = frame.read(lambda n, at: disk.calls.pread(fd, n, at), size)
            inode = disk.calls.fstat(fd).st_ino
    except FileNotFoundError:
        return "is no longer there"
    except frame.Damaged as error:
        return f"cannot be read: {error}"
    name = names.parse(os.path.basename(path)) or names.first(job, clock.stamp(), names.tails.next())
    name = name._replace(chosen=job.chosen_id)
    if not name.chosen:
        return _move(disk, path, queue.waiting(name, clock.micros()))
    ids_of = home(job.queue)
    try:
        with ids.locked(disk, ids.directory(ids_of, job.id)):
            if not linked(disk, ids_of, path, job.id, inode):
                return f"is job {job.id!r}, and another job has that id"
            return _move(disk, path, queue.waiting(name, clock.micros()))
    except ids.IdBusy:
        return f"is job {job.id!r}, whose lock is held: try again"


@contextmanager
def _opened(disk: Disk, path: str) -> Iterator[tuple[int, int]]:
    """Give descriptor and size of a regular file; nothing else is opened. Raises Damaged, OSError."""
    found = disk.stat(path)
    if found is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
    if not stat.S_ISREG(found.st_mode):
        raise frame.Damaged("not a regular file")
    with disk.opened(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK) as fd:
        yield fd, found.st_size


def _move(disk: Disk, path: str, target: str) -> str:
    if not disk.move(path, target):
        return "is no longer there"
    disk.sync_dir(os.path.dirname(target))
    return ""
