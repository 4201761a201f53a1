"""How often a job was in the hands of a process that died before it had begun the job, as far as any record tells.

A power cut may take ledgers with it: a job that brings the machine down at each start would seem not to have
started, and run for ever. So a rescuer counts such deliveries, in a page of the job's file behind its history, which no
other reader looks at. A delivery that ended in good order (a snooze, a release, a retry) takes one off: a poller that
is claimed a hundred times and meets a dying process now and then stays innocent.
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
    """Count this delivery, once, and return how many there are; 0 where the file cannot be written."""
    at = held.slots_at + frame.SLOTS * frame.SLOT
    try:
        with disk.opened(held.path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK) as fd:
            known, last = _decode(disk.calls.pread(fd, _HEAD.size + _BODY.size, at))
            delivery = held.name.delivery
            if last == delivery and known:  # an earlier rescuer has counted it, and died
                return known
            accounted = max(0, delivery - last - 1)
            found = max(0, known - accounted) + 1
            body = _BODY.pack(found, delivery)
            disk.calls.pwrite(fd, _HEAD.pack(_MAGIC, zlib.crc32(body)) + body, at)
            return found
    except OSError:  # a count is not worth a rescue
        return 0


def _decode(data: bytes) -> tuple[int, int]:
    """Return the count and its last delivery; (0, 0) where nothing was counted, or the page is torn."""
    body = data[_HEAD.size :]
    if len(body) != _BODY.size or data[: _HEAD.size] != _HEAD.pack(_MAGIC, zlib.crc32(body)):
        return 0, 0
    found, last = _BODY.unpack(body)
    return min(found, MOST_NUMBER), last
