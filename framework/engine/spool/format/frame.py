"""The content of a job file: a fixed header, headers as JSON, the body; then the history of attempts in slots.

The headers are one JSON object, followed by a second one where the job has extras. Readers of versions without extras
stop at the end of the first, and extras that many jobs have in common are parsed once.

The part up to the body is written once. A failed attempt is written into a slot, a page of its own (slot 0 keeps the
first, a ring of ten keeps the last). A torn record costs the oldest one of the ring, never the job.

Right checksums do not prove that a file is a job: another program, a bug or an attacker may have written it. So this
module checks every type and range once, and the other modules rely on that: reading gives a job, or raises Damaged.

The format may grow. A reader ignores fields that it does not know and does without those that it does not need. A file
that needs a newer reader says so in its header and stays where it is: reading raises Newer.
"""

from __future__ import annotations

import errno
import json
import re
import struct
import zlib
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from framework.engine.spool.format.names import MOST_NUMBER
from framework.model.extras import EARLIEST, LATEST, NONE, unpack
from framework.model.frozen import frozen
from framework.model.job import Failure, Job
from framework.model.options import NAME

MAGIC = b"\x89WSPOOL\n"
VERSION = 1  # of the oldest reader that can read a file
SLOT = 4096
RING = 10
_FIRST_READ = 1 << 17  # bytes: nearly every job with its history
SLOTS = 1 + RING
MOST_HEADERS, MOST_BODY = 1 << 20, 1 << 30  # bytes: the spool writes no larger ones
_NUMBERS, _FLAGS = (int, float), (bool,)  # exact types: a bool is an int, but does not count as a number here

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
_TEXTS = ("reason", "message", "traceback", "trace_id", "error_type", "span_id", "queue")
_SURROGATE = re.compile("[\ud800-\udfff]")


class Damaged(ValueError):
    """An error: the file is not a whole job. The message says what is wrong with it."""


class Impossible(Damaged):
    """An error: the file is whole, but not a possible job of this version. It is kept, and never treated as torn."""


class Newer(OSError):
    """An error: the file needs a newer reader. It is not damaged, and this process leaves it alone."""

    def __init__(self, version: int) -> None:
        super().__init__(
            errno.EPROTONOSUPPORT,
            f"its format {version} is newer than {VERSION}, which this version of the framework reads",
        )


@frozen
class Layout:
    """The layout of one file, as its fixed header says it.

    Attributes:
        headers, body: lengths in bytes.
        slots_at: offset of slot 0.
        uid: the job's uid.
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
        """Return the number of bytes up to the end of the body; a shorter file is torn."""
        return FIXED_SIZE + self.headers + self.body

    @property
    def whole(self) -> int:
        """Return the most bytes that the file can have."""
        return self.slots_at + SLOTS * SLOT


@frozen
class Record:
    """One attempt in a slot."""

    sequence: int
    delivery: int
    failure: Failure


def encode(job: Job) -> bytes:
    """Return the bytes of a new job's file. Raises ValueError: it could not be read again."""
    wrong = flaw(job)
    if wrong:
        raise ValueError(f"impossible {wrong} of job {job.id!r:.100}")
    text = _ENCODE(
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
    )
    if job.extras is not NONE:
        text += job.extras.text
    headers = text.encode("ascii")
    if len(job.uid) != 16:
        raise ValueError(f"uid of job {job.id!r} has {len(job.uid)} bytes: must be 16")
    if len(headers) > MOST_HEADERS or len(job.payload) > MOST_BODY:
        raise ValueError(f"job {job.id!r:.100} is too large: headers {len(headers)}, payload {len(job.payload)} bytes")
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
    """Read the fixed header from the first bytes of a file. Raises Damaged, Newer."""
    if len(data) < FIXED_SIZE:
        raise Damaged(f"{len(data)} bytes: shorter than its header")
    magic, version, _, headers, body, slots_at, uid, crc_headers, crc_body, _ = _FIXED.unpack_from(data)
    if magic != MAGIC:
        raise Damaged("no job file")
    if _CRC.unpack_from(data, _FIXED.size)[0] != zlib.crc32(data[: _FIXED.size]):
        raise Damaged("checksum of the header")
    if version > VERSION:
        raise Newer(version)
    if version < 1:
        raise Impossible(f"version {version}")
    found = Layout(headers, body, slots_at, uid, crc_headers, crc_body)
    if headers > MOST_HEADERS or body > MOST_BODY or not 0 <= slots_at - found.end <= SLOT:
        raise Impossible(f"lengths: headers {headers}, body {body}, history at {slots_at}")
    return found


