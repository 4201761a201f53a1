"""The bytes of a segment: a head, the words, then one record for each job.

    head    fixed fields with a checksum, in the first 256 bytes
    words   eight bytes for each job, see `words`; padded to a whole page, so that writing a word rewrites no record
    record  flag, index, length, checksum | lengths, moments, uid | id, headers, extras, body; padded to eight bytes

Right checksums do not prove that a record is a job: types and ranges are checked as in a job file (`job_file.flaw`).
"""

from __future__ import annotations

import json
import math
import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from framework.engine.spool.format import job_file, names
from framework.engine.spool.segments.words import SIZE, VACANT, pack
from framework.model.extras import LATEST, NONE, unpack
from framework.model.frozen import frozen
from framework.model.job import Job

MAGIC = b"\x89WSEG01\n"
VERSION = 2  # of the oldest reader that can read any segment
FIRST = 1  # the same for a segment that was never open for more jobs and has no trace context in short form
GROWS = 1  # flag: the segment is or was open for more jobs
MOST = 256  # jobs
MOST_BYTES = 4 << 20  # bytes of payloads, from which on a segment takes no further job
WORDS_AT = 256
ROOM = 512  # least number of bytes for each further job in an open segment
_PAGE = 4096
_LARGEST = 1 << 31

# magic, version, flags, jobs, offset of the records, size of the file, name of the queue
_HEAD = struct.Struct("<8sHHIIQ100s")
_CRC = struct.Struct("<I")
_PREFIX = struct.Struct("<HHII")  # published, index, length with prefix and padding, checksum of all but the flag
# lengths of id, headers, extras, body; enqueued at, ttl, scheduled for; uid
_FIXED = struct.Struct("<IIIIddd16s")
_COMMON = {"content-type": "application/json"}  # most untraced jobs have these headers: they are stored as nothing
_OPENING = ord("{")
_TRACE, _TRACE_SIZE = "traceparent", 55  # most traced jobs have only this header beside it: its value alone is stored
_ENCODE = json.JSONEncoder(separators=(",", ":")).encode
_DECODE = json.JSONDecoder().raw_decode


@frozen
class Head:
    """The content of a segment's head.

    Attributes:
        jobs: the most records that it can hold. data_at: offset of the records. size: size of the file in bytes.
        queue: the queue of its jobs.
        grows: the segment was not written at once.
    """

    jobs: int
    data_at: int
    size: int
    queue: str
    grows: bool = False


