"""A search for the files of jobs whose ids the caller chose, as the link count of an id's entry proves nothing.

A backup made of hard links (`cp -al`, rsnapshot) raises the count, a restore without them (`cp -r`) lowers it. So the
job is looked for in all states of its queue, then of the other queues, because a dead letter is in another queue.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from itertools import chain

from framework.engine.spool.claim import listing
from framework.engine.spool.disk import layout
from framework.engine.spool.disk.disk import Disk
from framework.engine.spool.disk.layout import QueueDir
from framework.engine.spool.format import jobfile, names
from framework.model.job import Job

_TRIES = 20  # looks at a job that moves meanwhile
_FLAT = ("dead", "bad")


class Moving(Exception):
    """An error: a job moved again and again while it was looked for."""


def is_stored(disk: Disk, queue: QueueDir, entry: str, found: os.stat_result) -> bool:
    """Return whether some state holds the file that an entry is a link to. Raises OSError, Moving.

    Jobs move while they are looked for. A rename changes the ctime of the file. So a look is complete where the ctime
    is older than a tick of the file system's clock when the look begins, and unchanged when it ends.

    Args:
        found: the result of a `stat` of the entry.
    """
    if found.st_nlink < 2:
        return False
    job = jobfile.job_in(disk, entry)
    if _seen(disk, queue, found.st_ino, job):
        return True
    for _ in range(_TRIES):
        time.sleep(listing.tick(found.st_ctime_ns))
        if _seen(disk, queue, found.st_ino, job):
            return True
        now = disk.stat(entry)
        if now is None or now.st_ctime_ns == found.st_ctime_ns:
            return False
        found = now
    raise Moving(entry)


def _seen(disk: Disk, queue: QueueDir, inode: int, job: Job | None) -> bool:
    for path in chain(_chosen(disk, f"{queue.base}/tmp", 0), files(disk, queue, job)):
        found = disk.stat(path)
        if found is not None and found.st_ino == inode:
            return True
    return False


def restored(disk: Disk, queue: QueueDir, job_id: str) -> str | None:
    """Return the file of a job with this id that no entry links to, as after `cp -r`; None: none. Raises OSError."""
    for path in files(disk, queue, None):
        job = jobfile.job_in(disk, path) if is_cut_off(disk, path) else None
        if job is not None and (job.queue, job.id) == (queue.name, job_id):
            return path
    return None


def is_cut_off(disk: Disk, path: str) -> bool:
    """Return whether a path is a regular file without a second name. Raises OSError."""
    found = disk.stat(path)
    return found is not None and stat.S_ISREG(found.st_mode) and found.st_nlink < 2


def files(disk: Disk, queue: QueueDir, job: Job | None) -> Iterator[str]:
    """Yield the files of jobs with chosen ids, likely places of `job` and this queue first. Raises OSError."""
    first = [queue.base] + [layout.directory_of(dead) for dead in (queue.options.dead_letter,) if dead is not None]
    others = [other for other in disk.listdir(".") if layout.queue_of(other) is not None and other not in first]
    for base in (*first, *sorted(others)):
        yield from of_queue(disk, base, job)


def of_queue(disk: Disk, base: str, job: Job | None = None) -> Iterator[str]:
    """Yield the files of jobs with chosen ids in one queue's directory. Raises OSError."""
    stamp = 0 if job is None else round(job.enqueued_at * 1e9)
    minute = 0 if job is None else names.micros(job.eligible_at) // 60_000_000
    directories = [f"claimed/{wid}" for wid in disk.listdir(f"{base}/claimed") if not wid.endswith(".lock")]
    directories += [f"ready/{b}" for b in _nearest(disk.listdir(f"{base}/ready"), names.BUCKET_DIGITS, stamp // 10**10)]
    directories += [f"delayed/{m}" for m in _nearest(disk.listdir(f"{base}/delayed"), 11, minute)]
    for directory in (*directories, *_FLAT):
        yield from _chosen(disk, f"{base}/{directory}", stamp)


def _chosen(disk: Disk, directory: str, stamp: int) -> list[str]:
    found = [entry for entry in disk.listdir(directory) if entry.endswith(",i") and names.parse(entry)]
    return [f"{directory}/{entry}" for entry in _nearest(found, 20, stamp)]


def _nearest(found: list[str], digits: int, wanted: int) -> list[str]:
    """Return names by the distance of their leading digits from a number, nearest first; other names last."""

    def distance(entry: str) -> tuple[bool, int]:
        return (False, abs(int(entry[:digits]) - wanted)) if entry[:digits].isdecimal() else (True, 0)

    return sorted(found, key=distance)
