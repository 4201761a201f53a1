"""The checkpoint in a job file: two slots that a worker writes in turn while its handler runs.

They are behind the history and the page that counts deliveries (`upkeep/rescue.py`).

Of a write that is cut short its slot has no right checksum, and the other slot has the checkpoint before. Files of jobs
that save nothing end before these slots, and readers of versions without checkpoints do not read so far.
"""

from __future__ import annotations

import errno
import os
import struct
import zlib

from framework.engine.spool.disk.disk import Disk
from framework.engine.spool.format.history import SLOT, SLOTS
from framework.model.extras import MOST_SAVED

AT = (SLOTS + 1) * SLOT  # offset from the first slot of the history
_CRC = struct.Struct("<I")
_HEAD = struct.Struct("<4sIIQ")  # magic, crc of all that follows, length, sequence
_REST = struct.Struct("<IQ")
_MAGIC = b"CKP1"
_SIZE = MOST_SAVED + _HEAD.size
SIZE = 2 * _SIZE


def latest(slots: bytes) -> str | None:
    """Return the newest checkpoint in the bytes of both slots; None: there is none."""
    found = _latest(slots)
    return None if found is None else found[1]


def _latest(slots: bytes) -> tuple[int, str] | None:
    return max(filter(None, (_slot(slots, at) for at in (0, 1))), default=None)


def _slot(slots: bytes, at: int) -> tuple[int, str] | None:
    data = slots[at * _SIZE : (at + 1) * _SIZE]
    if len(data) < _HEAD.size or not data.startswith(_MAGIC):
        return None
    _, crc, length, sequence = _HEAD.unpack_from(data)
    rest = data[8 : _HEAD.size + length]
    if len(rest) != _REST.size + length or zlib.crc32(rest) != crc or sequence % 2 != at:
        return None
    try:
        return sequence, rest[_REST.size :].decode("ascii")
    except UnicodeDecodeError:
        return None


def write(disk: Disk, path: str, slots_at: int, state: str) -> bool:
    """Store a checkpoint durably in the file of a job. Return False: the file is gone. Raises OSError.

    Args:
        slots_at: offset of the history in the file.
    """
    try:
        with disk.opened(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK) as fd:
            known = _latest(disk.calls.pread(fd, SIZE, slots_at + AT))
            sequence = 0 if known is None else known[0] + 1
            rest = _REST.pack(len(state), sequence) + state.encode("ascii")
            slot = _MAGIC + _CRC.pack(zlib.crc32(rest)) + rest
            if disk.calls.pwrite(fd, slot, slots_at + AT + sequence % 2 * _SIZE) < len(slot):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
            disk.sync(fd)
    except FileNotFoundError:
        return False
    return True
