"""Ids that callers chose: while a job with such an id exists in any state, enqueueing the id again does nothing.

`ids/<xx>/<hash>`, the id's entry, is a hard link to the job's file. Its link count proves nothing: a backup made of
hard links (`cp -al`, rsnapshot) raises it, a restore without them (`cp -r`) lowers it. So where there is an entry, its
job is looked for in all states of its queue, then of the other queues, because a dead letter is in another queue.

A process that makes, checks or removes an entry holds the `flock` on the directory `ids/<xx>`. Without it two processes
that found a stale entry could unlink the new entry of a third, and an entry could vanish between a look and an unlink.
"""

from __future__ import annotations

import contextlib
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import blake2b
from itertools import chain
from typing import TypeVar

from framework.engine import flocks
from framework.engine.spool.claim import listing
from framework.engine.spool.disk import layout
from framework.engine.spool.disk.disk import DIRECTORY, Disk
from framework.engine.spool.disk.layout import QueueDir
from framework.engine.spool.format import job_file, names
from framework.model.job import Job

T = TypeVar("T")
WAIT = 5.0  # seconds for the lock; it is held for one fsync
ACK_WAIT = 1.0  # seconds for the lock at a settlement, which may leave the entry behind
_LOOKS = 20  # at a job that moves meanwhile
_open: dict[tuple[int, int, str], int] = {}  # descriptors by thread, descriptor of the root, and path
NEW = ".new"  # a link that is to replace an entry


class IdBusy(Exception):
    """An error: the lock of an id was held, or its job moved again and again, for too long."""


def directory(queue: QueueDir, job_id: str) -> str:
    """Return the directory `ids/<xx>` of an id."""
    return f"{queue.base}/ids/{digest(job_id)[:2]}"


def entry(queue: QueueDir, job_id: str) -> str:
    """Return the path of an id's entry."""
    return f"{directory(queue, job_id)}/{digest(job_id)}"


def digest(key: str) -> str:
    """Return the name of an entry for any text: 32 hex digits."""
    return blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


@contextmanager
def locked(disk: Disk, path: str, *, wait: float | None = None) -> Iterator[None]:
    """Hold the lock of one `ids/<xx>`; wait up to `wait` seconds for it, or WAIT. Raises IdBusy, OSError."""
    with _descriptor(disk, path) as fd:
        if not flocks.take_within(disk.calls, fd, WAIT if wait is None else wait):
            raise IdBusy(path)
        yield


@contextmanager
def _descriptor(disk: Disk, path: str) -> Iterator[int]:
    """Yield a descriptor of one `ids/<xx>`, and unlock it at the end.

    A signal handler that enqueues while its thread has this descriptor gets the same one, with its lock: it cannot wait
    for the code that it interrupts, and ends before that code goes on.
    """
    mine = (threading.get_ident(), disk.fd, path)
    if mine in _open:
        yield _open[mine]
        return
    disk.mkdir(path)
    with flocks.opened(disk.calls, path, DIRECTORY, dir_fd=disk.fd) as fd:
        _open[mine] = fd
        try:
            yield fd
        finally:
            flocks.release(disk.calls, fd)  # before it is forgotten
            del _open[mine]


def is_taken(disk: Disk, queue: QueueDir, job_id: str, found: os.stat_result) -> bool:
    """Return, under the lock, whether the job of an entry exists; if not, remove the entry. Raises OSError, IdBusy.

    Args:
        found: the result of a `stat` of the entry.
    """
    path = entry(queue, job_id)
    if is_stored(disk, queue, path, found):
        return True
    restored = _restored(disk, queue, job_id) or _restored(disk, queue, job_id)  # it may have moved
    if restored is None:
        disk.unlink(path)
    else:
        replace(disk, restored, path)
    return restored is not None


def replace(disk: Disk, source: str, path: str) -> None:
    """Make an entry, under the lock, a link to this file. Raises OSError, also where the file has moved."""
    disk.unlink(path + NEW)
    disk.link(source, path + NEW)
    disk.rename(path + NEW, path)


def leave(disk: Disk, entry: str, inode: int, act: Callable[[], bool]) -> bool:
    """Delete a job's file, or move it away, by `act`; then delete its entry. Return what `act` returns. Raises OSError.

    The entry stays where the process is killed in between, or the lock is not free in time; the next user of the id or
    key, or a sweep, removes it. An empty `entry` stands for a job without one.
    """
    if not entry:
        return act()
    try:
        with locked(disk, os.path.dirname(entry), wait=ACK_WAIT):
            done = act()
            with contextlib.suppress(OSError):  # the job is gone whatever happens here; a sweep removes the entry
                _drop(disk, entry, inode, gone=done)
            return done
    except IdBusy:
        return act()


