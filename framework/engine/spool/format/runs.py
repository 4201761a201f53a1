"""The header of a worker's lock file, and a reader of the run records that the previous version keeps behind it.

This version keeps runs in `framework.engine.ledger`. A rescuer of this version may still find the claims of a worker of
the previous version, whose runs are in rows of 256 bytes. The reader is removed in the next version.
"""

from __future__ import annotations

import math
import os
import struct
import zlib

from framework.engine.spool.format import names
from framework.model.frozen import frozen
from framework.model.job import RunRecord

ROW = 256
# The byte behind the header: this worker reads all segments. It is 0 in versions that read no segments, and 1 in those
# that read only segments written at once.
SEGMENTS = 2
_LATEST = (2**63 - 1) / 1e9  # seconds since the epoch: a span has nanoseconds in 64 bits

_HEAD = struct.Struct("<8s36sId")
_HEAD_MAGIC = b"WSPLIFE\x01"
_CRC = struct.Struct("<I")
# row, delivery, attempt, sampled, started at, delay, trace id, span id, reported kind, length of stem, stem
_ROW = struct.Struct("<IQI?3xdd16s8s16sI128s")
_ROW_MAGIC = b"RUN1"
_WHOLE = struct.Struct(f"<4sI{_ROW.size}s{ROW - 8 - _ROW.size}x")  # magic, crc of the body, body


@frozen
class Started:
    """A run that had started.

    Attributes:
        stem: the stem of the job's file name.
        run: the record that the worker wrote.
        outcome: the kind of outcome that telemetry already has, as text; empty: none.
        delay: the delay of that outcome, in seconds.
    """

    stem: str
    run: RunRecord
    outcome: str = ""
    delay: float = 0.0


def head(boot: str, started_at: float) -> bytes:
    """Return the header of a lock file."""
    fixed = _HEAD.pack(_HEAD_MAGIC, boot.encode("ascii", "replace")[:36], os.getpid(), started_at)
    return (fixed + bytes([SEGMENTS])).ljust(ROW, b"\0")


def reads_segments(data: bytes) -> bool:
    """Return whether the worker of a lock file reads segments; true also of a lock that a rescuer has made."""
    return not data.startswith(_HEAD_MAGIC) or data[_HEAD.size : _HEAD.size + 1] >= bytes([SEGMENTS])


def decode(data: bytes) -> Started | None:
    """Return the record in 256 bytes; None: it is empty, torn, or has an impossible value."""
    body = data[8 : 8 + _ROW.size]
    if not data.startswith(_ROW_MAGIC) or len(body) < _ROW.size or _CRC.unpack_from(data, 4)[0] != zlib.crc32(body):
        return None
    row, delivery, attempt, sampled, started_at, delay, trace, span, kind, length, stem = _ROW.unpack(body)
    kind, stem = kind.rstrip(b"\0"), stem[:length]
    if not (0 <= started_at <= _LATEST and 0 <= delay < math.inf and kind.isascii() and stem.isascii()):
        return None  # also where a number is NaN
    if max(attempt, delivery) > names.MOST_NUMBER:
        return None
    run = RunRecord(
        row=row,
        delivery=delivery,
        attempt=attempt,
        started_at=started_at,
        trace_id=_text(trace),
        span_id=_text(span),
        sampled=sampled,
    )
    return Started(stem.decode("ascii"), run, kind.decode("ascii"), delay)


def read_rows(data: bytes) -> dict[tuple[str, int], Started]:
    """Return all runs in the bytes of a lock file, by stem and delivery."""
    found = (decode(data[at : at + ROW]) for at in range(ROW, len(data), ROW))
    return {(s.stem, s.run.delivery): s for s in found if s is not None}


def _text(value: bytes) -> str:
    return value.hex() if any(value) else ""
