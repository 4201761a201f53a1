"""Temp files: files in tmp that become job files or segments. The `flock` on one shows that its writer lives."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from framework.engine import flocks
from framework.engine.spool.disk.disk import Disk
from framework.engine.spool.disk.layout import QueueDir
from framework.engine.spool.format.names import Name, SegmentName
from framework.model.job import Job

CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Gone(Exception):
    """An error: a temp file vanished before its rename, removed by something outside the protocol."""


@dataclass(slots=True)
class Draft:
    """A temp file that this process writes and then publishes.

    Attributes:
        job: the job in it, or the first one. name: its name in tmp.
        path: where it is now, relative to the root.
        fd: descriptor, open and locked; -1: closed.
        entry: the link of its id, where the caller chose that; None: not linked.
    """

    job: Job
    name: Name | SegmentName
    path: str
    fd: int = -1
    entry: str | None = None


def create(disk: Disk, queue: QueueDir, job: Job, name_one: Callable[[], Name | SegmentName]) -> Draft:
    """Make an empty locked file in tmp. Raises OSError.

    Args:
        name_one: makes a name that was never used before.
    """
    while True:
        name = name_one()
        path = queue.path("tmp", name)
        try:
            fd = flocks.keep(disk.calls.open(path, CREATE, 0o600, dir_fd=disk.fd))
        except FileNotFoundError:  # the queue's directory was removed while this producer was running
            if not disk.mkdir(f"{queue.base}/tmp"):
                raise
            continue
        try:
            # A recovery that sees the file between open and flock takes its writer for dead, and unlinks the file.
            if flocks.take(disk.calls, fd) and disk.calls.fstat(fd).st_nlink > 0:
                return Draft(job, name, path, fd)
        except OSError:
            with contextlib.suppress(OSError):
                disk.unlink(path)
            flocks.drop(disk.calls, fd)
            raise
        flocks.drop(disk.calls, fd)


def place(disk: Disk, source: str, target: str) -> None:
    """Rename a temp file into place, mostly in one call, as a new target has no twin. Raises OSError, Gone."""
    try:
        disk.rename(source, target)
    except FileNotFoundError:  # a new bucket, mostly
        if not disk.move(source, target):
            raise Gone(f"{source} vanished before its rename") from None


def close(disk: Disk, drafts: Sequence[Draft]) -> None:
    """Close temp files, which frees their locks. Idempotent."""
    for draft in drafts:
        if draft.fd >= 0:
            flocks.drop(disk.calls, draft.fd)
            draft.fd = -1
