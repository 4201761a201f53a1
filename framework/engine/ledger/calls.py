"""The system calls of the ledger, behind one object that tests can replace.

`framework.engine.calls` does the same for the spool.
"""

from __future__ import annotations

import fcntl
import mmap
import os


def fallocate(fd: int, offset: int, length: int) -> None:
    """Reserve the blocks, because on a full disk a store into a mapped hole raises SIGBUS. Raises OSError."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(fd, offset, length)
    else:
        os.pwrite(fd, bytes(length), offset)


def lock(fd: int, *, shared: bool = False) -> bool:
    """Lock a file without waiting. Return False if another process holds the lock. Raises OSError."""
    try:
        fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def listdir(fd: int) -> list[str]:
    """Return the names in an open directory, unordered. Raises OSError."""
    return os.listdir(fd)


class Calls:
    """The real system calls."""

    open = staticmethod(os.open)
    close = staticmethod(os.close)
    pread = staticmethod(os.pread)
    pwrite = staticmethod(os.pwrite)
    fallocate = staticmethod(fallocate)
    map = staticmethod(mmap.mmap)
    lock = staticmethod(lock)
    link = staticmethod(os.link)
    unlink = staticmethod(os.unlink)
    mkdir = staticmethod(os.mkdir)
    listdir = staticmethod(listdir)
    stat = staticmethod(os.stat)
    fstat = staticmethod(os.fstat)
