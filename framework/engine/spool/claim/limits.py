"""The limits of a queue: `max_running` by locked bytes of a file, rate and breaker by a record in that file.

All processes on the spool share the file `limits` of a queue. A byte that one has locked is the right to one lease; the
kernel frees the bytes of a process that dies, so none is ever lost. Locks belong to the open file, as with `flock`, and
are taken byte by byte. Groups with a limit have one byte more, for the process that claims: `lanes.py`. The record is
read and written under the lock of the first byte. It is not made durable: after a power cut a rate may give one burst
more, and a hold may be forgotten.
"""

from __future__ import annotations

import errno
import fcntl
import math
import os
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from framework.engine import flocks
from framework.engine.spool.claim.life import Owner
from framework.engine.spool.disk.clock import Clock
from framework.engine.spool.disk.disk import FULL, Disk
from framework.engine.spool.disk.layout import QueueDir
from framework.model.errors import EngineError
from framework.model.limits import Room, Throttle

LOOK = 0.05  # seconds between two looks for a free byte, or for the record that another process has locked
PATIENCE = 0.25  # seconds that a process waits for the lock of the record
_RECORD = struct.Struct("<4sIddd")  # magic, crc of the rest, fields of Throttle
_MAGIC = b"LIM1"
_ALONE = 1  # the byte of a process that claims grouped jobs
_FIRST = 4096  # the first byte that stands for a lease


