"""A file in tmp that becomes a job's or a segment. The `flock` on it says that its writer lives."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from framework.engine.spool.disk import flocks
from framework.engine.spool.disk.disk import Disk
from framework.engine.spool.disk.layout import QueueDir
from framework.engine.spool.format.names import Name, SegmentName
from framework.model.job import Job

CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Gone(Exception):
    """A draft vanished before its rename: somebody outside the protocol took it."""


@dataclass(slots=True)
class Draft:
    """A file that this process writes, and later where it was published.

    Attributes:
        job: in it, or the first one. name: that it has in tmp.
        fd: open and locked; -1: closed.
        entry: the link of its id, where the caller chose that; None: not linked.
    """

    job: Job
    name: Name | SegmentName
    path: str
    fd: int = -1
    entry: str | None = None


def create(disk: Disk, queue: QueueDir, job: Job, name_one: Callable[[], Name | SegmentName]) -> Draft:
    """An empty locked file in tmp. Raises OSError.

    Args:
        name_one: makes a name that nobody has had.
    """
    while True:
        name = name_one()
        path = queue.path("tmp", name)
        try:
            fd = flocks.keep(disk.calls.open(path, CREATE, 0o600, dir_fd=disk.fd))
        except FileNotFoundError:  # somebody has removed the queue's directory, under a producer that lives long
            if not disk.mkdir(f"{queue.base}/tmp"):
                raise
            continue
        try:
            # A recoverer that saw the file between open and flock takes it for a dead writer's and unlinks it.
            if flocks.take(disk.calls, fd) and disk.calls.fstat(fd).st_nlink > 0:
                return Draft(job, name, path, fd)
        except OSError:
            with contextlib.suppress(OSError):
                disk.unlink(path)
            flocks.drop(disk.calls, fd)
            raise
        flocks.drop(disk.calls, fd)


def place(disk: Disk, source: str, target: str) -> None:
    """Renames; the common case is one call, as the target is new and has no twin to look for. Raises OSError, Gone."""
    try:
        disk.rename(source, target)
    except FileNotFoundError:  # a new bucket, mostly
        if not disk.move(source, target):
            raise Gone(f"{source} vanished before its rename") from None


def close(disk: Disk, drafts: Sequence[Draft]) -> None:
    """Lets their locks go. Idempotent."""
    for draft in drafts:
        if draft.fd >= 0:
            flocks.drop(disk.calls, draft.fd)
            draft.fd = -1
