"""Telemetry that outlives its process: a preallocated file per slot, mapped by one writer and one reader.

header (words, told, meta, tallies) · two pages of the reader's state · data

The writer appends records and commits each by one aligned 8-byte store of `head`: killed before it, the record never
was. Records carry their length at both ends, so the last one is found backwards. The reader has two tails: up to
`folded` the records are in its counts, up to `sent` their spans have left or were given up; sent <= folded <= head. The
counts and `folded` stand together in one of the two pages and change by one store of `generation`.

Both sides trust that stores become visible in program order, which x86 gives; on ARM the interpreter's many
instructions between the two stores make a reorder unlikely, not impossible, and the lengths at both ends would show it.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
import time
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from framework.telemetry.ring import records, tallies
from framework.telemetry.ring.records import Record
from framework.telemetry.ring.tallies import Tallies, Tally

MAGIC: Final = int.from_bytes(b"WRING2\0\0", "little")  # of this layout and of that of the records
CAPACITY: Final = 8 << 20  # bytes of records: 50,000 successes, a second of the fastest worker
PAGE: Final = 512 << 10  # bytes of the reader's state: some 400 series
TOLD_AT, META_AT, _TALLIES_AT = 4096, 8192, 16384
_STATE_AT = _TALLIES_AT + tallies.BYTES
MOST_META = _TALLIES_AT - META_AT
DATA_AT = _STATE_AT + 2 * PAGE
SIZE: Final = DATA_AT + CAPACITY  # bytes of a ring's file
# Words of the header. The writer's: HEAD, LOST, LOST_SPANS, TOLD; the reader's: FOLDED, SENT, GENERATION.
_MAGIC, _CAPACITY, _CREATED, HEAD, _FOLDED, SENT, LOST, LOST_SPANS, _GENERATION, META, TOLD = range(11)
TOLDS: Final = 512
TOLD_SIZE: Final = 8  # bytes: a span id
LOOK_BACK: Final = 1024  # records; a process has at most its concurrency of attempts that are told and not settled
_CLOCK_STEP: Final = 2.0  # seconds by which the wall clock may have been set back since an attempt began
ATTEMPTS: Final = (records.ATTEMPT, records.FACTS)
_PAGE_HEAD = struct.Struct("<II")  # length, checksum
_LENGTH = struct.Struct("<I")


class Corrupt(Exception):
    """What stands between tail and head are no records: a power cut, or somebody else's bytes."""


class RingFile:
    """The mapped file, as both sides see it.

    Attributes:
        path: where it lies.
        created: ns since the epoch: where all its series begin.
        capacity: bytes of records.
    """

    def __init__(self, path: Path) -> None:
        """Raises OSError, ValueError: no ring of this version."""
        self.path = path
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            size = os.fstat(descriptor).st_size
            if size <= DATA_AT:
                raise ValueError(f"{path} is no ring")
            self._memory = mmap.mmap(descriptor, size)
        finally:
            os.close(descriptor)
        self._quads = memoryview(self._memory)[:TOLD_AT].cast("Q")
        self._tallies = Tallies(memoryview(self._memory)[_TALLIES_AT:_STATE_AT])
        self.capacity = self._quads[_CAPACITY]
        sane = self.sent <= self.folded <= self.head and self.head - self.sent <= self.capacity
        if self._quads[_MAGIC] != MAGIC or size != DATA_AT + self.capacity or not sane:
            raise ValueError(f"{path} is no ring of this version")
        self.created = self._quads[_CREATED]

    @property
    def head(self) -> int:
        """Bytes that were ever written."""
        return self._quads[HEAD]

    @property
    def folded(self) -> int:
        return self._quads[_FOLDED]

    @property
    def sent(self) -> int:
        return self._quads[SENT]

    @property
    def meta(self) -> dict[str, Any] | None:
        """What the writer says of itself; None: it has not yet."""
        length = min(self._quads[META], MOST_META)
        try:
            found = json.loads(self._memory[META_AT : META_AT + length]) if length else None
        except ValueError:
            return None
        return found if isinstance(found, dict) else None

    def read(self, start: int, end: int) -> bytes:
        """A copy of what stands between two positions."""
        at, size = start % self.capacity, end - start
        first = min(size, self.capacity - at)
        data = self._memory[DATA_AT + at : DATA_AT + at + first]
        return data if first == size else data + self._memory[DATA_AT : DATA_AT + size - first]

    def backwards(self) -> Iterator[Record]:
        """All records, newest first, as far as they were not overwritten."""
        end = self.head
        begin = max(0, end - self.capacity)
        while end - records.LEAST >= begin:
            (size,) = _LENGTH.unpack(self.read(end - 4, end))
            if not records.LEAST <= size <= end - begin:
                return
            record = records.parse(self.read(end - size, end))
            if record is None:
                return
            yield record
            end -= size

    def known(self, wanted: Mapping[bytes, float]) -> set[bytes]:
        """Return the span ids of those attempts that are there.

        The records first, back to the attempt's start: any number of successors may have lived before somebody asks.
        Then what a successor kept of the last ones: it keeps them before it writes its own.

        Args:
            wanted: when each started, seconds since the epoch, by span id.
        """
        found: set[bytes] = set()
        left = {span_id: int((since - _CLOCK_STEP) * 1e9) for span_id, since in wanted.items()}
        for number, record in enumerate(self.backwards()):
            if number % LOOK_BACK == 0:
                left = {span_id: oldest for span_id, oldest in left.items() if oldest <= record.when}
            if number == LOOK_BACK and left:  # mostly in vain: a search for bytes is much faster than to go on
                everything = self._everything()
                left = {span_id: oldest for span_id, oldest in left.items() if span_id in everything}
            if not left:
                break
            if record.span_id in left and record.kind in ATTEMPTS:
                found.add(record.span_id)
                del left[record.span_id]
        for number in range(TOLDS):
            at = TOLD_AT + number * TOLD_SIZE
            span_id = self._memory[at : at + TOLD_SIZE]
            if span_id in wanted:
                found.add(span_id)
        return found

    def _everything(self) -> bytes:
        """Up to `capacity` bytes of records."""
        end = self.head
        return self.read(max(0, end - self.capacity), end)

    def tallies(self) -> list[Tally]:
        """What the writer has counted in place since the ring was made."""
        return self._tallies.read()

    def close(self) -> None:
        self._quads.release()
        self._tallies.close()
        self._memory.close()


