"""Locks of files, and what a forked child does first.

Most locks show that a process lives. POSIX locks would be wrong for that: inside one process a probe of its own lock
succeeds, and closing the probe frees the lock. A `flock` belongs to the open file, which fork() shares: a child that
kept the descriptor would make its dead parent appear alive. So a forked child closes the descriptors of such locks.
Then it resets the objects that asked for it, some of which forget descriptors that must be closed by now.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from framework.engine.calls import Calls

OFD = getattr(fcntl, "F_OFD_SETLK", None)  # locks of bytes that belong to the open file; macOS: None
_LOCK = struct.Struct("hhqqi4x")  # type, whence, start, length, pid
# Between the return of open() and keep() another thread may fork: that child keeps the descriptor until it ends or
# execs. This only delays a rescue, so no lock is taken around every open.
_kept: set[int] = set()
_forked: weakref.WeakSet[Forkable] = weakref.WeakSet()


class Forkable(Protocol):
    """An object that must be reset in a forked child."""

    def after_fork(self) -> None:
        """Reset the object; called in the child."""


def keep(fd: int) -> int:
    """Let forked children close this descriptor from now on, and return it."""
    _kept.add(fd)
    return fd


def kept() -> int:
    """Return how many descriptors forked children would close."""
    return len(_kept)


def forget(fd: int) -> None:
    """Undo `keep` without closing: the number belongs to another file now, which forked children must not close."""
    _kept.discard(fd)


def is_still(calls: Calls, fd: int, file: tuple[int, int]) -> bool:
    """Return whether a descriptor is still the file with this device and inode. Raises OSError.

    Code that closes all descriptors of its process leaves us numbers that soon belong to other files.
    """
    try:
        found = calls.fstat(fd)
    except OSError as error:
        if error.errno == errno.EBADF:
            return False
        raise
    return (found.st_dev, found.st_ino) == file


def drop(calls: Calls, fd: int) -> None:
    """Close a kept descriptor, which frees its lock."""
    _kept.discard(fd)  # first: once closed, the number may belong to another file
    with contextlib.suppress(OSError):  # Linux closes it even then
        calls.close(fd)


def take(calls: Calls, fd: int) -> bool:
    """Lock without waiting; False: a living process holds the lock. Raises OSError."""
    try:
        calls.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EAGAIN):
            return False
        raise
    return True


def take_within(calls: Calls, fd: int, seconds: float) -> bool:
    """Lock, waiting up to `seconds`; False: the lock is still held then. Raises OSError."""
    deadline = time.monotonic() + seconds
    pause = 0.0002
    while not take(calls, fd):
        if time.monotonic() >= deadline:
            return False
        time.sleep(pause)
        pause = min(pause * 2, 0.02)
    return True


def set_byte(calls: Calls, fd: int, kind: int, at: int) -> bool:
    """Lock or unlock (F_WRLCK, F_UNLCK) one byte for the open file; False: another one has it. Raises OSError."""
    try:
        calls.fcntl(fd, OFD, _LOCK.pack(kind, os.SEEK_SET, at, 1, 0))  # type: ignore[arg-type]
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise
    return True


def release(calls: Calls, fd: int) -> None:
    """Free a lock before its descriptor is closed."""
    with contextlib.suppress(OSError):  # closing frees it anyway
        calls.flock(fd, fcntl.LOCK_UN)


@contextmanager
def opened(calls: Calls, path: str, flags: int, *, dir_fd: int) -> Iterator[int]:
    """Open a path for the length of a block; yield the descriptor, which forked children close. Raises OSError."""
    fd = keep(calls.open(path, flags | os.O_CLOEXEC, 0o600, dir_fd=dir_fd))
    try:
        yield fd
    finally:
        drop(calls, fd)


def locked(path: Path) -> int | None:
    """Return a descriptor of the locked file; None: another process has the lock, or the file cannot be used."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


class FileLock:
    """The lock of one file, as one process uses it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def take(self) -> bool:
        """Take the lock unless this process has it already; return whether it has the lock now."""
        if self._descriptor is None:
            self._descriptor = locked(self._path)
        return self._descriptor is not None

    def release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def in_child(thing: Forkable) -> None:
    """Have `thing.after_fork()` called in every forked child, as long as the thing is referenced elsewhere."""
    _forked.add(thing)


def _child() -> None:
    for fd in _kept:
        try:
            os.close(fd)
        except OSError:
            continue
    _kept.clear()
    for thing in list(_forked):
        thing.after_fork()


os.register_at_fork(after_in_child=_child)