def _drop(disk: Disk, path: str, inode: int, *, gone: bool) -> None:
    found = disk.stat(path)
    if found is not None and found.st_ino == inode and (gone or found.st_nlink < 2):
        disk.unlink(path)


def is_cut_off(disk: Disk, path: str) -> bool:
    """Return whether a path is a regular file without a second name. Raises OSError."""
    found = disk.stat(path)
    return found is not None and stat.S_ISREG(found.st_mode) and found.st_nlink < 2


def is_stored(disk: Disk, queue: QueueDir, entry: str, found: os.stat_result) -> bool:
    """Return whether some state holds the file that an entry is a link to. Raises OSError, IdBusy.

    Args:
        found: the result of a `stat` of the entry.
    """
    if found.st_nlink < 2:
        return False
    job = job_file.job_in(disk, entry)
    return looked_for(disk, entry, found, lambda inode: _seen(disk, queue, inode, job) or None) is not None


def looked_for(disk: Disk, entry: str, found: os.stat_result, look: Callable[[int], T | None]) -> T | None:
    """Return what a look for an entry's inode finds; None: the file has no other name. Raises OSError, IdBusy.

    Jobs move while they are looked for. A rename changes the ctime of the file. So a look is complete where the ctime
    is older than a tick of the file system's clock when the look begins, and unchanged when it ends.
    """
    if (seen := look(found.st_ino)) is not None:
        return seen
    for _ in range(_LOOKS):
        time.sleep(listing.tick(found.st_ctime_ns))
        if (seen := look(found.st_ino)) is not None:
            return seen
        now = disk.stat(entry)
        if now is None or now.st_ctime_ns == found.st_ctime_ns:
            return None
        found = now
    raise IdBusy(entry)


def _seen(disk: Disk, queue: QueueDir, inode: int, job: Job | None) -> bool:
    for path in chain(_some(disk, f"{queue.base}/tmp", 0, is_chosen), _files(disk, queue, job)):
        found = disk.stat(path)
        if found is not None and found.st_ino == inode:
            return True
    return False


def _restored(disk: Disk, queue: QueueDir, job_id: str) -> str | None:
    """Return the file of a job with this id that no entry links to, as after `cp -r`; None: none. Raises OSError."""
    for path in _files(disk, queue, None):
        job = job_file.job_in(disk, path) if is_cut_off(disk, path) else None
        if job is not None and (job.queue, job.id) == (queue.name, job_id):
            return path
    return None


def _files(disk: Disk, queue: QueueDir, job: Job | None) -> Iterator[str]:
    """Yield the files of jobs with chosen ids, likely directories of `job` and this queue first. Raises OSError."""
    first = [queue.base] + [layout.directory_of(dead) for dead in (queue.options.dead_letter,) if dead is not None]
    others = [other for other in disk.listdir(".") if layout.queue_of(other) is not None and other not in first]
    for base in (*first, *sorted(others)):
        yield from of_queue(disk, base, job, is_chosen)


def is_chosen(entry: str) -> bool:
    """Return whether the file of this name holds a job with a chosen id."""
    return entry.endswith(",i")


def of_queue(disk: Disk, base: str, job: Job | None, wanted: Callable[[str], bool]) -> Iterator[str]:
    """Yield the wanted job files in one queue's directory, likely directories of `job` first. Raises OSError."""
    stamp = 0 if job is None else round(job.enqueued_at * 1e9)
    minute = 0 if job is None else names.micros(job.eligible_at) // 60_000_000
    directories = [f"claimed/{wid}" for wid in disk.listdir(f"{base}/claimed") if not wid.endswith(".lock")]
    directories += [f"ready/{b}" for b in _nearest(disk.listdir(f"{base}/ready"), names.BUCKET_DIGITS, stamp // 10**10)]
    directories += [f"delayed/{m}" for m in _nearest(disk.listdir(f"{base}/delayed"), 11, minute)]
    for directory in (*directories, "dead", "bad"):
        yield from _some(disk, f"{base}/{directory}", stamp, wanted)


def _some(disk: Disk, directory: str, stamp: int, wanted: Callable[[str], bool]) -> list[str]:
    found = [entry for entry in disk.listdir(directory) if wanted(entry) and names.parse(entry)]
    return [f"{directory}/{entry}" for entry in _nearest(found, 20, stamp)]


def _nearest(found: list[str], digits: int, wanted: int) -> list[str]:
    """Return names by the distance of their leading digits from a number, nearest first; other names last."""

    def distance(entry: str) -> tuple[bool, int]:
        return (False, abs(int(entry[:digits]) - wanted)) if entry[:digits].isdecimal() else (True, 0)

    return sorted(found, key=distance)


os.register_at_fork(after_in_child=_open.clear)  # its keys name the parent's threads
