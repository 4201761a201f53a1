"""The process context of OpenTelemetry (OTEP 4719): the resource of this process in memory that a profiler finds and
reads from outside, so that its samples carry the service, the instance and the slot."""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

from framework.telemetry.ring import wire

SIGNATURE: Final = b"OTEL_CTX"
VERSION: Final = 2
HEADER: Final = struct.Struct("<8sIIQQ")  # signature, version, bytes of the payload, published at (ns), address of it
_PR_SET_VMA, _PR_SET_VMA_ANON_NAME, _MADV_DONTFORK = 0x53564D41, 0, 10

_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
if _libc is not None:
    _libc.mmap.restype = ctypes.c_void_p
    _libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *(ctypes.c_int,) * 3, ctypes.c_long)
    _libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    _libc.prctl.argtypes = (ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p)
_published = 0  # the process that has published


def publish(resource: Mapping[str, Any]) -> bool:
    """Publish the resource of this process, once. Return False where that is not possible; nothing is raised.

    The mapping belongs to no object of Python: a forked child does not have it, and must not unmap what lies there.
    """
    global _published
    if _libc is None or _published == os.getpid():
        return False
    payload = wire.attributes(1, resource)
    size = HEADER.size + len(payload)
    fd = -1
    try:
        fd = os.memfd_create(SIGNATURE.decode(), os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, size)
        at = _libc.mmap(None, size, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED, fd, 0)
        if at in (None, ctypes.c_void_p(-1).value) or _libc.madvise(at, size, _MADV_DONTFORK):
            return False
        head = HEADER.pack(bytes(8), VERSION, len(payload), time.time_ns(), at + HEADER.size)
        os.pwrite(fd, head + payload, 0)
        os.pwrite(fd, SIGNATURE, 0)  # last: with it the mapping is valid
        _libc.prctl(_PR_SET_VMA, _PR_SET_VMA_ANON_NAME, at, size, SIGNATURE)  # where the kernel can; it wakes profilers
    except OSError:
        return False
    finally:
        with suppress(OSError):
            os.close(fd)
    _published = os.getpid()
    return True
