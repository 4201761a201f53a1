"""The records of a ring: one per attempt, per claim, and per check for expired jobs.

A rescuer writes an attempt of a dead process with what that process had said about itself (its resource), because its
span and its counts belong to that process.

An attempt's span id is derived from the job's uid and the delivery, so it identifies both and they are not stored. A
successful attempt leaves facts (`facts.py`); any other one leaves its encoded span.
"""

from __future__ import annotations

import struct
import time
from typing import Final, NamedTuple

from framework.model.text.exceptions import LONGEST_NAME, cut

ATTEMPT, OPERATION, EXPIRED, FACTS, RESCUED, COST = 1, 2, 3, 4, 5, 6
SAMPLED, DROPPED = 1, 2  # flags: the record has a span; its span was left out for lack of room
# Flag of a RESCUED record with a span: another one, because readers of the version before would send its end as a span.
RESCUED_SPAN: Final = 32
HAS_SPAN: Final = SAMPLED | RESCUED_SPAN
# size, kind, flags, length of key, pid, length of span, two numbers, when (ns), trace id, span id
_HEAD: Final = struct.Struct("<IBBHIIddQ16s8s")
_TAIL: Final = struct.Struct("<I")
HEAD_SIZE: Final = _HEAD.size
HEAD_FORMAT: Final = _HEAD.format
FACTS_SIZE: Final = HEAD_SIZE + 40  # bytes of facts before their texts
KIND_AT, FLAGS_AT = 4, 5
LEAST: Final = (HEAD_SIZE + _TAIL.size + 7) & ~7
MOST: Final = 1 << 20  # bytes of one record; a longer span is dropped
MOST_SPAN: Final = MOST - (8 << 10)  # bytes of a span: the head and a key precede it
_PADDING: Final = tuple(bytes(n) for n in range(8))
_pack_head, _pack_tail, _now = _HEAD.pack, _TAIL.pack, time.time_ns
unpack_head = _HEAD.unpack_from


class Record(NamedTuple):
    """A record that was read.

    Attributes:
        kind: ATTEMPT, OPERATION, EXPIRED, FACTS, COST, or RESCUED for an attempt of a dead process.
        key: the series' texts joined by NUL (see `attempt_key`, `operation_key`); for facts the queue's name.
        first, second: duration and wait of an attempt; duration and count of an operation; EXPIRED: 0, count;
            COST: processor seconds, bytes.
        when: when it ended, ns since the epoch.
        span: OTLP bytes; for facts the job's id; RESCUED: see `about_of`.
    """

    size: int
    kind: int
    flags: int
    pid: int
    first: float
    second: float
    when: int
    trace_id: bytes
    span_id: bytes
    key: bytes
    span: bytes


def attempt_key(queue: str, outcome: str, then: str, failed: str, reason: str) -> bytes:
    """Return the key of an attempt.

    Args:
        outcome: the attempt's outcome.
        then: what becomes of the job.
        failed: error.type.
        reason: the reason in its Failure.
    """
    return _join(queue, outcome, then, failed, reason)


def operation_key(queue: str, operation: str, kind: str) -> bytes:
    """Return the key of an operation. `operation`: receive, ack and so on; `kind`: receive or settle."""
    return _join(queue, operation, kind)


def cost_key(queue: str, key: str, value: str) -> bytes:
    """Return the key of a cost. `key`, `value`: of the baggage."""
    return _join(queue, key, value, "cost")


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
    trace_id: bytes = b"",
    span_id: bytes = b"",
    span: bytes = b"",
) -> bytes:
    """Return the bytes of a record. Its size is a multiple of eight."""
    bare = HEAD_SIZE + len(key) + len(span) + 4
    size = (bare + 7) & ~7
    if size > MOST:
        return pack(kind, DROPPED, pid, key, first, second, trace_id, span_id, b"")
    head = _pack_head(size, kind, flags, len(key), pid, len(span), first, second, _now(), trace_id, span_id)
    return b"".join((head, key, span, _PADDING[size - bare], _pack_tail(size)))


def with_about(about: bytes, span: bytes) -> bytes:
    """Return the end of a RESCUED record: what the dead process said about itself, and its span."""
    return _TAIL.pack(len(about)) + about + span


def about_of(end: bytes) -> tuple[bytes, bytes]:
    """Return what the dead process said about itself, and its span; both are empty where the record had no room."""
    if len(end) < _TAIL.size:
        return b"", b""
    size = _TAIL.size + _TAIL.unpack_from(end)[0]
    return end[_TAIL.size : size], end[size:]


def parse(data: bytes, at: int = 0) -> Record | None:
    """Return the record at `at`; None where there is no valid record."""
    if len(data) - at < LEAST:
        return None
    size, kind, flags, key, pid, span, first, second, when, trace_id, span_id = unpack_head(data, at)
    begin = at + (FACTS_SIZE if kind == FACTS else HEAD_SIZE)
    if size % 8 or at + size < begin + key + span + 4 or at + size > len(data):
        return None
    if _TAIL.unpack_from(data, at + size - 4)[0] != size:
        return None
    middle = begin + key
    return Record(
        size, kind, flags, pid, first, second, when, trace_id, span_id,
        data[begin:middle], data[middle : middle + span],
    )  # fmt: skip
