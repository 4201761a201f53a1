"""The history of a tree: how many attempts ended on each queue in each quarter of a minute, and how long they took.

The exporter appends a line to a file in the tree's directory, and pages read it, also when the whole tree is gone. The
file is renamed after an hour, so that there is always the last hour, and at most two of them. Nothing depends on it: it
is not flushed, and a line that is no record is passed over.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any, Final

EVERY: Final = 15.0  # seconds between two lines
HOUR: Final = 3600.0
SUFFIX, BEFORE = ".history", ".history.before"
MOST: Final = 8 << 20  # bytes of a file: beyond, it is renamed early
_FLAGS: Final = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


@dataclass(slots=True)
class Counts:
    """The attempts of a queue that ended.

    Attributes:
        good, failed: without and with an error.
        took, waited: how many took, and had waited, up to each bound of `WAIT_BOUNDS`; the last is beyond all of them.
            They may be shorter: what is missing is 0.
    """

    good: int = 0
    failed: int = 0
    took: list[int] = field(default_factory=list)
    waited: list[int] = field(default_factory=list)

    @property
    def attempts(self) -> int:
        """Return how many ended."""
        return self.good + self.failed

    def add(self, other: Counts, sign: int = 1) -> None:
        """Add the counts of another; -1: take them away."""
        self.good += sign * other.good
        self.failed += sign * other.failed
        self.took = [a + sign * b for a, b in zip_longest(self.took, other.took, fillvalue=0)]
        self.waited = [a + sign * b for a, b in zip_longest(self.waited, other.waited, fillvalue=0)]

    def plain(self) -> list[Any]:
        """Return what a line has of it."""
        return [self.good, self.failed, _cut(self.took), _cut(self.waited)]


@dataclass(frozen=True, slots=True)
class Record:
    """A line.

    Attributes:
        at: when it was written, in seconds since the epoch. seconds: the time before that which it covers.
        queues: what ended in that time. A queue that is not among them had none.
    """

    at: float
    seconds: float
    queues: Mapping[str, Counts]

    @classmethod
    def read(cls, line: bytes) -> Record | None:
        """Return the record in a line; None: it is none, or one of another version."""
        try:
            at, seconds, queues = json.loads(line)
            found = {str(name): Counts(*_numbers(one)) for name, one in queues.items()}
            return cls(float(at), float(seconds), found) if 0 < seconds <= HOUR else None
        except (ValueError, TypeError, AttributeError, RecursionError):
            return None


def _numbers(plain: Any) -> tuple[int, int, list[int], list[int]]:
    good, failed, took, waited = plain
    for number in (good, failed, *took, *waited):
        if type(number) is not int or number < 0:
            raise ValueError(number)
    return good, failed, list(took), list(waited)


def _cut(counts: list[int]) -> list[int]:
    """Return the counts without the zeros at the end."""
    end = next((at for at in range(len(counts), 0, -1) if counts[at - 1]), 0)
    return counts[:end]


def append(path: Path, record: Record) -> None:
    """Append a record; rename the file first where it is full. Raises OSError: it is not noted."""
    plain = [round(record.at, 2), round(record.seconds, 2), {name: one.plain() for name, one in record.queues.items()}]
    line = json.dumps(plain, separators=(",", ":")).encode() + b"\n"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | _FLAGS, 0o600)
    try:
        first = Record.read(os.pread(descriptor, MOST, 0).partition(b"\n")[0])
        full = os.fstat(descriptor).st_size + len(line) > MOST or (first and not 0 <= record.at - first.at < HOUR)
        if full:
            os.close(descriptor)
            os.replace(path, path.with_suffix(BEFORE))
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | _FLAGS, 0o600)
        os.write(descriptor, line)
    finally:
        os.close(descriptor)


class Reader:
    """The records of all trees of a directory. It reads only what is new since its last look."""

    def __init__(self) -> None:
        # Bytes that were read, by the tree and the first line of a file: it may be renamed, and inodes are used again.
        self._read: dict[tuple[str, bytes], int] = {}
        self._records: dict[str, list[Record]] = {}

    def look(self, directory: Path, now: float) -> Mapping[str, list[Record]]:
        """Return the records of the last hour, oldest first, by the number of their tree. Raises OSError."""
        read: dict[tuple[str, bytes], int] = {}
        for entry in sorted(os.listdir(directory), reverse=True):  # the older file of a tree comes first
            if entry.endswith((SUFFIX, BEFORE)):
                with suppress(OSError):  # it is gone, or is no file of ours
                    self._one(directory / entry, entry.partition(".")[0], read)
        self._read = read
        for tree, records in self._records.items():
            self._records[tree] = [one for one in records if now - HOUR - EVERY < one.at <= now + HOUR]
        return self._records

    def _one(self, path: Path, tree: str, read: dict[tuple[str, bytes], int]) -> None:
        descriptor = os.open(path, os.O_RDONLY | _FLAGS)
        try:
            key = tree, os.pread(descriptor, 200, 0).partition(b"\n")[0]
            done = self._read.get(key, 0)
            data = os.pread(descriptor, MOST, done)
        finally:
            os.close(descriptor)
        whole = data.rpartition(b"\n")[0]
        records = (Record.read(line) for line in whole.splitlines())
        self._records.setdefault(tree, []).extend(one for one in records if one is not None)
        read[key] = done + len(whole) + bool(whole)