class RingReader(RingFile):
    """The one reader: whoever holds the lock of the exporter of this ring's instance."""

    @property
    def lost(self) -> tuple[int, int]:
        """Records, and spans in them, for which there was no room at all. They only grow."""
        return self._quads[LOST], self._quads[LOST_SPANS]

    def walk(self, start: int, end: int, *, most: int = 1 << 20) -> Iterator[tuple[bytes, int, int]]:
        """Whole records from `start` on, about `most` bytes of them: (bytes, where in them it begins, its size).

        Raises Corrupt.
        """
        data = self.read(start, min(end, start + most + records.MOST))
        at, size, whole = 0, len(data), start + len(data) == end
        stop = min(size - records.LEAST, most - 1)
        while at <= stop:
            length = _LENGTH.unpack_from(data, at)[0]
            if at + length > size and not whole:
                break
            if length % 8 or length < records.LEAST or at + length > size:
                raise Corrupt(f"{self.path}: no record at {start + at}")
            if _LENGTH.unpack_from(data, at + length - 4)[0] != length:
                raise Corrupt(f"{self.path}: no record at {start + at}")
            yield data, at, length
            at += length

    def records(self, start: int, end: int, *, most: int = 1 << 20) -> Iterator[Record]:
        """The same, as they are read by all that need not be fast. Raises Corrupt."""
        for data, at, _ in self.walk(start, end, most=most):
            yield parsed(data, at)

    def load(self) -> dict[str, Any] | None:
        """The state that was committed last; None: none, or torn by a power cut."""
        if not self._quads[_GENERATION]:
            return None
        at = _STATE_AT + (self._quads[_GENERATION] & 1) * PAGE
        length, checksum = _PAGE_HEAD.unpack_from(self._memory, at)
        data = self._memory[at + _PAGE_HEAD.size : at + _PAGE_HEAD.size + min(length, PAGE)]
        if zlib.crc32(data) != checksum:
            return None
        found = json.loads(data)
        if not isinstance(found, dict):
            return None
        self._quads[_FOLDED] = found["folded"]  # a reader may have been killed between its two stores
        return found

    def commit(self, state: dict[str, Any]) -> None:
        """State and its tail `folded` at once: a reader killed on the way leaves the last ones. ValueError: too big."""
        data = encoded(state)
        if len(data) + _PAGE_HEAD.size > PAGE:
            raise ValueError(f"{self.path}: {len(data)} bytes of state")
        generation = self._quads[_GENERATION] + 1
        at = _STATE_AT + (generation & 1) * PAGE
        self._memory[at : at + _PAGE_HEAD.size + len(data)] = _PAGE_HEAD.pack(len(data), zlib.crc32(data)) + data
        self._quads[_GENERATION] = generation
        self._quads[_FOLDED] = state["folded"]

    def set_sent(self, position: int) -> None:
        """Up to here spans have left, or were given up: the writer may overwrite them."""
        self._quads[SENT] = max(self._quads[SENT], position)


def parsed(data: bytes, at: int) -> Record:
    """The record at a place. Raises Corrupt."""
    record = records.parse(data, at)
    if record is None:
        raise Corrupt(f"no record in {len(data)} bytes at {at}")
    return record


def encoded(state: Any) -> bytes:
    """State as it stands in a page."""
    return json.dumps(state, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace")


def create(path: Path, *, capacity: int = CAPACITY) -> None:
    """An empty ring, unless there is a good one. Its blocks are allocated now: a sparse map on a full disk is SIGBUS.

    Raises OSError: no space, no right.
    """
    try:
        RingFile(path).close()
        return
    except FileNotFoundError:
        pass
    except ValueError:  # of an older version, or damaged: what it held is lost
        os.unlink(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(descriptor, 0, DATA_AT + capacity)
        else:  # macOS: write it out instead
            os.pwrite(descriptor, bytes(DATA_AT + capacity), 0)
        os.pwrite(descriptor, struct.pack("<3Q", MAGIC, capacity, time.time_ns()), 0)
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    finally:
        os.close(descriptor)
