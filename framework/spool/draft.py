"""A job's file in tmp. The `flock` on it, or on the directory of its batch, says that its writer lives."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass

from framework.job import Job
from framework.spool import flocks, names
from framework.spool.blanks import Blank
from framework.spool.clock import Clock
from framework.spool.disk import Disk
from framework.spool.layout import QueueDir
from framework.spool.names import Name

CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Gone(Exception):
    """A draft vanished before its rename: somebody outside the protocol took it."""


@dataclass(slots=True)
class Draft:
    """A file that this process writes, and later where it was published.

    Attributes:
        fd: open and locked; -1: closed, or one of a batch.
        prepared: it was made ahead, see `blanks`.
        entry: the link of its id, where the caller chose that; None: not linked.
    """

    job: Job
    name: Name
    path: str
    fd: int = -1
    prepared: bool = False
    entry: str | None = None


def create(disk: Disk, queue: QueueDir, clock: Clock, *, chosen: bool = False) -> Blank:
    """An empty locked file in tmp; only its name says whether its id was chosen. Raises OSError."""
    while True:
        name = Name(clock.stamp(), names.tails.next(), chosen=chosen)
        path = queue.path("tmp", name)
        try:
            fd = flocks.keep(disk.calls.open(path, CREATE, 0o600, dir_fd=disk.fd))
        except FileNotFoundError:  # somebody has removed the queue's directory, under a producer that lives long
            if not disk.mkdir(f"{queue.base}/tmp"):
                raise
            continue
        try:
            # A recoverer that saw the file between open and flock takes it for a dead writer's and unlinks it.
            if flocks.take(disk.calls, fd) and (found := disk.calls.fstat(fd)).st_nlink > 0:
                return Blank(name, path, fd, found.st_ino)
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
