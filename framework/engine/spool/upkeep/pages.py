"""The files of a queue's states in the order of their names, from any position on, a chunk at a time.

The order needs all names of a state, and a directory returns them in none. So each chunk reads the names again and
keeps the least: memory stays the same however many jobs there are, and a first page costs one look.
"""

from __future__ import annotations

import heapq
import os
import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import NamedTuple, TypeVar

from framework.engine.spool.disk.disk import DIRECTORY, Disk
from framework.engine.spool.disk.layout import QueueDir
from framework.engine.spool.format import names
from framework.model.errors import UsageError

FIRST_CHUNK, LARGEST_CHUNK = 256, 16_384  # names
AT_ONCE = 1024  # names that are read from a directory at once
_CURSOR = re.compile(r"(\d{20}\.[0-9a-f.]{10,40})(?:-(\d{1,4}))?", re.ASCII)
T = TypeVar("T")


class Refused:
    """The errors of looks that the system refuses (another user's directory, a bad sector): all else is seen first."""

    def __init__(self) -> None:
        self._errors: dict[str, OSError] = {}

    def __call__(self, look: Callable[[], Iterable[T]], path: str) -> Iterator[T]:
        """Yield the results of a look until the system refuses it.

        Args:
            path: the path that it looks at, put into an error that names none.
        """
        try:
            yield from look()
        except FileNotFoundError:  # gone meanwhile
            return
        except OSError as error:
            error.filename = error.filename if isinstance(error.filename, str) else path
            self._errors.setdefault(path, error)

    def tell(self) -> None:
        """Raise the first OSError, with the number of the others, if there was any."""
        if self._errors:
            first, more = next(iter(self._errors.values())), len(self._errors) - 1
            first.filename += f" (and {more} more)" * bool(more)
            raise first


class Position(NamedTuple):
    """A place in the order of a state's jobs.

    Attributes:
        name: stamp and tail of a job or segment; in bad/ the whole name of a file.
        inside: index of the last job that was seen in that segment; -1: it is no segment.
    """

    name: str = ""
    inside: int = -1

    @classmethod
    def read(cls, text: str, state: str) -> Position:
        """Return the position that `__str__` wrote. Raises UsageError."""
        if not text or state == "bad":
            return cls(text)
        found = _CURSOR.fullmatch(text)
        if found is None:
            raise UsageError(f"{text[:100]!r} is no position in a list: take one that a page has returned")
        return cls(found[1], -1 if found[2] is None else int(found[2]))

    def __str__(self) -> str:
        return self.name if self.inside < 0 else f"{self.name}-{self.inside}"


def position(entry: str, state: str, index: int = -1) -> str:
    """Return the position of a file, or of a job in a segment, as text."""
    return entry if state == "bad" else str(Position(entry.partition(",")[0], index))


def scan(disk: Disk, path: str, least: str = "") -> Iterator[str]:
    """Yield the names in a directory that come after `least`; a missing directory is empty. Raises OSError."""
    for entry, _ in inodes(disk, path):
        if entry > least:
            yield entry


def inodes(disk: Disk, path: str) -> Iterator[tuple[str, int]]:
    """Yield the names and inodes in a directory, in no order; a missing directory is empty. Raises OSError."""
    try:
        with disk.opened(path, DIRECTORY) as fd, disk.calls.scandir(fd) as found:
            while some := disk.calls.entries(found, AT_ONCE):
                yield from some
    except (FileNotFoundError, NotADirectoryError):
        return


class Pages:
    """The names of some states of a queue, in order.

    Args:
        directories: returns the directories of a state.
        refused: notes the looks that the system refuses.
    """

    def __init__(
        self, disk: Disk, queue: QueueDir, directories: Callable[[QueueDir, str], list[str]], refused: Refused
    ) -> None:
        self._disk = disk
        self._queue = queue
        self._directories = directories
        self._refused = refused

    def __call__(self, states: tuple[str, ...], after: Position) -> Iterator[tuple[str, str]]:
        """Yield (name, directory) of files and segments after a position, and the segment of that position itself."""
        size, bad = FIRST_CHUNK, "bad" in states
        segment, least = after.name, after.name if bad or not after.name else after.name + "-"  # "-" follows ","
        while chunk := self._chunk(states, least, segment if after.inside >= 0 else least, size):
            yield from chunk
            if len(chunk) < size:
                return
            least = segment = chunk[-1][0]
            size = min(2 * size, LARGEST_CHUNK)

    def _chunk(self, states: tuple[str, ...], least: str, segment: str, size: int) -> list[tuple[str, str]]:
        found: list[tuple[str, str]] = []
        for state in states:
            found = self._least(found, state, least, size)
        if "ready" in states or "in_flight" in states:
            path = f"{self._queue.base}/segments"
            listed = self._refused(partial(scan, self._disk, path, segment), path)
            found += [(entry, path) for entry in listed if names.segment(entry)]
        return sorted(found)[:size]

    def _least(self, found: list[tuple[str, str]], state: str, least: str, size: int) -> list[tuple[str, str]]:
        """Return the first of `found` and of the names of a state."""
        base = f"{self._queue.base}/{state}"
        listed = list(self._refused(partial(self._directories, self._queue, state), base))
        for path in sorted(listed, key=_time_last):
            if state == "ready" and (bucket := _bucket(path)):
                if bucket < least[: names.BUCKET_DIGITS]:
                    continue
                if len(found) >= size and found[-1][0] < bucket:
                    break
            entries = self._refused(partial(scan, self._disk, path, least), path)
            found = sorted([*found, *((entry, path) for entry in heapq.nsmallest(size, entries))])[:size]
        return found


def _bucket(path: str) -> str:
    """Return the name of a bucket of ten seconds, whose names begin with it; empty: it is another directory."""
    name = os.path.basename(path)
    return name if len(name) == names.BUCKET_DIGITS and names.is_of_time(name) else ""


def _time_last(path: str) -> tuple[str, str]:
    return _bucket(path), path
