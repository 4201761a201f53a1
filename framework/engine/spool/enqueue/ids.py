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
import re
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from itertools import chain

from framework.engine import flocks
from framework.engine.spool.claim import listing
from framework.engine.spool.disk import layout
from framework.engine.spool.disk.disk import DIRECTORY, Disk
from framework.engine.spool.disk.layout import QueueDir
from framework.engine.spool.format import job_file, names
from framework.model.job import Job
from framework.model.options import QueueOptions

WAIT = 5.0  # seconds for the lock; it is held for one fsync
ACK_WAIT = 1.0  # seconds for the lock at a settlement, which may leave the entry behind
_LOOKS = 20  # at a job that moves meanwhile
_open: dict[tuple[int, int, str], int] = {}  # descriptors by thread, descriptor of the root, and path
_NEW = ".new"  # a link that is to replace an entry
_ENTRY = re.compile(rf"[0-9a-f]{{32}}(?:{re.escape(_NEW)})?", re.ASCII)


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
    if _is_stored(disk, queue, path, found):
        return True
    restored = _restored(disk, queue, job_id) or _restored(disk, queue, job_id)  # it may have moved
    if restored is None:
        disk.unlink(path)
    else:
        _replace(disk, restored, path)
    return restored is not None


def _replace(disk: Disk, source: str, path: str) -> None:
    """Make an entry, under the lock, a link to this file. Raises OSError, also where the file has moved."""
    disk.unlink(path + _NEW)
    disk.link(source, path + _NEW)
    disk.rename(path + _NEW, path)


def unlink(disk: Disk, path: str, queue: QueueDir, job_id: str, inode: int, *, to: str = "") -> bool:
    """Delete a job's file, or move it to `to`, then delete its entry. False: the file was gone. Raises OSError.

    The entry stays where the process is killed in between, or the lock is not free in time; the next user of the id or
    `sweep` removes it.
    """
    try:
        with locked(disk, directory(queue, job_id), wait=ACK_WAIT):
            done = disk.move(path, to) if to else disk.unlink(path)
            with contextlib.suppress(OSError):  # the job is gone whatever happens here; `sweep` removes the entry
                _drop(disk, entry(queue, job_id), inode, gone=done)
            return done
    except IdBusy:
        return disk.move(path, to) if to else disk.unlink(path)


def _drop(disk: Disk, path: str, inode: int, *, gone: bool) -> None:
    found = disk.stat(path)
    if found is not None and found.st_ino == inode and (gone or found.st_nlink < 2):
        disk.unlink(path)


def sweep(disk: Disk, path: str) -> int:
    """Remove the entries in one `ids/<xx>` that finished jobs have left; return how many. Raises OSError."""
    removed = 0
    stale = [name for name in disk.listdir(path) if _ENTRY.fullmatch(name) and _is_cut_off(disk, f"{path}/{name}")]
    if stale:
        with contextlib.suppress(IdBusy), locked(disk, path, wait=0.05):
            for name in stale:
                removed += _is_cut_off(disk, f"{path}/{name}") and disk.unlink(f"{path}/{name}")
    return removed


def _is_cut_off(disk: Disk, path: str) -> bool:
    """Return whether a path is a regular file without a second name. Raises OSError."""
    found = disk.stat(path)
    return found is not None and stat.S_ISREG(found.st_mode) and found.st_nlink < 2


def _is_stored(disk: Disk, queue: QueueDir, entry: str, found: os.stat_result) -> bool:
    """Return whether some state holds the file that an entry is a link to. Raises OSError, IdBusy.

    Jobs move while they are looked for. A rename changes the ctime of the file. So a look is complete where the ctime
    is older than a tick of the file system's clock when the look begins, and unchanged when it ends.

    Args:
        found: the result of a `stat` of the entry.
    """
    if found.st_nlink < 2:
        return False
    job = job_file.job_in(disk, entry)
    if _seen(disk, queue, found.st_ino, job):
        return True
    for _ in range(_LOOKS):
        time.sleep(listing.tick(found.st_ctime_ns))
        if _seen(disk, queue, found.st_ino, job):
            return True
        now = disk.stat(entry)
        if now is None or now.st_ctime_ns == found.st_ctime_ns:
            return False
        found = now
    raise IdBusy(entry)


