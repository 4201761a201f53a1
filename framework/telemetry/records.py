"""What stands in a ring: one record per attempt, per operation with the engine, and per look at what expired.

An attempt's span id is derived from the job's uid and the delivery, so it names both; they are not stored again.
"""

from __future__ import annotations

import struct
import time
from typing import Final, NamedTuple

from framework.exceptions import LONGEST_NAME, cut

ATTEMPT, OPERATION, EXPIRED = 1, 2, 3
SAMPLED, DROPPED = 1, 2  # flags: a span is in it; one was, but there was no room
# size, kind, flags, length of key, pid, length of span, two numbers, delay, when (ns), trace id, span id
_HEAD: Final = struct.Struct("<IBBHIIdddQ16s8s")
_TAIL: Final = struct.Struct("<I")
_TOLD: Final = struct.Struct("<8sd16p")
HEAD_SIZE: Final = _HEAD.size
LEAST: Final = (HEAD_SIZE + _TAIL.size + 7) & ~7
MOST: Final = 1 << 20  # bytes of one record; a longer span is dropped
MOST_SPAN: Final = MOST - (8 << 10)  # bytes of a span: a key and the head stand before it
_PADDING: Final = tuple(bytes(n) for n in range(8))
_pack_head, _pack_tail, _now = _HEAD.pack, _TAIL.pack, time.time_ns


class Record(NamedTuple):
    """A record as read.

    Attributes:
        kind: ATTEMPT, OPERATION or EXPIRED.
        key: what it is counted under: texts joined by NUL (see `attempt_key`, `operation_key`).
        first, second: duration and wait of an attempt; duration and count of an operation; count of what expired.
        delay: seconds, of the outcome.
        when: its end, ns since the epoch.
        span: OTLP bytes.
    """

    size: int
    kind: int
    flags: int
    pid: int
    first: float
    second: float
    delay: float
    when: int
    trace_id: bytes
    span_id: bytes
    key: bytes
    span: bytes

    def pack_told(self) -> bytes:
        """Return 32 bytes for the table of what was told: the span id, and what only the version before this reads."""
        _, outcome, then, _, reason = split(self.key)
        lost = reason[:13] if outcome == "lost" else ""
        return _TOLD.pack(self.span_id, self.delay, f"{_SHORT[then]}{lost}".encode())


# One letter for what becomes of a job, so that the reason fits beside it.
_SHORT: Final = {
    "succeeded": "s",
    "retried": "t",
    "dead_lettered": "b",
    "released": "r",
    "discarded": "d",
    "rested": "e",
}


def attempt_key(queue: str, outcome: str, then: str, failed: str, reason: str) -> bytes:
    """Args: outcome: of the attempt; then: of its job; failed: error.type; reason: as in Failure."""
    return _join(queue, outcome, then, failed, reason)


def operation_key(queue: str, operation: str, kind: str) -> bytes:
    """Args: operation: receive, ack and so on; kind: receive or settle."""
    return _join(queue, operation, kind)


def _join(*texts: str) -> bytes:
    return "\0".join(cut(text.replace("\0", " "), LONGEST_NAME) for text in texts).encode("utf-8", "replace")


def split(key: bytes) -> list[str]:
    return key.decode("utf-8", "replace").split("\0")


def pack(
    kind: int,
    flags: int,
    pid: int,
    key: bytes,
    first: float,
    second: float,
    delay: float = 0.0,
    trace_id: bytes = b"",
    span_id: bytes = b"",
    span: bytes = b"",
) -> bytes:
    """A record; its size is a multiple of eight."""
    bare = HEAD_SIZE + len(key) + len(span) + 4
    size = (bare + 7) & ~7
    if size > MOST:
        return pack(kind, DROPPED, pid, key, first, second, delay, trace_id, span_id, b"")
    head = _pack_head(size, kind, flags, len(key), pid, len(span), first, second, delay, _now(), trace_id, span_id)
    return b"".join((head, key, span, _PADDING[size - bare], _pack_tail(size)))


def parse(data: bytes, at: int = 0) -> Record | None:
    """The record at a place; None: there is none."""
    if len(data) - at < LEAST:
        return None
    size, kind, flags, key, pid, span, first, second, delay, when, trace_id, span_id = _HEAD.unpack_from(data, at)
    begin = at + HEAD_SIZE
    if size % 8 or size < HEAD_SIZE + key + span + 4 or at + size > len(data):
        return None
    if _TAIL.unpack_from(data, at + size - 4)[0] != size:
        return None
    middle = begin + key
    return Record(
        size, kind, flags, pid, first, second, delay, when, trace_id, span_id,
        data[begin:middle], data[middle : middle + span],
    )  # fmt: skip
