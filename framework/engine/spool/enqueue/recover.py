"""The recovery of files that a dead producer left in tmp.

A whole job is enqueued, a torn one is removed, and a whole file that is not a possible job moves to bad/. A living
producer holds the `flock` on the file that it writes, or on its batch, so a lock that is free shows that it is dead.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from typing import Literal

from framework.engine import flocks
from framework.engine.calls import HAS_SYNCFS
from framework.engine.spool.disk.clock import Clock
from framework.engine.spool.disk.disk import DIRECTORY, Disk
from framework.engine.spool.disk.layout import QueueDir
from framework.engine.spool.enqueue import ids, keys
from framework.engine.spool.format import job_file, names
from framework.engine.spool.segments import mending
from framework.model.job import Job

# The result for a file in tmp: it is in use by its writer or by another recovery, it was promoted, or it is gone.
Recovery = Literal["busy", "promoted", "gone"]
_TRIES = 50


def recover_all(disk: Disk, clock: Clock, queue: QueueDir, entry: str) -> int:
    """Recover an entry of tmp: a file, a segment or a batch. Return how many jobs were enqueued. Raises OSError."""
    if names.segment(entry) is not None:
        return mending.recover(disk, queue, entry)
    if names.BATCH.fullmatch(entry):
        return _recover_batch(disk, clock, queue, entry)
    return recover(disk, clock, queue, entry) == "promoted"


def _recover_batch(disk: Disk, clock: Clock, queue: QueueDir, batch: str) -> int:
    path = queue.path("tmp", batch)
    try:
        fd = flocks.keep(disk.open(path, DIRECTORY))
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return 0
        raise
    try:
        here = disk.stat(path) if flocks.take(disk.calls, fd) else None
        if here is None or here.st_ino != disk.calls.fstat(fd).st_ino:
            return 0  # its writer lives, or has renamed it since the listing
        found = sorted(filter(names.parse, disk.calls.listdir(fd)))
        synced = disk.power and HAS_SYNCFS
        if synced and found:
            disk.calls.syncfs(disk.fd)
        done = [recover(disk, clock, queue, f"{batch}/{entry}", synced=synced) for entry in found]
        disk.rmdir(path)
        return done.count("promoted")
    finally:
        flocks.drop(disk.calls, fd)
        disk.reserve()


def recover(
    disk: Disk, clock: Clock, queue: QueueDir, entry: str, *, id_locked: bool = False, synced: bool = False
) -> Recovery:
    """Recover one file in tmp. Raises OSError.

    Args:
        entry: the file's name, after that of its batch where it has one.
        id_locked: the caller holds the lock of the id in this file.
        synced: the content of the file is durable.
    """
    name = names.parse(os.path.basename(entry))
    if name is None:
        return "gone"
    path = queue.path("tmp", entry)
    try:
        fd = flocks.keep(disk.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK))
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP, errno.ENXIO):
            return "gone"
        raise
    try:
        if not flocks.take(disk.calls, fd):
            return "busy"
        found, here = disk.calls.fstat(fd), disk.stat(path)
        if here is None or here.st_ino != found.st_ino or not stat.S_ISREG(found.st_mode):
            return "gone"  # the writer has renamed it since the listing, or another process has recovered it
        try:
            job = job_file.content(disk, fd, found.st_size)[1]
        except job_file.Impossible:
            disk.move(path, queue.path("bad", name))
            return "gone"
        except job_file.Damaged:
            disk.unlink(path)
            return "gone"
        if not synced:  # its writer may not have flushed it, and an enqueue with the same id is confirmed because of it
            disk.sync(fd)
        return _promote(disk, clock, queue, path, name, job, found.st_ino, id_locked)
    finally:
        flocks.drop(disk.calls, fd)
        disk.reserve()


def _promote(
    disk: Disk, clock: Clock, queue: QueueDir, path: str, was: names.Name, job: Job, inode: int, id_locked: bool
) -> Recovery:
    name = names.first(job, was.stamp, was.tail)._replace(other=was.other)
    target = queue.waiting(name, clock.micros())
    entry = keys.entry_of(queue, job)
    if not entry or id_locked:
        return "promoted" if disk.move(path, target) else "gone"
    try:
        with ids.locked(disk, os.path.dirname(entry), wait=0.05):
            if job.chosen_id:
                mine = linked(disk, queue, path, job.id, inode)
            else:
                mine = keys.take(disk, clock, queue, path, entry, inode)
            if mine:
                return "promoted" if disk.move(path, target) else "gone"
            disk.unlink(path)  # another job has the id or key: the enqueue of this one was never confirmed
            return "gone"
    except ids.IdBusy:
        return "busy"


def linked(disk: Disk, queue: QueueDir, path: str, job_id: str, inode: int) -> bool:
    """Return whether the id belongs to this file. Raises OSError.

    Where the producer was killed between write and link, this function links the id. The caller holds the id's lock.
    """
    entry = ids.entry(queue, job_id)
    for _ in range(4):  # three turns remove a stale entry, link ours, and see it; one is spare
        found = disk.stat(entry)
        if found is None:
            disk.link(path, entry)
        elif found.st_ino == inode:
            return True
        elif ids.is_taken(disk, queue, job_id, found):
            now = disk.stat(entry)  # the file's entry was lost, and the look for the id's job has found this very file
            return now is not None and now.st_ino == inode
    return False


def holder(disk: Disk, clock: Clock, queue: QueueDir, job: Job) -> str | None:
    """Return, under the lock, the id of the job that has this one's chosen id or holds its unique key.

    None: there is none, and an entry that such a job has left behind is removed. A living writer of a linked file holds
    this lock. We hold it, so the writer of a linked file in tmp is dead: that file is the original, and is recovered
    first. Raises OSError, IdBusy.
    """
    path = keys.entry_of(queue, job)
    for _ in range(_TRIES):
        found = disk.stat(path)
        if found is None:
            return None
        original = _in_tmp(disk, queue, found) if found.st_nlink > 1 else None
        if original is None:
            return _holder(disk, clock, queue, job, found)
        what = recover(disk, clock, queue, original, id_locked=True)
        if what == "promoted" and job.chosen_id:
            return job.id
        if what == "busy":  # another recovery has the file and waits for the lock that we hold; it gives up first
            time.sleep(0.005)
    raise ids.IdBusy(path)


def _holder(disk: Disk, clock: Clock, queue: QueueDir, job: Job, found: os.stat_result) -> str | None:
    if job.chosen_id:
        return job.id if ids.is_taken(disk, queue, job.id, found) else None
    path = keys.entry_of(queue, job)
    holds = keys.holder(disk, clock, queue, path, found)
    if holds is None:
        disk.unlink(path)
    return None if holds is None else holds.id


def _in_tmp(disk: Disk, queue: QueueDir, wanted: os.stat_result) -> str | None:
    for name in disk.listdir(f"{queue.base}/tmp"):
        found = disk.stat(queue.path("tmp", name))
        if found is not None and found.st_ino == wanted.st_ino:
            return name
    return None
