"""The system calls of the spool, which all go through one object.

Tests replace that object, to kill the process at a call, to raise an errno there, to pause or to record. Its attributes
are the functions of `os` themselves, so the indirection costs nothing in use.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
from itertools import islice


def _load_syncfs() -> ctypes._NamedFuncPointer | None:
    try:
        return ctypes.CDLL(None, use_errno=True).syncfs
    except (OSError, AttributeError):
        return None


_SYNCFS = _load_syncfs()
HAS_SYNCFS = _SYNCFS is not None


def syncfs(fd: int) -> None:
    """Make everything on the descriptor's file system durable. Raises OSError."""
    assert _SYNCFS is not None, "guarded by HAS_SYNCFS"
    if _SYNCFS(fd) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def listdir(fd: int) -> list[str]:
    """Return the names in an open directory, in no order. Raises OSError."""
    return os.listdir(fd)


def scandir(fd: int) -> os._ScandirIterator[str]:
    """Return an iterator over the entries of an open directory, in no order. Raises OSError."""
    return os.scandir(fd)


def entries(found: os._ScandirIterator[str], count: int) -> list[tuple[str, int]]:
    """Return the next names and inodes of such an iterator; fewer: these are the last. Raises OSError."""
    return [(entry.name, entry.inode()) for entry in islice(found, count)]


class Calls:
    """The real system calls."""

    open = staticmethod(os.open)
    close = staticmethod(os.close)
    read = staticmethod(os.read)
    pread = staticmethod(os.pread)
    write = staticmethod(os.write)
    pwrite = staticmethod(os.pwrite)
    fsync = staticmethod(os.fsync)
    fdatasync = staticmethod(getattr(os, "fdatasync", os.fsync))  # macOS has none
    syncfs = staticmethod(syncfs)
    ftruncate = staticmethod(os.ftruncate)
    rename = staticmethod(os.rename)
    link = staticmethod(os.link)
    symlink = staticmethod(os.symlink)
    readlink = staticmethod(os.readlink)
    unlink = staticmethod(os.unlink)
    mkdir = staticmethod(os.mkdir)
    rmdir = staticmethod(os.rmdir)
    mkfifo = staticmethod(os.mkfifo)
    listdir = staticmethod(listdir)
    scandir = staticmethod(scandir)
    entries = staticmethod(entries)
    stat = staticmethod(os.stat)
    fstat = staticmethod(os.fstat)
    fstatvfs = staticmethod(os.fstatvfs)
    flock = staticmethod(fcntl.flock)
    fcntl = staticmethod(fcntl.fcntl)
