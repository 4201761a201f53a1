"""Reserved room in the engine's directory: a service can start on a full disk, and its jobs then make room.

A start needs room for a board, and a lock, a directory and a ledger for each worker. Pieces are separate files, because
inodes may be what is missing.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path

PIECE = 1 << 14  # bytes
_OPEN = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK  # a planted pipe must not block us
_SPARE = 6  # further pieces: the board, buckets, a clock


class Reserve:
    """The reserve of one supervisor.

    Args:
        directory: where it lies, created if it is missing.
        workers: the number of processes that claim.
        ledgers: the bytes of all their ledgers.
    """

    def __init__(self, directory: Path, workers: int, ledgers: int) -> None:
        self._directory = directory
        self._pieces = 2 * workers + _SPARE + -(-ledgers // PIECE)

    def has_room(self) -> bool:
        """Return whether the disk, and any quota, has room for the reserve again; True if that cannot be tried."""
        try:
            self._make("probe")
        except OSError as error:
            return error.errno not in (errno.ENOSPC, errno.EDQUOT)
        finally:
            self._remove("probe")
        return True

    def fill(self) -> None:
        """Reserve as much as there is room for."""
        with suppress(OSError):
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._make("piece")

    def release(self) -> bool:
        """Free the reserved room. Return whether there was any."""
        return self._remove("piece") > 0

    def _make(self, name: str) -> None:
        for number in range(self._pieces):
            path = self._directory / f"{name}{number}"
            descriptor = os.open(path, _OPEN, 0o600)
            try:
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(descriptor, 0, PIECE)
            except OSError:
                os.unlink(path)
                raise
            finally:
                os.close(descriptor)

    def _remove(self, name: str) -> int:
        removed = 0
        for number in range(self._pieces):
            with suppress(OSError):
                os.unlink(self._directory / f"{name}{number}")
                removed += 1
        return removed
