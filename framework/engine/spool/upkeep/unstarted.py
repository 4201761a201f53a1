"""The count of a job's deliveries to processes that died before they had begun the job, as far as any record tells.

A power cut may destroy ledgers: a job that brings the machine down at each start would then seem not to have started,
and run for ever. So a rescuer counts such deliveries in a page of the job's file behind its history, which no other
reader looks at. Each delivery that ended in good order (a snooze, a release, a retry) reduces the count by one: a job
that polls is claimed a hundred times, meets a dying process now and then, and must not be charged for it.
"""

from __future__ import annotations

import os
import struct
import zlib

from framework.engine.spool.claim.life import Held
from framework.engine.spool.disk.disk import Disk
from framework.engine.spool.format import frame
from framework.engine.spool.format.names import MOST_NUMBER

_BODY = struct.Struct("<IQ")  # count, the last delivery that was counted
_HEAD = struct.Struct("<4sI")  # magic, crc of the body
_MAGIC = b"LST1"


def count(disk: Disk, held: Held) -> int:
    """Count this delivery once. Return the new count, or 0 if the file cannot be written."""
    at = held.slots_at + frame.SLOTS * frame.SLOT
    try:
        with disk.opened(held.path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK) as fd:
            known, last = _decode(disk.calls.pread(fd, _HEAD.size + _BODY.size, at))
            delivery = held.name.delivery
            if last == delivery and known:  # an earlier rescuer has counted it and then died
                return known
            accounted = max(0, delivery - last - 1)
            found = max(0, known - accounted) + 1
            body = _BODY.pack(found, delivery)
            disk.calls.pwrite(fd, _HEAD.pack(_MAGIC, zlib.crc32(body)) + body, at)
            return found
    except OSError:  # a failed count must not stop the rescue
        return 0


def _decode(data: bytes) -> tuple[int, int]:
    """Return the count and the last counted delivery, or (0, 0) if nothing was counted or the page is torn."""
    body = data[_HEAD.size :]
    if len(body) != _BODY.size or data[: _HEAD.size] != _HEAD.pack(_MAGIC, zlib.crc32(body)):
        return 0, 0
    found, last = _BODY.unpack(body)
    return min(found, MOST_NUMBER), last
