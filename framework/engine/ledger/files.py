"""The files of ledgers: their names, their directory, and descriptors that a forked child closes."""

from __future__ import annotations

import errno
import os
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

from framework.engine.ledger.calls import Calls

SUFFIX = ".ledger"
LEDGERS = "ledgers"  # in the tree's local directory
_OPEN = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_forked: weakref.WeakSet[Forkable] = weakref.WeakSet()


class Forkable(Protocol):
    """An object that must be changed in a forked child."""

    def after_fork(self) -> None:
        """Change the object; called in the child."""


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


def in_child(thing: Forkable) -> None:
    """Call `thing.after_fork()` in every forked child, as long as the object lives."""
    _forked.add(thing)


def _child() -> None:
    for thing in list(_forked):
        thing.after_fork()


os.register_at_fork(after_in_child=_child)
