"""The content of a job's file: a fixed header, headers as JSON, the body; then the history of attempts in slots.

The headers are one JSON object, and behind it a second one where the job has extras: readers of before the extras stop
at the end of the first, and nobody parses twice what many jobs say alike.

The part up to the body is written once. A failed attempt is written into a slot of its own page (slot 0 keeps the
first, a ring of ten the last): a torn record costs the oldest one of the ring, never the job.

Right checksums do not make a job: another program, a bug or an attacker may have written the file. So every type and
range is checked here, once, and the rest of the product may rely on them: reading gives a job, or raises Damaged.

The format may grow. A reader ignores fields that it does not know and does without those that it does not need; a file
that needs a newer reader says so in its header, and is left where it is: reading raises Newer.
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
MOST_HEADERS, MOST_BODY = 1 << 20, 1 << 30  # bytes: more is a planted giant
_NUMBERS, _FLAGS = (int, float), (bool,)  # a bool is an int, and no number

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
    """The file is not a whole job; says what is wrong with it."""


class Impossible(Damaged):
    """The file is whole, but what it says is no job of this version: it is kept, never taken for a torn one."""


class Newer(OSError):
    """The file needs a newer reader: not damaged, and not this process's to handle or to judge."""

    def __init__(self, version: int) -> None:
        super().__init__(
            errno.EPROTONOSUPPORT,
            f"its format {version} is newer than {VERSION}, which this version of the framework reads",
        )


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
    """The file of a new job. Raises ValueError: one that could not be read again."""
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
    """Reads the fixed header from the first bytes of a file. Raises Damaged, Newer."""
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
    """The job in the bytes of a whole file. Raises Damaged."""
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
        job = Job(  # by position: twelve names would cost more than the values
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
    """Return the name of a field that no job can have like this, or "": what passes can be stored and read again."""
    if type(job.id) is not str:  # any text: a file name is never made of it
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
        # Nearly all are ASCII: a call less for each.
        if type(name) is str and type(text) is str and name.isascii() and text.isascii():
            continue
        if not _is_text(name) or not _is_text(text):
            return False
    return True


def _is_number(value: object, least: float) -> bool:
    return type(value) in _NUMBERS and least <= value <= LATEST  # type: ignore[operator]


def _is_text(value: object) -> bool:
    """Return whether it is text that can be written anywhere: lone surrogates cannot."""
    return type(value) is str and (value.isascii() or not _SURROGATE.search(value))


def records(slots: bytes) -> list[Record]:
    """The attempts that can be read, oldest first; a torn or foreign slot is left out."""
    found = [_slot(slots[at : at + SLOT], at) for at in range(0, min(len(slots), SLOTS * SLOT), SLOT)]
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
        # A class may have a name with lone surrogates, which nobody could print or send.
        fields = json.loads(rest[_SLOT_REST.size :].decode("utf-8", "replace"))
        failure = _failure(fields, delivery)
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return Record(sequence, delivery, failure)


def _failure(fields: dict[str, Any], delivery: int) -> Failure:
    """Return what a record says. Raises ValueError, KeyError, TypeError: something that no attempt can have."""
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
    """Where things are in a file, and its job; a planted giant is not read. Raises Damaged, Newer, OSError.

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
