"""A file without a name, in memory where the system offers that: what the processes of a tree share ends with them."""

from __future__ import annotations

import fcntl
import mmap
import os
import tempfile
from contextlib import suppress


def nameless_file(what: str) -> int:
    """Return a descriptor. Args: what: shown in /proc."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create(what, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def shared_memory(what: str, size: int, *, sparse: bool = False) -> tuple[int, mmap.mmap]:
    """Return (descriptor, its map). Nobody can cut it off, which would be SIGBUS for all who touch it.

    Args:
        what: shown in /proc.
        sparse: memory is taken for what is written; otherwise at once.

    Raises:
        OSError: no room.
    """
    descriptor = nameless_file(what)
    os.ftruncate(descriptor, size)
    if not sparse and hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
    with suppress(AttributeError, OSError):  # a file of a system without
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    return descriptor, mmap.mmap(descriptor, size)
