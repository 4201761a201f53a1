"""Reading of job files. Whatever else is at the path, reading follows no link and does not block."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from framework.engine.spool.disk.disk import Disk
from framework.engine.spool.format import frame
from framework.model.job import Job

PLANTED = (errno.ELOOP, errno.ENXIO, errno.ENODEV, errno.ESPIPE, errno.EISDIR)


class Planted(frame.Damaged):
    """An error: the path is a link, a directory, a pipe or a socket."""

    def __init__(self) -> None:
        super().__init__("not a regular file")


@contextmanager
def opened(disk: Disk, path: str) -> Iterator[tuple[int, os.stat_result]]:
    """Open a regular file; yield its descriptor and state. Raises Planted, OSError."""
    try:
        with disk.opened(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK) as fd:
            found = disk.calls.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                raise Planted
            yield fd, found
    except OSError as error:
        if error.errno in PLANTED:
            raise Planted from None
        raise


def content(disk: Disk, fd: int, size: int) -> tuple[frame.Layout, Job]:
    """Return the layout of an open file of this size, and its job. Raises Damaged, OSError."""
    return frame.read(lambda length, offset: disk.calls.pread(fd, length, offset), size)


def read(disk: Disk, path: str) -> tuple[Job, os.stat_result]:
    """Return the job in a file, and the file's state. Raises Damaged, OSError."""
    with opened(disk, path) as (fd, found):
        return content(disk, fd, found.st_size)[1], found


def job_in(disk: Disk, path: str) -> Job | None:
    """Return the job in a file; None: the file is gone, has no job, or needs a newer reader. Raises OSError."""
    try:
        return read(disk, path)[0]
    except (frame.Damaged, frame.Newer, FileNotFoundError):
        return None
