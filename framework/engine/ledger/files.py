"""The files of ledgers: their names and their directory."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from framework.engine.ledger.calls import Calls

SUFFIX = ".ledger"
LEDGERS = "ledgers"  # in the tree's local directory
_OPEN = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


def name_of(incarnation: str) -> str:
    """Return the file name of an incarnation's ledger. Raises ValueError if it is empty or too long."""
    text = quote(incarnation, safe="").replace(".", "%2E")
    if not 0 < len(text) <= 200:
        raise ValueError(f"incarnation {incarnation[:60]!r} is empty or too long")
    return text + SUFFIX


@contextmanager
def directory(calls: Calls, place: Path, *, make: bool = False) -> Iterator[int]:
    """Open the directory of ledgers for the length of a block; yield its descriptor.

    Raises OSError if the directory is missing, is a symlink, or belongs to another user.
    """
    if make:
        try:
            calls.mkdir(place, 0o700)
        except FileExistsError:
            pass
        except FileNotFoundError:
            place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            calls.mkdir(place, 0o700)
    fd: int = calls.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        owner = calls.fstat(fd).st_uid
        if owner not in (os.geteuid(), 0):
            raise PermissionError(errno.EPERM, f"it belongs to uid {owner}", str(place))
        yield fd
    finally:
        calls.close(fd)


def open_file(calls: Calls, name: str, place: int, *, new: bool = False) -> int:
    """Open a ledger for reading and writing and return its descriptor. Raises OSError."""
    return calls.open(name, _OPEN | (os.O_CREAT | os.O_EXCL if new else 0), 0o600, dir_fd=place)
