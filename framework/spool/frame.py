"""The content of a job's file: a fixed header, headers as JSON, the body; then the history of attempts in slots.

The part up to the body is written once. A failed attempt is written into a slot of its own page (slot 0 keeps the
first, a ring of ten the last): a torn record costs the oldest one of the ring, never the job.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable
from typing import Any, cast

from framework.frozen import frozen
from framework.job import Failure, Job, Reason

MAGIC = b"\x89WSPOOL\n"
VERSION = 1
SLOT = 4096
RING = 10
_FIRST_READ = 1 << 17  # bytes: nearly every job with its history
SLOTS = 1 + RING

# magic, version, flags, length of headers, length of body, offset of slots, uid, crc of headers, of body, reserved
_FIXED = struct.Struct("<8sHHIQQ16sIII")
_CRC = struct.Struct("<I")
FIXED_SIZE = _FIXED.size + _CRC.size

_ENCODE = json.JSONEncoder(separators=(",", ":")).encode  # made once; ASCII, so lone surrogates come back
_DECODE = json.JSONDecoder().raw_decode  # `json.loads` looks for an encoding and for white space first
_SLOT_MAGIC = b"ATT1"
_SLOT_HEAD = struct.Struct("<4sIIIQ")  # magic, crc of all that follows, length, sequence, delivery
_SLOT_ROOM = SLOT - _SLOT_HEAD.size
_SLOT_REST = struct.Struct("<IIQ")


class Damaged(ValueError):
    """The file is not a whole job; says what is wrong with it."""


@frozen
class Layout:
    """Where things are in a file.

    Attributes:
        headers, body: lengths in bytes.
        slots_at: offset of slot 0.
        uid: the job's.
        crc_headers, crc_body: checksums.
    """

    headers: int
    body: int
    slots_at: int
    uid: bytes
    crc_headers: int
    crc_body: int

    @property
    def end(self) -> int:
        """Bytes up to the end of the body: a shorter file is torn."""
        return FIXED_SIZE + self.headers + self.body

    @property
    def whole(self) -> int:
        """Bytes that a file has at most."""
        return self.slots_at + SLOTS * SLOT


@frozen
class Record:
    """One attempt in a slot."""

    sequence: int
    delivery: int
    failure: Failure


def encode(job: Job) -> bytes:
    """The file of a new job."""
    headers = _ENCODE(
        {
            "id": job.id,
            "queue": job.queue,
            "enqueued_at": job.enqueued_at,
            "not_before": job.not_before,
            "ttl": job.ttl,
            "chosen_id": job.chosen_id,
            "scheduled_for": job.scheduled_for,
            "headers": dict(job.headers),
        }
    ).encode("ascii")
    if len(job.uid) != 16:
        raise ValueError(f"uid of job {job.id!r} has {len(job.uid)} bytes: must be 16")
    end = FIXED_SIZE + len(headers) + len(job.payload)
    slots_at = -(-end // SLOT) * SLOT
    fixed = _FIXED.pack(
        MAGIC,
        VERSION,
        0,
        len(headers),
        len(job.payload),
        slots_at,
        job.uid,
        zlib.crc32(headers),
        zlib.crc32(job.payload),
        0,
    )
    return b"".join((fixed, _CRC.pack(zlib.crc32(fixed)), headers, job.payload))


def layout(data: bytes) -> Layout:
    """Reads the fixed header from the first bytes of a file. Raises Damaged."""
    if len(data) < FIXED_SIZE:
        raise Damaged(f"{len(data)} bytes: shorter than its header")
    magic, version, _, headers, body, slots_at, uid, crc_headers, crc_body, _ = _FIXED.unpack_from(data)
    if magic != MAGIC:
        raise Damaged("no job file")
    if _CRC.unpack_from(data, _FIXED.size)[0] != zlib.crc32(data[: _FIXED.size]):
        raise Damaged("checksum of the header")
    if version != VERSION:
        raise Damaged(f"version {version}, this is a worker for version {VERSION}")
    return Layout(headers, body, slots_at, uid, crc_headers, crc_body)


def decode(data: bytes, where: Layout) -> Job:
    """The job in the bytes of a whole file. Raises Damaged."""
    if len(data) < where.end:
        raise Damaged(f"{len(data)} bytes of {where.end}: truncated")
    start, slots_at = FIXED_SIZE + where.headers, where.slots_at
    headers, body = data[FIXED_SIZE:start], data[start : start + where.body]
    if zlib.crc32(headers) != where.crc_headers or zlib.crc32(body) != where.crc_body:
        raise Damaged("checksum of the content")
    try:
        fields, _ = _DECODE(headers.decode("ascii"))
        return Job(  # by position: eleven names would cost more than the values
            fields["id"],
            where.uid,
            fields["queue"],
            body,
            fields["headers"],
            fields["enqueued_at"],
            fields["not_before"],
            fields["ttl"],
            fields["chosen_id"],
            fields["scheduled_for"],
            tuple(r.failure for r in records(data[slots_at:])) if len(data) > slots_at else (),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise Damaged(f"headers: {error!r}") from None


def records(slots: bytes) -> list[Record]:
    """The attempts that can be read, oldest first; a torn or foreign slot is left out."""
    found = [_slot(slots[at : at + SLOT]) for at in range(0, min(len(slots), SLOTS * SLOT), SLOT)]
    return sorted((r for r in found if r is not None), key=lambda r: r.sequence)


def place(sequence: int) -> int:
    """Offset, from the first slot, of the record with this number."""
    return SLOT * (sequence if sequence == 0 else 1 + (sequence - 1) % RING)


def encode_record(sequence: int, delivery: int, failure: Failure, outcome: str) -> bytes:
    """The bytes of a slot; the longer of traceback (its head) and message (its tail) is cut until it fits."""
    message, trace = failure.message[:1000], failure.traceback[-2000:]
    while True:
        text = _failure_json(failure, message, trace, outcome)
        excess = len(text) - _SLOT_ROOM
        if excess <= 0:
            break
        cut = min(excess // 4 + 1, (max(len(trace), len(message)) + 1) // 2)
        if len(trace) >= len(message) and trace:
            trace = trace[cut:]
        elif message:
            message = message[:-cut]
        else:
            raise ValueError(f"attempt record of {failure.error_type[:200]!r} does not fit into {SLOT} bytes")
    rest = _SLOT_REST.pack(len(text), sequence, delivery) + text
    return _SLOT_MAGIC + _CRC.pack(zlib.crc32(rest)) + rest


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


def _slot(data: bytes) -> Record | None:
    if len(data) < _SLOT_HEAD.size or not data.startswith(_SLOT_MAGIC):
        return None
    _, crc, length, sequence, delivery = _SLOT_HEAD.unpack_from(data)
    rest = data[8 : _SLOT_HEAD.size + length]
    if length > _SLOT_ROOM or len(rest) != _SLOT_REST.size + length or zlib.crc32(rest) != crc:
        return None
    try:
        fields: dict[str, Any] = json.loads(rest[_SLOT_REST.size :].decode("utf-8", "surrogatepass"))
        fields.pop("outcome", None)
        fields["reason"] = cast("Reason", fields["reason"])
        return Record(sequence, delivery, Failure(delivery=delivery, **fields))
    except (ValueError, KeyError, TypeError):
        return None


def read(read_at: Callable[[int, int], bytes], size: int) -> tuple[Layout, Job]:
    """Where things are in a file, and its job; a planted giant is not read. Raises Damaged, OSError.

    Args:
        read_at: reads (length, offset).
        size: of the file in bytes.
    """
    data = read_at(min(size, _FIRST_READ), 0)
    where = layout(data)
    wanted = min(size, where.whole)
    while len(data) < wanted:
        more = read_at(wanted - len(data), len(data))
        if not more:
            break
        data += more
    return where, decode(data, where)
