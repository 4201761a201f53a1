"""Unique keys: while a job holds its key, another job of its queue with the key is not stored.

`ids/<xx>/<hash>.key`, the entry of a key, is a hard link to the file of the job that took the key last. It does not say
that this job still holds the key: that follows from where the job's file is, or from its time where the key is held for
a time. So no step takes a key from a job. One that starts, ends or becomes a dead letter holds none from that moment,
and what waits again holds it again; a process that is killed leaves nothing to repair. The entry is removed when its
job ends, so that the next enqueue need not look for a file. What `ids` says of locks, backups and restores holds here.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from base64 import urlsafe_b64decode
from collections.abc import Callable
from itertools import chain

from framework.engine.spool.disk.clock import Clock
from framework.engine.spool.disk.disk import Disk
from framework.engine.spool.disk.layout import QueueDir
from framework.engine.spool.enqueue import ids
from framework.engine.spool.format import job_file, names
from framework.engine.spool.format.names import Name
from framework.model.job import Job

END = ".key"


def entry(queue: QueueDir, key_hash: str) -> str:
    """Return the path of a key's entry."""
    digest = urlsafe_b64decode(key_hash).hex()
    return f"{queue.base}/ids/{digest[:2]}/{digest}{END}"


def entry_of(queue: QueueDir, job: Job) -> str:
    """Return the path of the entry for a job's chosen id or unique key; "": it has neither."""
    if job.chosen_id:
        return ids.entry(queue, job.id)
    key = job.extras.unique_key
    return "" if key is None else entry(queue, names.key_hash(key))


def entry_that_ends(queue: QueueDir, name: Name, job_id: str) -> str:
    """Return the path of the entry that is removed with a job; "": there is none. That of a key for a time stays."""
    if name.chosen:
        return ids.entry(queue, job_id)
    return entry(queue, name.key) if name.key else ""


def leave(disk: Disk, home: QueueDir, name: Name | None, job_id: str, inode: int, act: Callable[[], bool]) -> bool:
    """Delete a job's file, or move it away, by `act`, with the entry that ends with the job; see `ids.leave`.

    Args:
        home: the job's home queue. name: of the file; None: it is a bad one, which has no entry.
    """
    return ids.leave(disk, "" if name is None else entry_that_ends(home, name, job_id), inode, act)


def holder(disk: Disk, clock: Clock, queue: QueueDir, path: str, here: os.stat_result) -> Job | None:
    """Return, under the lock, the job that holds the key of an entry; None: the key is free. Raises OSError, IdBusy.

    Args:
        here: the result of a `stat` of the entry.
    """
    if not stat.S_ISREG(here.st_mode):
        return None
    try:
        job, found = job_file.read(disk, path)
    except job_file.Planted:  # it is a file, as we know: this is an error of the disk
        raise OSError(errno.EIO, os.strerror(errno.EIO), path) from None
    except job_file.Damaged:
        return None
    if job.queue != queue.name or entry_of(queue, job) != path:  # a foreign file
        return None
    if job.extras.window is not None:
        return job if _is_within_its_time(job, clock) else None
    if found.st_nlink > 1:
        there = ids.looked_for(disk, path, found, lambda inode: _path(disk, queue, job, inode))
        return job if there is not None and is_held_at(queue, job, there) else None
    copy = _copy(disk, queue, job) or _copy(disk, queue, job)  # it may have moved
    if copy:
        ids.replace(disk, copy, path)
    return job if copy else None


def waiting_at(disk: Disk, queue: QueueDir, entry: str) -> str | None:
    """Return, under the lock, the path of the file that an entry leads to, if it is ready or delayed.

    Raises OSError, IdBusy.
    """
    job, found = job_file.read(disk, entry)
    if ids.is_cut_off(disk, entry):
        return None
    path = ids.looked_for(disk, entry, found, lambda inode: _path(disk, queue, job, inode))
    return path if path is not None and _state_of(queue, path) in ("ready", "delayed") else None


def take(disk: Disk, clock: Clock, queue: QueueDir, path: str, entry: str, inode: int) -> bool:
    """Give, under the lock, a key to the job in this file, unless another job holds it; return whether the job has it.

    Raises OSError, IdBusy.
    """
    for _ in range(3):
        taken = disk.stat(entry)
        if taken is None:
            if disk.link(path, entry):
                return True
        elif taken.st_ino == inode:
            return True
        elif holder(disk, clock, queue, entry, taken) is not None:
            return False
        else:
            disk.unlink(entry)
    return False


def take_again(disk: Disk, clock: Clock, queue: QueueDir, path: str, name: Name, inode: int) -> None:
    """Give a key back to a job that is to wait again. Where another holds it, or its lock, the job goes without it.

    Raises OSError.
    """
    if not name.key:
        return
    path_of_key = entry(queue, name.key)
    with contextlib.suppress(ids.IdBusy, FileNotFoundError), ids.locked(disk, os.path.dirname(path_of_key)):
        take(disk, clock, queue, path, path_of_key, inode)


def is_over(disk: Disk, clock: Clock, path: str) -> bool:
    """Return whether an entry of a key without another name is of no use any more. Raises OSError."""
    job = job_file.job_in(disk, path)
    return job is None or job.extras.window is None or not _is_within_its_time(job, clock)


def is_held_at(queue: QueueDir, job: Job, path: str) -> bool:
    """Return whether a job that has its key would hold it while its file is at this path."""
    return path.startswith(f"{queue.base}/") and _holds(job, _state_of(queue, path))


def _is_within_its_time(job: Job, clock: Clock) -> bool:
    return clock.wall() < job.enqueued_at + (job.extras.window or 0.0)


def _holds(job: Job, state: str) -> bool:
    return state in ("tmp", "ready", "delayed") or (state == "claimed" and job.extras.unique_scope != "started")


def _path(disk: Disk, queue: QueueDir, job: Job, inode: int) -> str | None:
    """Return where in the queue a file is; None: it is nowhere, or has moved meanwhile."""
    for path in _files(disk, queue, job):
        found = disk.stat(path)
        if found is not None and found.st_ino == inode:
            return path
    return None


def _copy(disk: Disk, queue: QueueDir, job: Job) -> str:
    """Return the file of a job that a restore without hard links has cut off from its entry, if it holds the key.

    Where a process was killed as it linked them again, the file has a second name.
    """
    for path in _files(disk, queue, job):
        if is_held_at(queue, job, path):
            other = job_file.job_in(disk, path)
            if other is not None and other.uid == job.uid:
                return path
    return ""


def _files(disk: Disk, queue: QueueDir, job: Job) -> chain[str]:
    field = names.key_field(job)
    in_tmp = (f"{queue.base}/tmp/{one}" for one in disk.listdir(f"{queue.base}/tmp") if field in one)
    return chain(in_tmp, ids.of_queue(disk, queue.base, job, lambda one: field in one))


def _state_of(queue: QueueDir, path: str) -> str:
    return path.removeprefix(f"{queue.base}/").partition("/")[0]
