"""Which supervisor this is among those that share a store: the lowest free number, held by a lock.

The lock is inherited on purpose by every process of the tree: free means that the whole tree is gone, so its board has
one owner. What a handler forks must close it: `forget_in_forks`.
"""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import suppress
from pathlib import Path


class Instance:
    """A held number.

    Args:
        number: from 0.
        descriptor: of its lock.
        board_path: where its scoreboard lies.
    """

    def __init__(self, number: int, descriptor: int, board_path: Path) -> None:
        self.number = number
        self.descriptor = descriptor
        self.board_path = board_path

    @classmethod
    def take(cls, run: Path, instances: Path) -> Instance:
        """Takes the lowest free number. Raises OSError: the directories cannot be used."""
        for directory in (run, instances):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        number, descriptor = _lowest(instances)
        return cls(number, descriptor, run / f"{number}.board")

    def keep_old_board(self) -> None:
        """What the last tree of this number knew of its dead: its orphans are resolved by it."""
        with suppress(FileNotFoundError):
            os.rename(self.board_path, self.board_path.with_suffix(".board-before"))

    def lost(self) -> str:
        """Say that the lock is not where it was taken; empty: it is. The held descriptor keeps its inode apart."""
        path = self.board_path.parent.parent / "instances" / f"{self.number}.lock"
        try:
            if os.path.samestat(os.stat(path), os.fstat(self.descriptor)):
                return ""
        except FileNotFoundError:
            pass
        except OSError:
            return ""  # nobody knows; the engine says what is wrong
        return (
            f"{path} is not the one that this service holds: its directory was moved, removed or mounted over. "
            "What runs is finished where it is; start the service again"
        )

    def forget_in_forks(self) -> None:
        """From here on, what this process forks closes the lock."""
        os.register_at_fork(after_in_child=self._close)

    def _close(self) -> None:
        with suppress(OSError):
            os.close(self.descriptor)
        self.descriptor = -1  # the number may belong to somebody else when this child forks


def _lowest(instances: Path) -> tuple[int, int]:
    for number in range(10_000):
        try:
            descriptor = _open(instances / f"{number}.lock")
        except IsADirectoryError:
            continue
        except PermissionError:  # another user's, who once ran the service: its number is lost, not the store
            if not os.path.lexists(instances / f"{number}.lock"):
                raise
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            continue
        return number, descriptor
    raise OSError(f"{instances}: 10,000 supervisors already")


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        if error.errno not in (errno.EROFS, errno.EACCES):
            raise
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)  # one of an earlier run serves
