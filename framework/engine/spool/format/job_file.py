"""A job file: a fixed header, headers as JSON, the body; then the history of attempts, see `history`, and perhaps a
checkpoint, see `checkpoints`.

The headers are one JSON object, followed by a second one where the job has extras. Readers of versions without extras
stop at the end of the first, and extras that many jobs have in common are parsed once. All this is written once.

Right checksums do not prove that a file is a job: another program, a bug or an attacker may have written it. So this
module checks every type and range once, and the other modules rely on that: reading gives a job, or raises Damaged.
Whatever else is at a path, reading follows no link and does not block.

The format may grow. A reader ignores fields that it does not know and does without those that it does not need. A file
that needs a newer reader says so in its header and stays where it is: reading raises Newer.
"""

from __future__ import annotations

import errno
import json
import os
import stat
import struct
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache

from framework.engine.spool.disk.disk import Disk
from framework.engine.spool.format import checkpoints
from framework.engine.spool.format.history import SLOT, is_number, is_text, records
from framework.model.extras import EARLIEST, NONE, unpack, with_saved
from framework.model.frozen import frozen
from framework.model.job import Job
from framework.model.options import NAME

MAGIC = b"\x89WSPOOL\n"
VERSION = 1  # of the oldest reader that can read a file
_FLAGS = (bool,)  # the exact type
_FIRST_READ = 1 << 17  # bytes: nearly every job with its history
PLANTED = (errno.ELOOP, errno.ENXIO, errno.ENODEV, errno.ESPIPE, errno.EISDIR)
MOST_HEADERS, MOST_BODY = 1 << 20, 1 << 30  # bytes: the spool writes no larger ones

# magic, version, flags, length of headers, length of body, offset of slots, uid, crc of headers, of body, reserved
_FIXED = struct.Struct("<8sHHIQQ16sIII")
_CRC = struct.Struct("<I")
FIXED_SIZE = _FIXED.size + _CRC.size

_ENCODE = json.JSONEncoder(separators=(",", ":")).encode  # made once; ASCII, so lone surrogates come back
_DECODE = json.JSONDecoder().raw_decode  # `json.loads` looks for an encoding and for white space first


class Damaged(ValueError):
    """An error: the file is not a whole job. The message says what is wrong with it."""


class Impossible(Damaged):
    """An error: the file is whole, but not a possible job of this version. It is kept, and never treated as torn."""


class Planted(Damaged):
    """An error: the path is a link, a directory, a pipe or a socket."""

    def __init__(self) -> None:
        super().__init__("not a regular file")


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
        return self.slots_at + checkpoints.AT + checkpoints.SIZE


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
    if len(data) > (at := slots_at + checkpoints.AT) and (saved := checkpoints.latest(data[at:])) is not None:
        job = replace(job, extras=with_saved(job.extras, saved))
    return job


def flaw(job: Job) -> str:
    """Return the name of a field with an impossible value; "": the job can be stored and read again."""
    if type(job.id) is not str:  # any text will do: no file name contains it
        return "id"
    if type(job.queue) is not str or len(job.queue) > 100 or not is_name(job.queue):
        return "queue"
    if not is_number(job.enqueued_at, 0):
        return "enqueued_at"
    if job.not_before is not None and not is_number(job.not_before, EARLIEST):
        return "not_before"
    if job.ttl is not None and not is_number(job.ttl, 0):
        return "ttl"
    if type(job.chosen_id) not in _FLAGS:
        return "chosen_id"
    if job.scheduled_for is not None and not is_number(job.scheduled_for, EARLIEST):
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
        if not is_text(name) or not is_text(text):
            return False
    return True


def content(disk: Disk, fd: int, size: int) -> tuple[Layout, Job]:
    """Return the layout of an open file of this size, and its job. Raises Damaged, Newer, OSError.

    A file that claims to be larger than any job file is not read.
    """
    data = disk.calls.pread(fd, min(size, _FIRST_READ), 0)
    where = layout(data)
    wanted = min(size, where.whole)
    while len(data) < wanted:
        more = disk.calls.pread(fd, wanted - len(data), len(data))
        if not more:
            break
        data += more
    return where, decode(data, where)


@contextmanager
def opened(disk: Disk, path: str) -> Iterator[tuple[int, os.stat_result]]:
    """Open a regular file; yield its descriptor and state. Raises Planted, OSError."""
    try:
        with disk.opened(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK) as fd:
            found = disk.calls.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                raise Planted
            yield fd, found
    except OSError as error:
        if error.errno in PLANTED:
            raise Planted from None
        raise


def read(disk: Disk, path: str) -> tuple[Job, os.stat_result]:
    """Return the job in a file, and the file's state. Raises Damaged, OSError."""
    with opened(disk, path) as (fd, found):
        return content(disk, fd, found.st_size)[1], found


def job_in(disk: Disk, path: str) -> Job | None:
    """Return the job in a file; None: the file is gone, has no job, or needs a newer reader. Raises OSError."""
    try:
        return read(disk, path)[0]
    except (Damaged, Newer, FileNotFoundError):
        return None
