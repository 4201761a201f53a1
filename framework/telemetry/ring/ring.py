"""The ring: a preallocated file per slot, mapped by one writer and one reader, whose content outlives the processes.

header (words, kept span ids, meta, tallies) · two pages of the reader's state · data

The writer appends a record and commits it by one aligned 8-byte store of `head`: if the writer is killed before that
store, the record does not exist. A record has its length at both ends, so the ring can be read backwards. The reader
has two positions: records up to `counted` are in its counts; spans up to `sent` have left or were given up. So sent <=
counted <= head. The counts and `counted` stand together in one of the two pages, and one store of `generation` changes
both.

Both sides rely on stores that become visible in program order, as x86 guarantees. On ARM the many instructions of the
interpreter between two stores make a reordering unlikely, not impossible; the lengths at both ends would reveal it.
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

from framework.telemetry.export.health import SIGNALS
from framework.telemetry.ring import records, tallies
from framework.telemetry.ring.records import Record
from framework.telemetry.ring.tallies import Tallies, Tally

MAGIC: Final = int.from_bytes(b"WRING3\0\0", "little")  # names this layout and the layout of the records
CAPACITY: Final = 8 << 20  # bytes of records: 50,000 successes, one second of the fastest worker
PAGE: Final = 512 << 10  # bytes of the reader's state: about 400 series
KEPT_AT, META_AT, _TALLIES_AT = 4096, 8192, 16384
_STATE_AT = _TALLIES_AT + tallies.BYTES
MOST_META = _TALLIES_AT - META_AT
DATA_AT = _STATE_AT + 2 * PAGE
SIZE: Final = DATA_AT + CAPACITY  # bytes of a ring's file
# Words of the header. The reader sets COUNTED, SENT and GENERATION; the writer sets the others. WRITER is the pid of a
# worker that lets the exporter observe it, and from DROPPED on there is what processes of the slot lost of each signal.
_MAGIC, _CAPACITY, _CREATED, HEAD, _COUNTED, SENT, LOST, LOST_SPANS, _GENERATION, META, KEPT, WRITER, DROPPED = range(
    13
)
# The last processes of the slot: how many there were, and pairs of a pid and its creation (ns since the epoch).
PROCESSES, PROCESSES_AT, MOST_PROCESSES = 31, 32, 200
MOST_KEPT: Final = 512
ID_SIZE: Final = 8  # bytes: a span id
LOOK_BACK: Final = 1024  # records; a process has at most `concurrency` attempts that are recorded and not settled
_CLOCK_STEP: Final = 2.0  # seconds by which the wall clock may have gone back since an attempt began
ATTEMPTS: Final = (records.ATTEMPT, records.FACTS, records.RESCUED)
_PAGE_HEAD = struct.Struct("<II")  # length, checksum
_LENGTH = struct.Struct("<I")


class Corrupt(Exception):
    """The bytes between tail and head are no records: after a power cut, or another program wrote them."""


class RingFile:
    """The mapped file, as reader and writer both use it.

    Attributes:
        path: the file.
        created: ns since the epoch; the start time of all its series.
        capacity: bytes of records.
    """

    def __init__(self, path: Path) -> None:
        """Map the file. Raises OSError, and ValueError for a file that is not a ring of this version."""
        self.path = path
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            size = os.fstat(descriptor).st_size
            if size <= DATA_AT:
                raise ValueError(f"{path} is no ring")
            self._memory = mmap.mmap(descriptor, size)
        finally:
            os.close(descriptor)
        self._quads = memoryview(self._memory)[:KEPT_AT].cast("Q")
        self._tallies = Tallies(memoryview(self._memory)[_TALLIES_AT:_STATE_AT])
        self.capacity = self._quads[_CAPACITY]
        sane = self.sent <= self.counted <= self.head and self.head - self.sent <= self.capacity
        if self._quads[_MAGIC] != MAGIC or size != DATA_AT + self.capacity or not sane:
            raise ValueError(f"{path} is no ring of this version")
        self.created = self._quads[_CREATED]

    @property
    def head(self) -> int:
        """Return how many bytes were ever written."""
        return self._quads[HEAD]

    @property
    def counted(self) -> int:
        return self._quads[_COUNTED]

    @property
    def sent(self) -> int:
        return self._quads[SENT]

    @property
    def meta(self) -> dict[str, Any] | None:
        """Return what the writer says about itself; None: it has not written it yet."""
        length = min(self._quads[META], MOST_META)
        try:
            found = json.loads(self._memory[META_AT : META_AT + length]) if length else None
        except ValueError:
            return None
        return found if isinstance(found, dict) else None

    def created_at(self, pid: int) -> int:
        """Return when a process of this slot was created, in ns since the epoch; 0: unknown."""
        found: list[int] = self._quads[PROCESSES_AT : PROCESSES_AT + 2 * MOST_PROCESSES].tolist()
        return next((found[at + 1] for at in range(0, len(found), 2) if found[at] == pid), 0)

    def read(self, start: int, end: int) -> bytes:
        """Return a copy of the bytes between two positions."""
        at, size = start % self.capacity, end - start
        first = min(size, self.capacity - at)
        data = self._memory[DATA_AT + at : DATA_AT + at + first]
        return data if first == size else data + self._memory[DATA_AT : DATA_AT + size - first]

    def backwards(self) -> Iterator[Record]:
        """Yield all records that were not overwritten, newest first."""
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
        """Return the span ids of those attempts that are in the ring.

        The records come first, back to the attempt's start, because any number of successors may have run before this
        call. The list that a successor keeps of its predecessor's last attempts comes second: the successor fills it
        before it writes records of its own.

        Args:
            wanted: by span id, when each attempt started, seconds since the epoch.
        """
        found: set[bytes] = set()
        left = {span_id: int((since - _CLOCK_STEP) * 1e9) for span_id, since in wanted.items()}
        for number, record in enumerate(self.backwards()):
            if number % LOOK_BACK == 0:
                left = {span_id: oldest for span_id, oldest in left.items() if oldest <= record.when}
            if number == LOOK_BACK and left:  # mostly it is not there: a byte search is much faster than going on
                everything = self._everything()
                left = {span_id: oldest for span_id, oldest in left.items() if span_id in everything}
            if not left:
                break
            if record.span_id in left and record.kind in ATTEMPTS:
                found.add(record.span_id)
                del left[record.span_id]
        for number in range(MOST_KEPT):
            at = KEPT_AT + number * ID_SIZE
            span_id = self._memory[at : at + ID_SIZE]
            if span_id in wanted:
                found.add(span_id)
        return found

    def _everything(self) -> bytes:
        """Return all records as bytes, up to `capacity` of them."""
        end = self.head
        return self.read(max(0, end - self.capacity), end)

    def tallies(self) -> list[Tally]:
        """Return what the writer has counted in place since the ring was made."""
        return self._tallies.read()

    def close(self) -> None:
        self._quads.release()
        self._tallies.close()
        self._memory.close()


class RingReader(RingFile):
    """The one reader: the process that holds the exporter's lock for the instance of this ring."""

    @property
    def writer(self) -> int:
        """Return the pid of the worker that was the last to write here; 0: no worker."""
        return self._quads[WRITER]

    @property
    def dropped(self) -> dict[str, int]:
        """Return the items, by signal, that the slot's processes lost outside of this ring."""
        return {signal: self._quads[DROPPED + number] for number, signal in enumerate(SIGNALS)}

    @property
    def lost(self) -> tuple[int, int]:
        """Return how many records, and how many spans in them, found no room at all. Both numbers only grow."""
        return self._quads[LOST], self._quads[LOST_SPANS]

    def walk(self, start: int, end: int, *, most: int = 1 << 20) -> Iterator[tuple[bytes, int, int]]:
        """Yield whole records from `start` on, about `most` bytes of them: (bytes, where the record begins, its size).

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
        """Yield parsed records, for callers that need not be fast. Raises Corrupt."""
        for data, at, _ in self.walk(start, end, most=most):
            yield parsed(data, at)

    def load(self) -> dict[str, Any] | None:
        """Return the state that was committed last; None where there is none, or a power cut tore it."""
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
        self._quads[_COUNTED] = found["folded"]  # a reader may have been killed between the two stores of `commit`
        return found

    def commit(self, state: dict[str, Any]) -> None:
        """Commit the state and `counted` at once. A reader killed meanwhile leaves the previous ones.

        Raises ValueError for a state that is larger than a page.
        """
        data = encoded(state)
        if len(data) + _PAGE_HEAD.size > PAGE:
            raise ValueError(f"{self.path}: {len(data)} bytes of state")
        generation = self._quads[_GENERATION] + 1
        at = _STATE_AT + (generation & 1) * PAGE
        self._memory[at : at + _PAGE_HEAD.size + len(data)] = _PAGE_HEAD.pack(len(data), zlib.crc32(data)) + data
        self._quads[_GENERATION] = generation
        self._quads[_COUNTED] = state["folded"]

    def set_sent(self, position: int) -> None:
        """Let the writer overwrite the records up to here: their spans have left, or were given up."""
        self._quads[SENT] = max(self._quads[SENT], position)


def parsed(data: bytes, at: int) -> Record:
    """Return the record at `at`. Raises Corrupt."""
    record = records.parse(data, at)
    if record is None:
        raise Corrupt(f"no record in {len(data)} bytes at {at}")
    return record


def encoded(state: Any) -> bytes:
    """Return the state as the bytes of a page."""
    return json.dumps(state, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace")


def create(path: Path, *, capacity: int = CAPACITY) -> None:
    """Make an empty ring, unless a good one exists.

    All its blocks are allocated now, because writing to a sparse map on a full disk is SIGBUS. Raises OSError: no space
    or no permission.
    """
    try:
        RingFile(path).close()
        return
    except FileNotFoundError:
        pass
    except ValueError:  # an older version, or damaged: its content is lost
        os.unlink(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(descriptor, 0, DATA_AT + capacity)
        else:  # macOS: write zeros instead
            os.pwrite(descriptor, bytes(DATA_AT + capacity), 0)
        os.pwrite(descriptor, struct.pack("<3Q", MAGIC, capacity, time.time_ns()), 0)
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    finally:
        os.close(descriptor)
