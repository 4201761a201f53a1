"""The history in a job file: slots of one page each, behind the body, and one failed attempt in each.

Slot 0 keeps the first attempt, a ring of ten keeps the last. A torn record costs the oldest one of the ring, never the
job.
"""

from __future__ import annotations

import json
import re
import struct
import zlib
from typing import Any

from framework.engine.spool.format.names import MOST_NUMBER
from framework.model.extras import LATEST
from framework.model.frozen import frozen
from framework.model.job import Failure

SLOT = 4096
RING = 10
SLOTS = 1 + RING
NUMBERS = (int, float)  # exact types: a bool is an int, but does not count as a number here
_CRC = struct.Struct("<I")
_MAGIC = b"ATT1"
_HEAD = struct.Struct("<4sIIIQ")  # magic, crc of all that follows, length, sequence, delivery
_ROOM = SLOT - _HEAD.size
_REST = struct.Struct("<IIQ")
_TEXTS = ("reason", "message", "traceback", "trace_id", "error_type", "span_id", "queue")
_SURROGATE = re.compile("[\ud800-\udfff]")


@frozen
class Record:
    """One attempt in a slot."""

    sequence: int
    delivery: int
    failure: Failure


def records(slots: bytes) -> list[Record]:
    """Return the attempts that can be read, oldest first, without torn or foreign slots."""
    found = [_slot(slots[at : at + SLOT], at) for at in range(0, min(len(slots), SLOTS * SLOT), SLOT)]
    return sorted((r for r in found if r is not None), key=lambda r: r.sequence)


def offset(sequence: int) -> int:
    """Return the offset, from the first slot, of the record with this number."""
    return SLOT * (sequence if sequence == 0 else 1 + (sequence - 1) % RING)


def encode_record(sequence: int, delivery: int, failure: Failure, outcome: str) -> bytes:
    """Return the bytes of a slot; the longer of traceback (at its head) and message (at its tail) is cut to fit."""
    message, trace = failure.message[:1000], failure.traceback[-2000:]
    while True:
        text = _failure_json(failure, message, trace, outcome)
        excess = len(text) - _ROOM
        if excess <= 0:
            break
        cut = min(excess // 4 + 1, (max(len(trace), len(message)) + 1) // 2)
        if len(trace) >= len(message) and trace:
            trace = trace[cut:]
        elif message:
            message = message[:-cut]
        else:
            raise ValueError(f"attempt record of {failure.error_type[:200]!r} does not fit into {SLOT} bytes")
    rest = _REST.pack(len(text), sequence, delivery) + text
    return _MAGIC + _CRC.pack(zlib.crc32(rest)) + rest


def _failure_json(failure: Failure, message: str, trace: str, outcome: str) -> bytes:
    fields = {
        "attempt": failure.attempt,
        "reason": failure.reason,
        "message": message,
        "traceback": trace,
        "trace_id": failure.trace_id[:32],
        "error_type": failure.error_type[:200],
        "span_id": failure.span_id[:16],
        "queue": failure.queue,
        "started_at": failure.started_at,
        "ended_at": failure.ended_at,
        "outcome": outcome,
    }
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")


def _slot(data: bytes, at: int) -> Record | None:
    if len(data) < _HEAD.size or not data.startswith(_MAGIC):
        return None
    _, crc, length, sequence, delivery = _HEAD.unpack_from(data)
    rest = data[8 : _HEAD.size + length]
    if length > _ROOM or len(rest) != _REST.size + length or zlib.crc32(rest) != crc:
        return None
    if sequence > MOST_NUMBER or delivery > MOST_NUMBER or offset(sequence) != at:
        return None
    try:
        # A class name may have lone surrogates, which could not be printed or sent.
        fields = json.loads(rest[_REST.size :].decode("utf-8", "replace"))
        failure = _failure(fields, delivery)
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return Record(sequence, delivery, failure)


def _failure(fields: dict[str, Any], delivery: int) -> Failure:
    """Return the failure in a record. Raises ValueError, KeyError, TypeError: a value is impossible."""
    attempt, started_at, ended_at = fields["attempt"], fields["started_at"], fields["ended_at"]
    texts = {name: fields[name] for name in _TEXTS}
    if type(attempt) is not int or not 0 <= attempt <= MOST_NUMBER:
        raise ValueError("attempt")
    if not is_number(started_at, 0) or not is_number(ended_at, 0):
        raise ValueError("moments")
    if not all(map(is_text, texts.values())):
        raise ValueError("texts")
    return Failure(attempt=attempt, delivery=delivery, started_at=started_at, ended_at=ended_at, **texts)


def is_number(value: object, least: float) -> bool:
    return type(value) in NUMBERS and least <= value <= LATEST  # type: ignore[operator]


def is_text(value: object) -> bool:
    """Return whether this is text that can be encoded; text with lone surrogates cannot."""
    return type(value) is str and (value.isascii() or not _SURROGATE.search(value))
