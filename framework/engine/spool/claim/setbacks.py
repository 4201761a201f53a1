"""Files that cannot be moved now: each is tried again at growing intervals, and no other file waits for it.

Where many files of one bucket, minute or claimer fail in a row, the whole directory waits: it may be damaged itself.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from framework.model.retry import doubled

T = TypeVar("T")
FIRST, LAST = 0.5, 30.0  # shortest and longest time in seconds until the next try, from the second failure on
MOST = 1000  # files that are remembered
MOST_DIRECTORIES = 1000  # directories that are remembered; a disk that refuses more is broken as a whole
IN_A_ROW = 200  # failures in one directory without a success between them
_DEEP = 3  # slashes in the path of a file that is in a bucket, a minute or a claimer's directory
# Errors that may be about one file: an attribute (chattr +i), another owner, a bad sector, damaged metadata, a quota,
# or a format that is newer than this process.
OF_ONE_FILE = (
    *(errno.EPERM, errno.EACCES, errno.EIO, errno.EDQUOT, errno.EBADMSG, errno.EPROTONOSUPPORT),
    getattr(errno, "EUCLEAN", errno.EIO),
)


@dataclass(slots=True)
class _Setback:
    reason: str
    failures: int
    retry_at: float


class Setbacks:
    """The files and directories of one queue that one process could not move.

    Args:
        clock: returns monotonic seconds.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._by_path: dict[str, _Setback] = {}
        self._in_a_row: dict[str, int] = {}  # failures by directory

    def waits(self, path: str) -> bool:
        """Return whether the file or its directory has failed and its next try is not due yet."""
        if not self._by_path:
            return False
        found = self._by_path.get(path), self._by_path.get(os.path.dirname(path))
        return any(setback is not None and setback.retry_at > self._clock() for setback in found)

    def tried(self, path: str, step: Callable[[str], T]) -> T | None:
        """Do a step for a file and return its result, or None if the file waits or fails. Raises OSError, as `add`."""
        if self.waits(path):
            return None
        try:
            done = step(path)
        except OSError as error:
            self.add(path, error)
            return None
        self.clear(path)
        return done

    def add(self, path: str, error: OSError) -> None:
        """Note a failure of a file or a directory.

        Raises the error where it is not about this path: by its number, or because too many paths fail.
        """
        if error.errno not in OF_ONE_FILE:
            raise error
        if str.count(path, "/") < _DEEP:
            self._note(path, error, MOST + MOST_DIRECTORIES, 0)
            return
        directory = os.path.dirname(path)
        full = path not in self._by_path and len(self._by_path) >= MOST
        if not full:
            self._note(path, error, MOST, 0)
        self._in_a_row[directory] = self._in_a_row.get(directory, 0) + 1
        if full or self._in_a_row[directory] >= IN_A_ROW:
            self._in_a_row[directory] = 0  # as many more files are tried when the directory's next try is due
            self._note(directory, error, MOST + MOST_DIRECTORIES, 1)

    def _note(self, path: str, error: OSError, most: int, failures: int) -> None:
        known = self._by_path.get(path)
        if known is None and len(self._by_path) >= most:
            raise error
        failures = known.failures if known is not None else failures
        reason = error.strerror or str(error)
        retry_at = self._clock() + (doubled(FIRST, failures - 1, LAST) if failures else 0.0)
        self._by_path[path] = _Setback(reason, failures + 1, retry_at)

    def clear(self, path: str) -> None:
        """Note that a file was moved, or is gone."""
        if self._by_path:
            self._by_path.pop(path, None)
            self._by_path.pop(os.path.dirname(path), None)
            self._in_a_row.pop(os.path.dirname(path), None)

    def reasons(self, is_there: Callable[[str], bool]) -> Mapping[str, str]:
        """Return why each file cannot be moved, by its path.

        This forgets files that are gone, and files that have not failed again for a long time.
        """
        if not self._by_path:
            return {}
        now = self._clock()
        for path, setback in list(self._by_path.items()):
            if setback.retry_at + LAST <= now or (setback.retry_at <= now and not is_there(path)):
                del self._by_path[path]
                self._in_a_row.pop(path, None)
        return {path: setback.reason for path, setback in self._by_path.items()}