def decode(data: bytes, where: Layout) -> Job:
    """Return the job in the bytes of a whole file. Raises Damaged."""
    if len(data) < where.end:
        raise Damaged(f"{len(data)} bytes of {where.end}: truncated")
    start, slots_at = FIXED_SIZE + where.headers, where.slots_at
    headers, body = data[FIXED_SIZE:start], data[start : start + where.body]
    if zlib.crc32(headers) != where.crc_headers or zlib.crc32(body) != where.crc_body:
        raise Damaged("checksum of the content")
    try:
        text = headers.decode("ascii")
        fields, end = _DECODE(text)
        find = fields.get
        job = Job(  # by position: twelve keyword arguments would cost more than the values
            fields["id"],
            where.uid,
            fields["queue"],
            body,
            find("headers", {}),
            fields["enqueued_at"],
            find("not_before"),
            find("ttl"),
            find("chosen_id", False),
            find("scheduled_for"),
            tuple(r.failure for r in records(data[slots_at:])) if len(data) > slots_at else (),
            NONE if end == len(text) else unpack(text[end:]),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Impossible(f"headers: {error!r:.200}") from None
    wrong = flaw(job)
    if wrong:
        raise Impossible(f"headers: impossible {wrong}")
    return job


def flaw(job: Job) -> str:
    """Return the name of a field with an impossible value; "": the job can be stored and read again."""
    if type(job.id) is not str:  # any text will do: no file name contains it
        return "id"
    if type(job.queue) is not str or len(job.queue) > 100 or not is_name(job.queue):
        return "queue"
    if not _is_number(job.enqueued_at, 0):
        return "enqueued_at"
    if job.not_before is not None and not _is_number(job.not_before, EARLIEST):
        return "not_before"
    if job.ttl is not None and not _is_number(job.ttl, 0):
        return "ttl"
    if type(job.chosen_id) not in _FLAGS:
        return "chosen_id"
    if job.scheduled_for is not None and not _is_number(job.scheduled_for, EARLIEST):
        return "scheduled_for"
    return "" if _are_texts(job.headers) else "headers"


@lru_cache(maxsize=1024)
def is_name(queue: str) -> bool:
    """Return whether a queue can have this name."""
    return NAME.fullmatch(queue) is not None


def _are_texts(headers: object) -> bool:
    if type(headers) is not dict and not isinstance(headers, Mapping):
        return False
    for name, text in headers.items():
        # Nearly all are ASCII: this saves a call for each text.
        if type(name) is str and type(text) is str and name.isascii() and text.isascii():
            continue
        if not _is_text(name) or not _is_text(text):
            return False
    return True


def _is_number(value: object, least: float) -> bool:
    return type(value) in _NUMBERS and least <= value <= LATEST  # type: ignore[operator]


def _is_text(value: object) -> bool:
    """Return whether this is text that can be encoded; text with lone surrogates cannot."""
    return type(value) is str and (value.isascii() or not _SURROGATE.search(value))


def records(slots: bytes) -> list[Record]:
    """Return the attempts that can be read, oldest first, without torn or foreign slots."""
    found = [_slot(slots[at : at + SLOT], at) for at in range(0, min(len(slots), SLOTS * SLOT), SLOT)]
    return sorted((r for r in found if r is not None), key=lambda r: r.sequence)


def place(sequence: int) -> int:
    """Return the offset, from the first slot, of the record with this number."""
    return SLOT * (sequence if sequence == 0 else 1 + (sequence - 1) % RING)


def encode_record(sequence: int, delivery: int, failure: Failure, outcome: str) -> bytes:
    """Return the bytes of a slot; the longer of traceback (at its head) and message (at its tail) is cut to fit."""
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


def _slot(data: bytes, at: int) -> Record | None:
    if len(data) < _SLOT_HEAD.size or not data.startswith(_SLOT_MAGIC):
        return None
    _, crc, length, sequence, delivery = _SLOT_HEAD.unpack_from(data)
    rest = data[8 : _SLOT_HEAD.size + length]
    if length > _SLOT_ROOM or len(rest) != _SLOT_REST.size + length or zlib.crc32(rest) != crc:
        return None
    if sequence > MOST_NUMBER or delivery > MOST_NUMBER or place(sequence) != at:
        return None
    try:
        # A class name may have lone surrogates, which could not be printed or sent.
        fields = json.loads(rest[_SLOT_REST.size :].decode("utf-8", "replace"))
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
    if not _is_number(started_at, 0) or not _is_number(ended_at, 0):
        raise ValueError("moments")
    if not all(map(_is_text, texts.values())):
        raise ValueError("texts")
    return Failure(attempt=attempt, delivery=delivery, started_at=started_at, ended_at=ended_at, **texts)


def read(read_at: Callable[[int, int], bytes], size: int) -> tuple[Layout, Job]:
    """Return the layout of a file and its job. Raises Damaged, Newer, OSError.

    A file that claims to be larger than any job file is not read.

    Args:
        read_at: reads (length, offset).
        size: size of the file in bytes.
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
