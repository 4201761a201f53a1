"""Files without a name, in memory where the system supports that: what the processes of a tree share ends with them."""

from __future__ import annotations

import fcntl
import mmap
import os
import tempfile
from contextlib import suppress


def nameless_file(what: str) -> int:
    """Return a descriptor of a new file without a name; /proc shows it as `what`."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create(what, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def shared_memory(what: str, size: int, *, sparse: bool = False) -> tuple[int, mmap.mmap]:
    """Return (descriptor, its map). The file is sealed: if it were shortened, every process that touches it would get
    SIGBUS.

    Args:
        what: the name that /proc shows.
        sparse: take memory as it is written; otherwise take all of it at once.

    Raises:
        OSError: there is no room.
    """
    descriptor = nameless_file(what)
    os.ftruncate(descriptor, size)
    if not sparse and hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
    with suppress(AttributeError, OSError):  # the system has no sealed files
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    return descriptor, mmap.mmap(descriptor, size)
