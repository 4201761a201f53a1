"""Histograms that a ring's writer counts in place: each has a fixed position, instead of one record per number.

They hold the durations of settlements, and the successful attempts that find a full ring. A tally belongs to the slot:
each process continues the count of the previous one, and the reader adds it to what it has counted from records. A
process that is killed between the stores of one number loses that number's part of the sum, never its count.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from typing import Final, NamedTuple

from framework.telemetry.names import LONG_BUCKETS, SHORT_BUCKETS

SETTLEMENT, DURATION, WAIT = range(1, 4)  # what is counted; the last two belong to attempts
_BOUNDS: Final = {SETTLEMENT: SHORT_BUCKETS, DURATION: LONG_BUCKETS, WAIT: LONG_BUCKETS}
# Words of a tally: one with kind and key length, then key, sum, least and most (ns), buckets.
_KEY, _TOTAL, _LEAST, _MOST, _COUNTS, _WORDS = 1, 17, 18, 19, 20, 44
_KEY_BYTES: Final = (_TOTAL - _KEY) * 8
BYTES: Final = 64 << 10  # of all tallies
_TALLIES: Final = BYTES // (_WORDS * 8)
_LIMIT: Final = 2**63


class Tally(NamedTuple):
    """A tally that was read. Times are in seconds."""

    kind: int
    key: bytes
    counts: list[int]
    total: float
    least: float
    most: float


class Tallies:
    """The tallies in a ring's file. Any thread of the writer may add; any process may read."""

    def __init__(self, memory: memoryview) -> None:
        self._bytes, self._words = memory, memory.cast("Q")
        self._lock = threading.Lock()
        self._offsets: dict[int, dict[bytes, int]] = {kind: {} for kind in _BOUNDS}
        self._next = 0

    def add(self, kind: int, key: bytes, seconds: float) -> bool:
        """Count a number. Return False if there is no room, or the number cannot be counted."""
        words, ns = self._words, int(seconds * 1e9)
        with self._lock:
            at = self._offsets[kind].get(key, -1)
            if at < 0 and (at := self._offset_of(kind, key)) < 0:
                return False
            total = words[at + _TOTAL] + ns
            if not 0 <= ns <= total < _LIMIT:
                return False
            words[at + _COUNTS + bisect_left(_BOUNDS[kind], seconds)] += 1
            words[at + _TOTAL] = total
            if ns < words[at + _LEAST]:
                words[at + _LEAST] = ns
            if ns > words[at + _MOST]:
                words[at + _MOST] = ns
        return True

    def read(self) -> list[Tally]:
        """Return all tallies that have counted something."""
        found = []
        for number in range(_TALLIES):
            at = number * _WORDS
            if not self._words[at]:
                break
            kind, counts = self._words[at] & 0xFF, self._words[at + _COUNTS : at + _WORDS].tolist()
            if kind in _BOUNDS and any(counts):
                numbers = [self._words[at + word] / 1e9 for word in (_TOTAL, _LEAST, _MOST)]
                found.append(Tally(kind, self._key_at(at), counts[: len(_BOUNDS[kind]) + 1], *numbers))
        return found

    def close(self) -> None:
        self._words.release()
        self._bytes.release()

    def _offset_of(self, kind: int, key: bytes) -> int:
        """Return the position of a tally at its first use in this process; -1: there is no more room."""
        words = self._words
        while self._next < _TALLIES and words[self._next * _WORDS]:  # made by earlier processes of this slot
            at = self._next * _WORDS
            if (known := words[at] & 0xFF) in _BOUNDS:
                self._offsets[known][self._key_at(at)] = at
            self._next += 1
        found = self._offsets[kind].get(key, -1)
        if found >= 0 or self._next == _TALLIES or len(key) > _KEY_BYTES:
            return found
        at = self._offsets[kind][key] = self._next * _WORDS
        self._bytes[(at + _KEY) * 8 : (at + _TOTAL) * 8] = key.ljust(_KEY_BYTES, b"\0")
        words[at + _LEAST] = _LIMIT
        words[at] = kind | len(key) << 8  # the last store publishes the tally
        self._next += 1
        return at

    def _key_at(self, at: int) -> bytes:
        begin = (at + _KEY) * 8
        return bytes(self._bytes[begin : begin + min(self._words[at] >> 8, _KEY_BYTES)])
