"""The store of black boxes: a fixed number of entries, each of one process, in memory and in a copy on the disk.

The supervisor writes. Maintenance of the same tree reads the memory, and that of another tree on the store the copy,
because it may be the one that rescues. An entry is replaced when enough others have come after it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from framework.process.nameless import nameless_file

ENTRIES, SIZE = 64, 32 << 10  # entries, and bytes of one
SUFFIX = ".boxes"
_OPEN = os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW

Plain = dict[str, Any]


class Store:
    """The entries of one tree.

    Args:
        path: of the copy; None: there is none.
        descriptor: of the memory that the supervisor made, for a process that is not forked.
    """

    def __init__(self, path: Path | None, descriptor: int = -1) -> None:
        self.descriptor = descriptor if descriptor >= 0 else nameless_file("black-boxes")
        self._path = path
        self._numbers: dict[str, int] = {}
        self._next = 0

    def write(self, incarnation: str, entry: Plain) -> None:
        """Write or replace the entry of a process. It never raises: a kill must not wait for a disk that is full."""
        number = self._numbers.get(incarnation)
        if number is None:
            number, self._next = self._next, (self._next + 1) % ENTRIES
            self._numbers = {name: at for name, at in self._numbers.items() if at != number} | {incarnation: number}
        data = _encoded({"incarnation": incarnation, **entry})
        with suppress(OSError):
            os.pwrite(self.descriptor, data, number * SIZE)
        with suppress(OSError):
            self._copy(data, number * SIZE)

    def _copy(self, data: bytes, at: int) -> None:
        if self._path is None:
            return
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | _OPEN, 0o600)
        try:
            if os.fstat(descriptor).st_nlink == 1:
                os.pwrite(descriptor, data, at)
        finally:
            os.close(descriptor)

    def find(self, incarnation: str) -> Plain | None:
        """Return the entry of a process of this tree; None: there is none."""
        return _found(self.descriptor, incarnation)

    def find_elsewhere(self, incarnation: str) -> Plain | None:
        """Return the entry of a process of another tree on this store, or of an earlier one; None: there is none."""
        for path in sorted(self._path.parent.glob(f"*{SUFFIX}")) if self._path is not None else ():
            with suppress(OSError):
                descriptor = os.open(path, os.O_RDONLY | _OPEN)
                try:
                    if (found := _found(descriptor, incarnation)) is not None:
                        return found
                finally:
                    os.close(descriptor)
        return None


def _encoded(entry: Plain) -> bytes:
    """Return an entry as its bytes. What is too long loses log lines first, then jobs."""
    jobs: Mapping[str, Plain] = entry["jobs"]
    for most, keep in ((10, len(jobs)), (2, len(jobs)), (0, 16), (0, 4), (0, 0)):
        cut = {name: {**job, "log": list(job.get("log", ()))[-most:] if most else []} for name, job in jobs.items()}
        body = json.dumps({**entry, "jobs": dict(list(cut.items())[:keep])}).encode()
        if len(body) <= SIZE - 8:
            break
    return len(body).to_bytes(8, "little") + body


def _found(descriptor: int, incarnation: str) -> Plain | None:
    for number in range(ENTRIES):
        head = os.pread(descriptor, 8, number * SIZE)
        length = int.from_bytes(head, "little")
        if not 0 < length <= SIZE - 8:
            continue
        body = os.pread(descriptor, length, number * SIZE + 8)
        try:
            entry = json.loads(body)
        except ValueError:  # it is being written
            continue
        if isinstance(entry, dict) and entry.get("incarnation") == incarnation:
            return entry
    return None
