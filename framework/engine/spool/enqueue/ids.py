"""Ids that callers chose: while a job with such an id exists in any state, enqueueing the id again does nothing.

`ids/<xx>/<hash>`, the id's entry, is a hard link to the job's file. Its link count proves nothing: a backup may be made
of hard links, and a restore without them. So where there is an entry, its job is looked for; see `locate`.

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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import blake2b
from typing import Literal

from framework.engine import flocks
from framework.engine.spool.disk.disk import DIRECTORY, Disk
from framework.engine.spool.disk.layout import QueueDir
from framework.engine.spool.enqueue import locate

WAIT = 5.0  # seconds for the lock; it is held for one fsync
ACK_WAIT = 1.0  # seconds for the lock at a settlement, which may leave the entry behind
_TRIES = 50
_open: dict[tuple[int, int, str], int] = {}  # descriptors by thread, descriptor of the root, and path
_NEW = ".new"  # a link that is to replace an entry
_ENTRY = re.compile(rf"[0-9a-f]{{32}}(?:{re.escape(_NEW)})?", re.ASCII)

Verdict = Literal["free", "duplicate"]
# The result for a file in tmp: it is in use by its writer or by another recovery, it was promoted, or it is gone.
Recovery = Literal["busy", "promoted", "gone"]


class IdBusy(Exception):
    """An error: another process has held the lock of this id for too long."""


def directory(queue: QueueDir, job_id: str) -> str:
    """Return the directory `ids/<xx>` of an id."""
    return f"{queue.base}/ids/{_digest(job_id)[:2]}"


def entry(queue: QueueDir, job_id: str) -> str:
    """Return the path of an id's entry."""
    return f"{directory(queue, job_id)}/{_digest(job_id)}"


def _digest(job_id: str) -> str:
    return blake2b(job_id.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


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


def judge(disk: Disk, queue: QueueDir, job_id: str, recover: Callable[[str], Recovery]) -> Verdict:
    """Return, under the lock, whether there is a job with this id. Raises OSError, IdBusy.

    An entry that a finished job has left behind is removed.

    Args:
        recover: recovers one file in tmp whose writer may be dead. A living writer of a linked file holds this lock.
            We hold it, so the writer of a linked file in tmp is dead: that file is the original, and comes first.
    """
    path = entry(queue, job_id)
    for _ in range(_TRIES):
        found = disk.stat(path)
        if found is None:
            return "free"
        draft = _in_tmp(disk, queue, found) if found.st_nlink > 1 else None
        if draft is None:
            return "duplicate" if is_taken(disk, queue, job_id, found) else "free"
        what = recover(draft)
        if what == "promoted":
            return "duplicate"
        if what == "busy":  # another recovery has the file and waits for the lock that we hold; it gives up first
            time.sleep(0.005)
    raise IdBusy(path)


def is_taken(disk: Disk, queue: QueueDir, job_id: str, found: os.stat_result) -> bool:
    """Return, under the lock, whether the job of an entry exists; if not, remove the entry. Raises OSError, IdBusy.

    Args:
        found: the result of a `stat` of the entry.
    """
    path = entry(queue, job_id)
    try:
        if locate.is_stored(disk, queue, path, found):
            return True
    except locate.Moving as error:
        raise IdBusy(path) from error
    restored = locate.restored(disk, queue, job_id) or locate.restored(disk, queue, job_id)  # it may have moved
    if restored is None:
        disk.unlink(path)
    else:
        replace(disk, restored, path)
    return restored is not None


def replace(disk: Disk, source: str, path: str) -> None:
    """Make an entry, under the lock, a link to this file. Raises OSError, also where the file has moved."""
    disk.unlink(path + _NEW)
    disk.link(source, path + _NEW)
    disk.rename(path + _NEW, path)


def _in_tmp(disk: Disk, queue: QueueDir, wanted: os.stat_result) -> str | None:
    for name in disk.listdir(f"{queue.base}/tmp"):
        found = disk.stat(queue.path("tmp", name))
        if found is not None and found.st_ino == wanted.st_ino:
            return name
    return None


def unlink(disk: Disk, path: str, queue: QueueDir, job_id: str, inode: int) -> bool:
    """Delete a job's file, then its entry. False: the file was gone. Raises OSError.

    The entry stays where the process is killed in between, or the lock is not free in time; the next user of the id or
    `sweep` removes it.
    """
    try:
        with locked(disk, directory(queue, job_id), wait=ACK_WAIT):
            done = disk.unlink(path)
            with contextlib.suppress(OSError):  # the job is gone whatever happens here; `sweep` removes the entry
                _drop(disk, entry(queue, job_id), inode, gone=done)
            return done
    except IdBusy:
        return disk.unlink(path)


def _drop(disk: Disk, path: str, inode: int, *, gone: bool) -> None:
    found = disk.stat(path)
    if found is not None and found.st_ino == inode and (gone or found.st_nlink < 2):
        disk.unlink(path)


def sweep(disk: Disk, path: str) -> int:
    """Remove the entries in one `ids/<xx>` that finished jobs have left; return how many. Raises OSError."""
    removed = 0
    stale = [name for name in disk.listdir(path) if _ENTRY.fullmatch(name) and _is_stale(disk, f"{path}/{name}")]
    if stale:
        try:
            with locked(disk, path, wait=0.05):
                for name in stale:
                    removed += _is_stale(disk, f"{path}/{name}") and disk.unlink(f"{path}/{name}")
        except IdBusy:
            return removed
    return removed


def _is_stale(disk: Disk, path: str) -> bool:
    found = disk.stat(path)
    return found is not None and stat.S_ISREG(found.st_mode) and found.st_nlink < 2


os.register_at_fork(after_in_child=_open.clear)  # its keys name the parent's threads