class Limits:
    """The limits of one queue, as one process keeps to them. Claims come from one thread, settlements from any.

    Attributes:
        apply: the queue has limits.
        wait: seconds until the next look is worth it, where the last claim found no room; else infinite.
    """

    def __init__(
        self, disk: Disk, queue: QueueDir, clock: Clock, *, owner: Callable[[], Owner | None], ring: Callable[[], None]
    ) -> None:
        self._disk = disk
        self._queue = queue
        self._path = f"{queue.base}/limits"
        self._clock = clock
        self._owner = owner
        self._ring = ring
        self._fd = -1
        self.wait = math.inf
        self.after_fork()
        self.declare()

    def declare(self) -> None:
        """Take over the declaration of the queue. Raises EngineError: this system cannot keep to it."""
        options = self._queue.options
        self._throttled = options.rate is not None or options.breaker is not None
        self.apply = self._throttled or options.max_running is not None
        if (self.apply or (options.groups and options.groups.limit)) and flocks.OFD is None:
            raise EngineError(f"queue {options.name!r}: limits need locks of open files, which only Linux has")

    def make(self) -> None:
        """Make the file while there is room for it: a claim on a full disk must not need any. Raises OSError."""
        if self.apply and self._disk.stat(self._path) is None:
            try:
                self._disk.write_new(self._path, _pack(Throttle()), sync=False)
            except OSError as error:
                if error.errno not in (errno.EEXIST, *FULL):
                    raise

    def after_fork(self) -> None:
        """Forget the file in a forked child, where its descriptor is already closed."""
        self._fd = -1
        self._identity = (0, 0)
        self._bytes: list[int] = []  # the bytes that this process has locked
        self._reserved = 0  # leases that a claim may still make
        self._next = 0
        self._full = False
        self._lock = threading.RLock()
        self._claiming = threading.Lock()

    def close(self) -> None:
        """Close the file, which frees the bytes. Idempotent."""
        with self._lock:
            if self._fd >= 0:
                flocks.drop(self._disk.calls, self._fd)
            self.after_fork()

    def take(self, wanted: int) -> Room:
        """Take room for up to `wanted` leases; `leave` must follow. Raises OSError."""
        self.wait, room = math.inf, Room(wanted)
        with self._lock:
            if self._queue.options.max_running is not None:
                room = self._reserve(wanted)
            if room.jobs and self._throttled:
                with self._record() as record:
                    room = Room(0, LOOK) if record is None else record.take(self._queue.options, room.jobs, self._now())
        if not room.jobs:
            self.wait = room.wait
        return room

    def leave(self, room: Room, claimed: int) -> None:
        """Give back the room that a claim has not used. Raises OSError."""
        with self._lock:
            self._reserved = 0
            self.fit()
            if self._throttled and claimed < room.jobs:
                with self._record() as record:
                    if record is not None:
                        record.give_back(self._queue.options, room, room.jobs - claimed)

    def fit(self) -> None:
        """Unlock the bytes of leases that have ended; wake the claims that wait for them. Raises OSError."""
        with self._lock:
            owner, freed = self._owner(), False
            wanted = self._reserved + (0 if owner is None else len(owner.tokens))
            while len(self._bytes) > wanted:
                self._next = self._bytes.pop()
                self._set_lock(fcntl.F_UNLCK, _FIRST + self._next)
                freed = True
            if not freed or not self._full or self._reserved:
                return
            self._full = False
        self._ring()

    @contextmanager
    def alone(self) -> Iterator[bool]:
        """Keep other processes from claiming grouped jobs for the length of a block. Raises OSError.

        Yields False where another process claims for too long; then `wait` says when to try again.
        """
        if not self._claiming.acquire(timeout=PATIENCE):  # the lock of the byte is this process's, not this thread's
            yield False
            return
        try:
            with self._lock:
                self._open()
            with self._byte(_ALONE) as locked:
                self.wait = math.inf if locked else LOOK
                yield locked
        finally:
            self._claiming.release()

    def hold(self, seconds: float) -> None:
        """Hold the queue for so many seconds; 0 ends a hold. Raises OSError."""
        with self._lock, self._record() as record:
            if record is None:
                raise OSError(errno.EBUSY, "another process has locked it", self._path)
            record.hold(self._now(), seconds)
        if not seconds:
            self._ring()

    def is_held(self) -> bool:
        """Return whether the queue is held. Raises OSError."""
        return _unpack(self._disk.read_small(self._path, _RECORD.size) or b"").is_held(self._now())

    def _now(self) -> float:
        return self._clock.now() / 1e9

    # --- the bytes --------------------------------------------------------------------------------------------------

    def _reserve(self, wanted: int) -> Room:
        owner, most = self._owner(), self._queue.options.max_running or 0
        self._open()
        claimed = 0 if owner is None else len(owner.tokens)
        mine = set(self._bytes)
        for step in range(most):
            if len(self._bytes) >= claimed + wanted:
                break
            at = (self._next + step) % most
            if at not in mine and self._set_lock(fcntl.F_WRLCK, _FIRST + at):
                self._bytes.append(at)
        found = max(0, len(self._bytes) - claimed)
        self._reserved = min(wanted, found)
        self._full = found < wanted
        return Room(self._reserved, LOOK)

    def _set_lock(self, kind: int, at: int) -> bool:
        """Lock or unlock one byte; False: another process has it. Raises OSError."""
        return flocks.set_byte(self._disk.calls, self._fd, kind, at)

    def _open(self) -> None:
        """Open the file, and make it where it is missing; open it anew where it was removed. Raises OSError."""
        calls = self._disk.calls
        if self._fd >= 0:
            try:
                found = calls.fstat(self._fd)
            except OSError as error:
                if error.errno != errno.EBADF:  # else a handler has closed it
                    raise
                found = None
            if found is not None and (found.st_dev, found.st_ino) == self._identity:
                if found.st_nlink:
                    return
                flocks.drop(calls, self._fd)
            else:
                flocks.forget(self._fd)
            self._fd, self._bytes = -1, []
        fd = flocks.keep(self._disk.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK))
        found = calls.fstat(fd)
        self._fd, self._identity = fd, (found.st_dev, found.st_ino)

    # --- the record -------------------------------------------------------------------------------------------------

    @contextmanager
    def _record(self) -> Iterator[Throttle | None]:
        """Yield the record, locked, and write it at the end; None: another process keeps it locked. Raises OSError."""
        self._open()
        with self._byte(0) as locked:
            if not locked:
                yield None
                return
            found = _unpack(self._disk.calls.pread(self._fd, _RECORD.size, 0))
            yield found
            self._disk.calls.pwrite(self._fd, _pack(found), 0)

    @contextmanager
    def _byte(self, at: int) -> Iterator[bool]:
        """Lock a byte for the length of a block; yield False where another process keeps it locked. Raises OSError."""
        deadline = time.monotonic() + PATIENCE
        while not self._set_lock(fcntl.F_WRLCK, at):
            if time.monotonic() >= deadline:
                yield False
                return
            time.sleep(0.0002)
        try:
            yield True
        finally:
            self._set_lock(fcntl.F_UNLCK, at)


def _pack(record: Throttle) -> bytes:
    body = _RECORD.pack(b"", 0, record.empty_at, record.held_until, record.canary_at)[8:]
    return _MAGIC + zlib.crc32(body).to_bytes(4, "little") + body


def _unpack(data: bytes) -> Throttle:
    """Return the record in these bytes; a damaged one is as a new one."""
    if len(data) == _RECORD.size:
        magic, crc, *fields = _RECORD.unpack(data)
        if magic == _MAGIC and crc == zlib.crc32(data[8:]) and all(map(math.isfinite, fields)):
            return Throttle(*fields)
    return Throttle()
