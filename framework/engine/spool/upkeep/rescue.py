"""The rescue of abandoned leases: a rescuer takes a dead owner's lock and settles the claims in that owner's directory.

The files are not moved first and keep their delivery, so the dead owner's ledger still fits. When the rescuer dies, the
lock is free for the next one.

A power cut may destroy ledgers: a job that brings the machine down at each start would then seem not to have started,
and run for ever. So a rescuer counts the deliveries of which no record tells how they ended, in a page of the job's
file behind its history, which no other reader looks at. Each delivery that ended in good order (a snooze, a release, a
retry) reduces the count by one: a job that polls is claimed a hundred times, meets a dying process now and then, and
must not be charged for it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import struct
import zlib
from collections.abc import Callable, Set
from dataclasses import dataclass

from framework.engine import flocks
from framework.engine.port import Rescued
from framework.engine.spool.claim import life
from framework.engine.spool.claim.claim import Reader
from framework.engine.spool.claim.life import Owner, Token
from framework.engine.spool.claim.listing import Names
from framework.engine.spool.claim.setbacks import Setbacks
from framework.engine.spool.disk.disk import Disk
from framework.engine.spool.disk.layout import QueueDir
from framework.engine.spool.format import history, names, runs
from framework.engine.spool.format.names import MOST_NUMBER
from framework.engine.spool.format.runs import Started
from framework.engine.spool.segments import copies
from framework.engine.spool.segments.open import Segments
from framework.model.job import Failure, Lease
from framework.model.outcome import Kind, Outcome

_LOCK = ".lock"
_KINDS = {kind.value: kind for kind in Kind} | {"rested": Kind.ARCHIVED}  # as the previous version says
# The lock file is gone, or something else was planted in its place, which this process leaves alone.
_NO_LOCK = (errno.ENOENT, errno.EISDIR, errno.ELOOP, errno.ENXIO)
_MOST_RECORDS = 1 << 24  # bytes of a lock file
# The page of a job's file that counts deliveries.
_COUNT = struct.Struct("<IQ")  # count, the last delivery that was counted
_COUNT_HEAD = struct.Struct("<4sI")  # magic, crc of the count
_COUNT_MAGIC = b"LST1"


@dataclass(frozen=True, slots=True)
class Orphan:
    """A lease whose owner is dead. `started`: its run as a worker of the previous version wrote it."""

    lease: Lease
    incarnation: str
    started: Started | None


class Rescue:
    """The rescue of one queue's abandoned leases by one process. One thread at a time may use it.

    Attributes:
        dead_owners: dead owners whose locks this process holds, by wid.
        error: the error that stopped a part of the last call; the next call tries again.
    """

    def __init__(self, disk: Disk, queue: QueueDir, reader: Reader, setbacks: Setbacks, segments: Segments) -> None:
        self._disk = disk
        self._queue = queue
        self._reader = reader
        self._setbacks = setbacks
        self._segments = segments
        self._base = f"{queue.base}/claimed"
        self._names = Names(disk, self._base)
        self.dead_owners: dict[str, Owner] = {}
        self._alive: set[str] = set()
        self._owners: frozenset[str] = frozenset()
        self._certain = False
        self.error: OSError | None = None

    def __call__(self, own: str | None, alive: set[str] | None = None) -> list[Orphan]:
        """Return abandoned leases that this process has not returned yet. Raises OSError.

        Args:
            own: wid of this process.
            alive: wids whose owners hold their lock on another queue, so they are skipped here. Owners that are found
                alive on this queue are added.
        """
        self.error = None
        found = set(self._names())
        wids = {entry.removesuffix(_LOCK) for entry in found if not entry.startswith(".")} - {own}
        self._alive = set() if alive is None else alive
        temps = sorted(entry for entry in found if entry.startswith(".") and entry.endswith(_LOCK))
        self._owners, self._certain = frozenset(wids), not temps
        wids -= self._alive - self.dead_owners.keys()
        for temp in temps:
            self._try_past(temp, self._remove_stillborn)
        orphans: list[Orphan] = []
        for wid in sorted(wids):
            self._try_past(wid, lambda wid: self._settle_owner(wid, wid + _LOCK in found, orphans))
        return orphans

    def has_nobody_dead(self, alive: Set[str]) -> bool:
        """Return whether the owners are the same as at the last look and all are known to be alive. Raises OSError.

        The check is cheap: it only looks at the time of claimed/.
        """
        known_alive = not self.dead_owners and self._certain and self._owners <= alive
        return known_alive and self._names.is_current()

    def _try_past(self, entry: str, step: Callable[[str], None]) -> None:
        """Do a step for one entry of claimed/. A failure does not stop the others."""
        try:
            self._setbacks.tried(f"{self._base}/{entry}", lambda _: step(entry))
        except OSError as error:
            self.error = error  # not raised: the leases collected so far must reach the caller

    def _settle_owner(self, wid: str, has_lock: bool, orphans: list[Orphan]) -> None:
        dead_owner = self.dead_owners.get(wid) or self._take(wid, has_lock=has_lock)
        if dead_owner is not None:
            self._collect(dead_owner, orphans)
            self.finish(dead_owner)

    def finish(self, dead_owner: Owner) -> None:
        """Remove a dead owner's directory, then its lock, once none of its leases is left. Raises OSError."""
        if dead_owner.tokens or dead_owner.fd < 0:
            return
        self.dead_owners.pop(dead_owner.wid, None)
        if dead_owner.searched:
            life.end(self._disk, dead_owner)
        else:  # a segment could not be read, and may hold claims of this owner: the next look searches it
            flocks.drop(self._disk.calls, dead_owner.fd)
            dead_owner.fd = -1

    def forget(self) -> None:
        """Unlock all dead owners, so that another rescuer can take what is left of them."""
        for dead_owner in list(self.dead_owners.values()):
            with contextlib.suppress(OSError):
                flocks.drop(self._disk.calls, dead_owner.fd)
        self.dead_owners.clear()

    def _take(self, wid: str, *, has_lock: bool) -> Owner | None:
        """Take a dead owner's lock. Return None if the owner is alive, or another rescuer was faster."""
        if not has_lock and not self._give_lock(wid):
            return None
        path = f"{self._base}/{wid}{_LOCK}"
        found = self._disk.stat(path)
        if found is not None and not stat.S_ISREG(found.st_mode):  # in place, it would hide the claims for ever
            self._disk.move(path, self._queue.path("bad", wid + _LOCK))
            return None  # the next turn gives the directory a lock
        try:
            fd = flocks.keep(self._disk.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK))
        except OSError as error:
            if error.errno in _NO_LOCK:
                return None
            raise
        try:
            taken = flocks.take(self._disk.calls, fd)
            if not taken:
                self._alive.add(wid)
            # A lock file without a link is one that another rescuer has finished with: it locks nothing any more.
            if taken and self._disk.calls.fstat(fd).st_nlink > 0:
                data = self._disk.calls.pread(fd, _MOST_RECORDS, 0)
                dead_owner = Owner(self._queue, wid, fd, dead_owner=True, started=runs.read_rows(data))
                self.dead_owners[wid] = dead_owner
                return dead_owner
        except OSError:
            flocks.drop(self._disk.calls, fd)
            raise
        flocks.drop(self._disk.calls, fd)
        self._disk.reserve()
        return None

    def _give_lock(self, wid: str) -> bool:
        """Make a lock file for a directory that has none. Return whether that succeeded.

        A living owner makes its lock file before its directory, so for it the link fails.
        """
        found = self._disk.stat(f"{self._base}/{wid}")
        if found is None or not stat.S_ISDIR(found.st_mode):
            return False
        temp = f"{self._base}/.{os.urandom(6).hex()}{_LOCK}"
        self._disk.calls.close(self._disk.open(temp, os.O_RDWR | os.O_CREAT | os.O_EXCL))
        try:
            return self._disk.link(temp, f"{self._base}/{wid}{_LOCK}")
        except FileNotFoundError:  # another rescuer has removed the temp file as a dead owner's: the next turn does it
            return False
        finally:
            self._disk.unlink(temp)

    def _remove_stillborn(self, temp: str) -> None:
        """Remove a lock file whose owner died before the file got its name: lock it, then unlink it."""
        path = f"{self._base}/{temp}"
        try:
            flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK
            with flocks.opened(self._disk.calls, path, flags, dir_fd=self._disk.fd) as fd:
                if flocks.take(self._disk.calls, fd):
                    self._disk.unlink(path)
        except OSError as error:
            if error.errno not in _NO_LOCK:
                raise

    def _collect(self, dead_owner: Owner, orphans: list[Orphan]) -> None:
        copied = dead_owner.searched or copies.settle_copies(self._disk, dead_owner, self._segments)
        for entry in sorted(self._disk.listdir(dead_owner.base)):
            lease = self._setbacks.tried(
                f"{dead_owner.base}/{entry}", lambda path: self._lease(dead_owner, os.path.basename(path))
            )
            if lease is not None:
                token: Token = lease.token
                orphans.append(Orphan(lease, life.incarnation_of(dead_owner.wid), dead_owner.started.get(token.key)))
        if not dead_owner.searched:
            found, every = self._segments.collect(dead_owner)
            dead_owner.searched = every and copied
            orphans += [Orphan(lease, life.incarnation_of(dead_owner.wid), None) for lease in found]

    def _lease(self, dead_owner: Owner, entry: str) -> Lease | None:
        name = names.parse(entry)
        return None if name is None or entry in dead_owner.tokens else self._reader.lease(dead_owner, entry, name)


