"""Ids that callers chose: while a job of such an id exists in any state, the id enqueues nothing.

`ids/<xx>/<hash>` is a hard link to the job's file. Its link count proves nothing: a backup may be made of hard links, a
restore without them. So where an entry stands, its job is looked for; see `locate`.
Whoever makes, judges or removes an entry holds the `flock` on the directory `ids/<xx>`: without it two that found
a stale entry can unlink a third's, and an entry can go between another's look and its unlink.
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

from framework.engine.spool.disk import flocks
from framework.engine.spool.disk.disk import DIRECTORY, Disk
from framework.engine.spool.disk.layout import QueueDir
from framework.engine.spool.enqueue import locate

WAIT = 5.0  # seconds for the lock; it is held for one fsync
ACK_WAIT = 1.0  # seconds; an ack has something else to do, and may leave the entry behind
_TRIES = 50
_open: dict[tuple[int, int, str], int] = {}  # descriptors by thread, descriptor of the root, and path
_NEW = ".new"  # a link that is to replace an entry
_ENTRY = re.compile(rf"[0-9a-f]{{32}}(?:{re.escape(_NEW)})?", re.ASCII)

Verdict = Literal["free", "duplicate"]
# What became of a file in tmp: its writer lives or somebody recovers it, it was promoted, or it is gone
Recovery = Literal["busy", "promoted", "gone"]


class IdBusy(Exception):
    """Another process has held the lock of this id for too long."""


def directory(queue: QueueDir, job_id: str) -> str:
    """`ids/<xx>` of an id."""
    return f"{queue.base}/ids/{_digest(job_id)[:2]}"


def entry(queue: QueueDir, job_id: str) -> str:
    """The hard link of an id."""
    return f"{directory(queue, job_id)}/{_digest(job_id)}"


def _digest(job_id: str) -> str:
    return blake2b(job_id.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


@contextmanager
def locked(disk: Disk, path: str, *, wait: float | None = None) -> Iterator[None]:
    """Holds the lock of one `ids/<xx>`; waits `wait` seconds for it, or WAIT. Raises IdBusy, OSError."""
    with _descriptor(disk, path) as fd:
        if not flocks.take_within(disk.calls, fd, WAIT if wait is None else wait):
            raise IdBusy(path)
        yield


@contextmanager
def _descriptor(disk: Disk, path: str) -> Iterator[int]:
    """Yields a descriptor of one `ids/<xx>`, unlocked at the end.

    A signal handler that enqueues on top of a thread that has one gets the same, and so its lock: it cannot wait for
    what it interrupts, and is done before that goes on.
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
    """Under the lock: is there a job of this id? An entry that a finished job left is removed. Raises OSError, IdBusy.

    Args:
        recover: settles one file in tmp whose writer may be dead. The writer of a linked file holds this lock, so
            a linked file in tmp whose lock we have belongs to a dead one: it is the original, and comes first.
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
        if what == "busy":  # another recoverer has it, and waits for the lock that we hold: it gives way first
            time.sleep(0.005)
    raise IdBusy(path)


def is_taken(disk: Disk, queue: QueueDir, job_id: str, found: os.stat_result) -> bool:
    """Return, under the lock, whether the job of an entry is there; else it is removed. Raises OSError, IdBusy.

    Args:
        found: what a `stat` of the entry said.
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
    """Under the lock: makes an entry a link to this file. Raises OSError, also where the file has moved."""
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
    """Deletes a job's file, then its entry. False: it was gone.

    Killed in between, and where the lock cannot be had, the entry stays: the next user of the id removes it, or `sweep`
    does. Raises OSError.
    """
    try:
        with locked(disk, directory(queue, job_id), wait=ACK_WAIT):
            done = disk.unlink(path)
            with contextlib.suppress(OSError):  # the job is gone: no error can take that back, `sweep` does the rest
                _drop(disk, entry(queue, job_id), inode, gone=done)
            return done
    except IdBusy:
        return disk.unlink(path)


def _drop(disk: Disk, path: str, inode: int, *, gone: bool) -> None:
    found = disk.stat(path)
    if found is not None and found.st_ino == inode and (gone or found.st_nlink < 2):
        disk.unlink(path)


def sweep(disk: Disk, path: str) -> int:
    """Removes the entries in one `ids/<xx>` that finished jobs left; how many. Raises OSError."""
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


os.register_at_fork(after_in_child=_open.clear)  # those are the parent's threads