def _seen(disk: Disk, queue: QueueDir, inode: int, job: Job | None) -> bool:
    for path in chain(_chosen(disk, f"{queue.base}/tmp", 0), _files(disk, queue, job)):
        found = disk.stat(path)
        if found is not None and found.st_ino == inode:
            return True
    return False


def _restored(disk: Disk, queue: QueueDir, job_id: str) -> str | None:
    """Return the file of a job with this id that no entry links to, as after `cp -r`; None: none. Raises OSError."""
    for path in _files(disk, queue, None):
        job = job_file.job_in(disk, path) if _is_cut_off(disk, path) else None
        if job is not None and (job.queue, job.id) == (queue.name, job_id):
            return path
    return None


def _files(disk: Disk, queue: QueueDir, job: Job | None) -> Iterator[str]:
    """Yield the files of jobs with chosen ids, likely directories of `job` and this queue first. Raises OSError."""
    first = [queue.base] + [layout.directory_of(dead) for dead in (queue.options.dead_letter,) if dead is not None]
    others = [other for other in disk.listdir(".") if layout.queue_of(other) is not None and other not in first]
    for base in (*first, *sorted(others)):
        yield from _of_queue(disk, base, job)


def _of_queue(disk: Disk, base: str, job: Job | None = None) -> Iterator[str]:
    """Yield the files of jobs with chosen ids in one queue's directory. Raises OSError."""
    stamp = 0 if job is None else round(job.enqueued_at * 1e9)
    minute = 0 if job is None else names.micros(job.eligible_at) // 60_000_000
    directories = [f"claimed/{wid}" for wid in disk.listdir(f"{base}/claimed") if not wid.endswith(".lock")]
    directories += [f"ready/{b}" for b in _nearest(disk.listdir(f"{base}/ready"), names.BUCKET_DIGITS, stamp // 10**10)]
    directories += [f"delayed/{m}" for m in _nearest(disk.listdir(f"{base}/delayed"), 11, minute)]
    for directory in (*directories, "dead", "bad"):
        yield from _chosen(disk, f"{base}/{directory}", stamp)


def _chosen(disk: Disk, directory: str, stamp: int) -> list[str]:
    found = [entry for entry in disk.listdir(directory) if entry.endswith(",i") and names.parse(entry)]
    return [f"{directory}/{entry}" for entry in _nearest(found, 20, stamp)]


def _nearest(found: list[str], digits: int, wanted: int) -> list[str]:
    """Return names by the distance of their leading digits from a number, nearest first; other names last."""

    def distance(entry: str) -> tuple[bool, int]:
        return (False, abs(int(entry[:digits]) - wanted)) if entry[:digits].isdecimal() else (True, 0)

    return sorted(found, key=distance)


class Relink:
    """A repair of id entries after a restore without hard links, which cuts jobs off from their entries.

    It looks at all jobs of one queue whose ids were chosen, once in each process.

    Attributes:
        done: the look has ended. Before that no entry may be removed as left behind by a finished job.
    """

    def __init__(self, disk: Disk, queue: QueueDir) -> None:
        self._disk = disk
        self._queue = queue
        self._files: Iterator[str] = iter(())
        self._again = True
        self.done = False

    def __call__(self, until: float) -> int:
        """Go on until `until` (monotonic seconds), at least one step; return how many were linked. Raises OSError."""
        linked, over = 0, False
        while not self.done and not over:
            over = time.monotonic() >= until
            try:
                path = next(self._files, None)
            except OSError:
                self._again = True
                raise
            if path is None and self._again:  # jobs may have moved, unseen, during a pass that found something
                self._again, self._files = False, _of_queue(self._disk, self._queue.base)
            elif path is None:
                self.done = True
            elif _is_cut_off(self._disk, path) and self._relink(path):
                self._again, linked = True, linked + 1
        return linked

    def _relink(self, path: str) -> bool:
        try:
            job = job_file.job_in(self._disk, path)
            if job is None:
                return False
            home = QueueDir(QueueOptions(job.queue))
            with locked(self._disk, directory(home, job.id), wait=0.05):
                path_of_id = entry(home, job.id)
                found = self._disk.stat(path_of_id)
                if found is not None and _is_stored(self._disk, home, path_of_id, found):
                    return False  # another job has the id
                _replace(self._disk, path, path_of_id)
        except (OSError, IdBusy):  # it has moved, its home is missing, or it cannot be read
            return False
        return True


os.register_at_fork(after_in_child=_open.clear)  # its keys name the parent's threads
