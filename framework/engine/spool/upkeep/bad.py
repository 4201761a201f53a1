"""The files in bad/: this module tells what is wrong with each, and restores those that can be read."""

from __future__ import annotations

import os
from collections.abc import Callable

from framework.engine.spool.disk.clock import Clock
from framework.engine.spool.disk.disk import Disk
from framework.engine.spool.disk.layout import QueueDir
from framework.engine.spool.enqueue import ids, keys
from framework.engine.spool.enqueue.recover import linked
from framework.engine.spool.format import job_file, names
from framework.engine.spool.segments import mending
from framework.model.extras import NONE, Extras

START = 4096  # bytes of a file's beginning that are shown to a person
GONE = "is no longer there"


def look(disk: Disk, path: str) -> tuple[str, bytes, Extras]:
    """Return what is wrong with a file ("" if it can be read), its first bytes, and its extras if it has any."""
    start = b""
    try:
        if names.segment(os.path.basename(path)) is not None:
            with job_file.opened(disk, path) as (fd, _):
                start = disk.calls.pread(fd, START, 0)
            return mending.flaw(disk, path), start, NONE
        with job_file.opened(disk, path) as (fd, found):
            start = disk.calls.pread(fd, START, 0)
            _, job = job_file.content(disk, fd, found.st_size)
    except job_file.Damaged as error:
        return str(error), start, NONE
    except OSError as error:
        return error.strerror or str(error), start, NONE
    return "", start, job.extras


def restore(disk: Disk, clock: Clock, queue: QueueDir, path: str, home: Callable[[str], QueueDir]) -> str:
    """Put a file back among the jobs of its queue, in the place of its name. Return "", or why it cannot be done.

    Args:
        home: returns the directories of a job's home queue, where its id is stored.

    Raises OSError.
    """
    try:
        if names.segment(os.path.basename(path)) is not None:
            return mending.restore(disk, queue, path)
        job, found = job_file.read(disk, path)
    except FileNotFoundError:
        return GONE
    except job_file.Damaged as error:
        return f"cannot be read: {error}"
    name = names.parse(os.path.basename(path)) or names.first(job, clock.stamp(), names.tails.next())
    name = name._replace(chosen=job.chosen_id)
    target = queue.waiting(name, clock.micros())
    if not name.chosen:
        keys.take_again(disk, clock, home(job.queue), path, name, found.st_ino)
        return "" if disk.move(path, target) else GONE
    ids_of = home(job.queue)
    try:
        with ids.locked(disk, ids.directory(ids_of, job.id)):
            if not linked(disk, ids_of, path, job.id, found.st_ino):
                return f"is job {job.id!r}, and another job has that id"
            return "" if disk.move(path, target) else GONE
    except ids.IdBusy:
        return f"is job {job.id!r}, whose lock is held: try again"
