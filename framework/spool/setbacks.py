"""Files that cannot be moved now: each is tried again later and later, and keeps no other file waiting."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from framework.backoff import doubled

T = TypeVar("T")
FIRST, LAST = 0.5, 30.0  # seconds until the next try, from the second failure on
MOST = 1000  # files that are remembered; a disk that refuses more is broken as a whole
# Errors that may be about one file: an attribute (chattr +i), another owner, a bad sector, damaged metadata, a quota.
# A format that is newer than this process, too.
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
    """What one process could not move of one queue.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._by_path: dict[str, _Setback] = {}

    def waits(self, path: str) -> bool:
        """Return whether the file has failed and is not to be tried again yet."""
        found = self._by_path.get(path)
        return found is not None and found.retry_at > self._clock()

    def tried(self, path: str, step: Callable[[str], T]) -> T | None:
        """Return what a step for a file gives; None: it waits, or has failed once more. Raises OSError, as `add`."""
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
        """Note a failure. Raises the error: it is not about this file, by its number or because so many fail."""
        known = self._by_path.get(path)
        if error.errno not in OF_ONE_FILE or (known is None and len(self._by_path) >= MOST):
            raise error
        failures = known.failures if known is not None else 0
        reason = error.strerror or str(error)
        retry_at = self._clock() + (doubled(FIRST, failures - 1, LAST) if failures else 0.0)
        self._by_path[path] = _Setback(reason, failures + 1, retry_at)

    def clear(self, path: str) -> None:
        """Note that a file was moved, or is gone."""
        if self._by_path:
            self._by_path.pop(path, None)

    def reasons(self, is_there: Callable[[str], bool]) -> Mapping[str, str]:
        """Return why each file cannot be moved, by its path. Files that are gone, wherever to, are forgotten."""
        for path, setback in list(self._by_path.items()):
            if setback.retry_at <= self._clock() and not is_there(path):
                del self._by_path[path]
        return {path: setback.reason for path, setback in self._by_path.items()}