def data_at(jobs: int) -> int:
    """Return the offset of the records in a segment for so many jobs."""
    return -(-(WORDS_AT + SIZE * jobs) // _PAGE) * _PAGE


def build(jobs: Sequence[Job], slots: int = 0) -> tuple[bytes, int]:
    """Return the bytes of a segment, and where its records end. Raises ValueError: a job could not be read again.

    Args:
        slots: number of jobs that it has room for, where later jobs are about as large as these; 0: none come later.
    """
    written = records(jobs)
    vacant = max(0, slots - len(jobs))
    room = vacant * max(ROOM, len(written) * 5 // (4 * len(jobs)))
    begin = data_at(len(jobs) + vacant)
    version = VERSION if vacant or any(_TRACE in job.headers for job in jobs) else FIRST
    size = begin + len(written) + room
    head = bytearray(head_of(len(jobs) + vacant, size, jobs[0].queue, version, grows=vacant > 0))
    at = WORDS_AT + SIZE * len(jobs)
    head[at : at + SIZE * vacant] = pack([VACANT] * vacant)
    return b"".join((head, written, bytes(room))), begin + len(written)


def records(jobs: Sequence[Job], first: int = 0) -> bytes:
    """Return the records of jobs, whose indexes begin at `first`. Raises ValueError, as `build`."""
    return b"".join(_record(index, job) for index, job in enumerate(jobs, first))


def head_of(jobs: int, size: int, queue: str, version: int = VERSION, *, grows: bool = False) -> bytes:
    """Return head and words of a segment without claims."""
    fixed = _HEAD.pack(MAGIC, version, GROWS if grows else 0, jobs, data_at(jobs), size, queue.encode("ascii"))
    return (fixed + _CRC.pack(zlib.crc32(fixed))).ljust(data_at(jobs), b"\0")


def head(data: bytes) -> Head:
    """Return the head in the first bytes of a segment. Raises job_file.Damaged, job_file.Newer."""
    if len(data) < _HEAD.size + _CRC.size:
        raise job_file.Damaged(f"{len(data)} bytes: shorter than the head of a segment")
    magic, version, flags, jobs, begin, size, queue = _HEAD.unpack_from(data)
    if magic != MAGIC:
        raise job_file.Damaged("no segment")
    if _CRC.unpack_from(data, _HEAD.size)[0] != zlib.crc32(data[: _HEAD.size]):
        raise job_file.Damaged("checksum of the head of a segment")
    if version > VERSION:
        raise job_file.Newer(version)
    name = queue.rstrip(b"\0").decode("ascii", "replace")
    sized = 0 < jobs <= MOST and begin == data_at(jobs) and begin < size < _LARGEST
    if version < 1 or not sized or not job_file.is_name(name):
        raise job_file.Impossible(
            f"head of a segment: version {version}, {jobs} jobs, records at {begin}, {size} bytes"
        )
    return Head(jobs, begin, size, name, bool(flags & GROWS))


def _record(index: int, job: Job) -> bytes:
    wrong = job_file.flaw(job)
    if wrong or len(job.uid) != 16:
        raise ValueError(f"impossible {wrong or 'uid'} of job {job.id!r:.100}")
    ident = job.id.encode("utf-8", "surrogatepass")
    headers = _text_of(job.headers).encode("ascii")
    extras = b"" if job.extras is NONE else job.extras.text.encode("ascii")
    # A job that fails gets a job file, whose headers hold all of these. There an id takes up to six times its bytes.
    headers_alone = len(headers) + len(extras) + 6 * len(ident) + 4096
    if headers_alone > job_file.MOST_HEADERS or len(job.payload) > job_file.MOST_BODY:
        raise ValueError(f"job {job.id!r:.100} is too large: headers {len(headers)}, payload {len(job.payload)} bytes")
    fixed = _FIXED.pack(
        len(ident), len(headers), len(extras), len(job.payload), job.enqueued_at,
        math.nan if job.ttl is None else job.ttl, math.nan if job.scheduled_for is None else job.scheduled_for, job.uid,
    )  # fmt: skip
    body = b"".join((fixed, ident, headers, extras, job.payload))
    length = -(-(_PREFIX.size + len(body)) // 8) * 8
    start = _PREFIX.pack(1, index, length, 0)
    crc = zlib.crc32(body, zlib.crc32(start[2:8]))
    return b"".join((start[:8], _CRC.pack(crc), body, bytes(length - _PREFIX.size - len(body))))


def end(data: bytes, at: int) -> int:
    """Return where the record at this offset ends, by its length field."""
    length: int = _PREFIX.unpack_from(data, at)[2]
    return at + length


def is_whole(data: bytes, at: int) -> bool:
    """Return whether the record at this offset is as it was written."""
    return _fixed(data, at) is not None


def _fixed(data: bytes, at: int) -> tuple[Any, ...] | None:
    """Return lengths, moments and uid of the record at this offset; None: it is not as it was written."""
    if at < 0 or at + _PREFIX.size + _FIXED.size > len(data):
        return None
    _, _, length, crc = _PREFIX.unpack_from(data, at)
    start = at + _PREFIX.size
    found = _FIXED.unpack_from(data, start)
    end = start + _FIXED.size + found[0] + found[1] + found[2] + found[3]
    if end > len(data) or not end <= at + length < end + 8:
        return None
    return found if zlib.crc32(data[start:end], zlib.crc32(data[at + 2 : at + 8])) == crc else None


def walk(data: bytes, jobs: int, index: int = 0, at: int = 0) -> list[int]:
    """Return the offsets of the records of the indexes below `jobs`, in the bytes behind the words; -1: not found.

    A damaged record does not hide the records behind it: the next one is looked for by index and checksum.

    Args:
        index, at: index and offset of the first record to look for; for smaller indexes the result is -1.
    """
    found = [-1] * jobs
    last = -1  # offset of the previous record
    while index < jobs and at >= 0:
        if at + _PREFIX.size + _FIXED.size <= len(data):
            _, number, length, _ = _PREFIX.unpack_from(data, at)
            if number == index and _PREFIX.size + _FIXED.size <= length <= len(data) - at and not length % 8:
                found[index], last = at, at
                at, index = at + length, index + 1
                continue
        # No expected record begins here. The damage may also be in the length that led here.
        from_ = last + 8 if last >= 0 and not is_whole(data, last) else at + 8
        at = _next_whole(data, from_, index)
        if at >= 0:
            index = _PREFIX.unpack_from(data, at)[1]  # possibly larger than the next index
        last = -1
    return found


def _next_whole(data: bytes, at: int, least: int) -> int:
    """Return the offset of the next whole record with at least this index; -1: there is none."""
    filled = at + len(data[at:].rstrip(b"\0"))
    for here in range(at, min(filled, len(data) - _PREFIX.size - _FIXED.size + 1), 8):
        flag, index, length, _ = _PREFIX.unpack_from(data, here)
        if flag < 2 and least <= index < MOST and length <= len(data) - here and is_whole(data, here):
            return here
    return -1


def decode(data: bytes, at: int, queue: str) -> Job:
    """Return the job in a record. Raises job_file.Damaged."""
    fixed = _fixed(data, at)
    if fixed is None:
        raise job_file.Damaged("checksum of a record in a segment")
    n_id, n_headers, n_extras, n_body, enqueued_at, ttl, scheduled, uid = fixed
    ident = at + _PREFIX.size + _FIXED.size
    headers = ident + n_id
    extras = headers + n_headers
    body = extras + n_extras
    try:
        job = Job(
            data[ident:headers].decode("utf-8", "surrogatepass"),
            uid,
            queue,
            data[body : body + n_body],
            _headers(data[headers:extras].decode("ascii")),
            enqueued_at,
            None,
            None if ttl != ttl else ttl,
            False,
            None if scheduled != scheduled else scheduled,
            (),
            unpack(data[extras:body].decode("ascii")) if n_extras else NONE,
        )
    except (ValueError, TypeError, RecursionError) as error:
        raise job_file.Impossible(f"record in a segment: {error!r:.200}") from None
    # Most jobs have only these fields, whose types follow from the decoding: this short check is enough for them.
    usual = ttl != ttl and scheduled != scheduled and 0 <= enqueued_at <= LATEST
    usual = usual and (not n_headers or data[headers] != _OPENING)
    if not usual and (wrong := job_file.flaw(job)):
        raise job_file.Impossible(f"record in a segment: impossible {wrong}")
    return job


def _headers(text: str) -> dict[str, str]:
    """Return the headers of a record; most have none stored, or the bare trace context. Raises ValueError."""
    if not text:
        return dict(_COMMON)
    if text[0] != "{":
        return {**_COMMON, _TRACE: text}
    found: dict[str, str] = _DECODE(text)[0]
    return found


def _text_of(headers: Mapping[str, str]) -> str:
    if headers == _COMMON:
        return ""
    trace = headers.get(_TRACE, "")
    alone = len(trace) == _TRACE_SIZE and trace.isascii() and trace[0] != "{"
    return trace if alone and headers == {**_COMMON, _TRACE: trace} else _ENCODE(dict(headers))


def name_of(segment: names.SegmentName, index: int, job: Job, delivery: int) -> names.Name:
    """Return the name of a job in a segment after so many deliveries."""
    expires = None if job.ttl is None else names.micros(job.enqueued_at + job.ttl)
    return segment.of_job(index, delivery, expires)