def count_unaccounted(disk: Disk, token: Token) -> int:
    """Count this delivery once. Return the new count, or 0 if the file cannot be written."""
    at = token.slots_at + history.SLOTS * history.SLOT
    try:
        with disk.opened(token.path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK) as fd:
            known, last = _counted(disk.calls.pread(fd, _COUNT_HEAD.size + _COUNT.size, at))
            delivery = token.name.delivery
            if last == delivery and known:  # an earlier rescuer has counted it and then died
                return known
            accounted = max(0, delivery - last - 1)
            found = max(0, known - accounted) + 1
            body = _COUNT.pack(found, delivery)
            disk.calls.pwrite(fd, _COUNT_HEAD.pack(_COUNT_MAGIC, zlib.crc32(body)) + body, at)
            return found
    except OSError:  # a failed count must not stop the rescue
        return 0


def _counted(data: bytes) -> tuple[int, int]:
    """Return the count and the last counted delivery, or (0, 0) if nothing was counted or the page is torn."""
    body = data[_COUNT_HEAD.size :]
    if len(body) != _COUNT.size or data[: _COUNT_HEAD.size] != _COUNT_HEAD.pack(_COUNT_MAGIC, zlib.crc32(body)):
        return 0, 0
    found, last = _COUNT.unpack(body)
    return min(found, MOST_NUMBER), last


def rescued(orphan: Orphan) -> Rescued:
    """Return an orphan as the contract describes it."""
    started = orphan.started
    if started is None:
        return Rescued(orphan.lease, orphan.incarnation)
    kind = _KINDS.get(started.outcome)  # None also for a kind that this version does not know
    reported = None if kind is None else Outcome(kind, started.delay, _failure_of(orphan.lease))
    return Rescued(orphan.lease, orphan.incarnation, started.run, reported)


def _failure_of(lease: Lease) -> Failure | None:
    """Return the failure that a worker of the previous version stored for this delivery, or None."""
    last = lease.job.history[-1] if lease.job.history else None
    return last if last is not None and last.delivery == lease.delivery else None
