"""The number of a supervisor among those that share a store: the lowest free one, held by a lock.

Every process of the tree inherits the lock on purpose: a free lock means that the whole tree is gone, so its board has
one owner. What a handler forks must close it: `forget_in_forks`.
"""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import suppress
from pathlib import Path


class Instance:
    """A number that this tree holds by a lock.

    Args:
        number: counted from 0.
        descriptor: the descriptor of the lock.
        board_path: the path of its scoreboard.
    """

    def __init__(self, number: int, descriptor: int, board_path: Path) -> None:
        self.number = number
        self.descriptor = descriptor
        self.board_path = board_path
        self._lock_path = str(board_path.parent.parent / "instances" / f"{number}.lock")

    @classmethod
    def take(cls, run: Path, instances: Path) -> Instance:
        """Take the lowest free number. Raises OSError: the directories cannot be used."""
        for directory in (run, instances):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        number, descriptor = _lowest(instances)
        return cls(number, descriptor, run / f"{number}.board")

    def keep_old_board(self) -> None:
        """Keep the board of the last tree with this number: it is needed to resolve that tree's abandoned leases."""
        with suppress(FileNotFoundError):
            os.rename(self.board_path, self.board_path.with_suffix(".board-before"))

    def lost(self) -> str:
        """Return why the lock file is not the one that was taken; empty: it is. The held descriptor prevents inode
        reuse."""
        try:
            if os.path.samestat(os.stat(self._lock_path), os.fstat(self.descriptor)):
                return ""
        except FileNotFoundError:
            pass
        except OSError:
            return ""  # unknown; the engine reports the error
        return (
            f"{self._lock_path} is not the one that this service holds: its directory was moved, removed or mounted "
            "over. What runs is finished where it is; start the service again"
        )

    def forget_in_forks(self) -> None:
        """Make every process that this process forks from now on close the lock."""
        os.register_at_fork(after_in_child=self._close)

    def _close(self) -> None:
        with suppress(OSError):
            os.close(self.descriptor)
        self.descriptor = -1  # another file may have the number when this child forks


def _lowest(instances: Path) -> tuple[int, int]:
    for number in range(10_000):
        try:
            descriptor = _open(instances / f"{number}.lock")
        except IsADirectoryError:
            continue
        except PermissionError:  # another user once ran the service: only its number is lost, not the store
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
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)  # a file of an earlier run
