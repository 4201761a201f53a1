"""The owners of claims: how an owner is created, how it shows that it is alive, and how it ends.

`claimed/<wid>/` holds what one process incarnation has claimed from one queue. Only the process that has the `flock`
on `claimed/<wid>.lock` may touch it: the claimer while it lives, afterwards one rescuer. Never decide by pid.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, unquote

from framework.engine import flocks
from framework.engine.spool.disk.disk import Disk
from framework.engine.spool.disk.layout import QueueDir
from framework.engine.spool.format import runs
from framework.engine.spool.format.names import Name
from framework.engine.spool.segments import words
from framework.model.errors import EngineError
from framework.model.extras import NONE, Extras

_SUFFIX = "+"
_LOCK = ".lock"


@dataclass(eq=False, slots=True)
class Owner:
    """A directory of claims whose lock this process holds.

    Attributes:
        queue: the queue from which the jobs were claimed.
        wid: name of the incarnation that claimed them.
        base: the directory of the claims. lock: the path of the lock file.
        fd: the lock file, locked.
        dead_owner: the claimer's process is dead; this process settles its claims.
        tokens: those of its leases, by entry.
        started: the runs in the lock file, by stem and delivery, if a dead owner of the previous version wrote it.
        tag: number that identifies the owner in the words of segments.
        searched: all segments were searched for claims of this dead owner.
    """

    queue: QueueDir
    wid: str
    fd: int
    dead_owner: bool = False
    tokens: dict[str, Token] = field(default_factory=dict)
    started: dict[tuple[str, int], runs.Started] = field(default_factory=dict)
    searched: bool = False
    base: str = field(init=False)
    lock: str = field(init=False)
    tag: int = field(init=False)

    def __post_init__(self) -> None:
        self.base = f"{self.queue.base}/claimed/{self.wid}"
        self.lock = self.base + _LOCK
        self.tag = words.tag(self.wid)


@dataclass(eq=False, slots=True)
class Token:
    """The token of a lease: where the claimed job is stored.

    Attributes:
        owner: the owner in whose directory the file is.
        name, entry: the file's name there, parsed and as text.
        inode: inode of the file.
        slots_at: offset at which the job's history begins.
        settled: the lease was settled or lost.
        already_settled: by a call that failed for other leases, so a repetition of that call passes.
        segment: the segment that holds the job; None if the job has a file of its own.
        index, word: the job's index in the segment, and its word as long as the lease is valid.
        copied: the copy with which the job leaves the segment may exist.
        extras: of the job, where it has expired.
    """

    owner: Owner
    name: Name
    entry: str
    inode: int = 0
    slots_at: int = 0
    settled: bool = False
    already_settled: bool = False
    segment: Any = None  # a Segment; `segments` imports this module
    index: int = 0
    word: int = 0
    copied: bool = False
    extras: Extras = NONE

    @property
    def path(self) -> str:
        """Return the path of the job's file, relative to the root."""
        if self.segment is not None:
            return str(self.segment.path)
        return f"{self.owner.base}/{self.entry}"

    @property
    def key(self) -> tuple[str, int]:
        """Return the key of this run in a lock file of the previous version."""
        return self.name.stem, self.name.delivery

    def drop(self) -> None:
        """End the lease and leave its file where it is, for the next look into the own directory."""
        self.owner.tokens.pop(self.entry, None)
        if self.segment is not None:
            self.segment.store.leave(self)

    def done(self) -> None:
        """Mark the lease as settled and end it."""
        self.settled = True
        self.drop()


def wid_of(incarnation: str, number: int = 0) -> str:
    """Return a file name for an incarnation; `number` tells its second and further owners apart."""
    text = quote(incarnation, safe="").replace(".", "%2E")
    if not 0 < len(text) <= 150:
        raise EngineError(f"incarnation {incarnation[:60]!r} is empty or too long: give it 1 to 50 characters")
    return f"{text}{_SUFFIX}{number}" if number else text


def incarnation_of(wid: str) -> str:
    """Return the incarnation from which a wid was made."""
    return unquote(wid.partition(_SUFFIX)[0])


def make(disk: Disk, queue: QueueDir, incarnation: str, *, boot: str, now: float, first: int = 0) -> Owner:
    """Create an owner under a wid that was never used. Raises OSError, EngineError.

    Args:
        boot: id of this boot. now: seconds since the epoch.
        first: number of owners that this process has had on this queue already.
    """
    for number in range(first, first + 1000):
        owner = _make_as(disk, queue, wid_of(incarnation, number), boot=boot, now=now)
        if owner is not None:
            return owner
    raise EngineError(
        f"incarnation {incarnation!r} was born 1000 times on {queue.name!r}: a new process needs a new one"
    )


def _make_as(disk: Disk, queue: QueueDir, wid: str, *, boot: str, now: float) -> Owner | None:
    """Create an owner under this wid: lock first, name second, directory last. Return None if the wid is taken.

    In any other order, a rescuer can see a living worker's lock file unlocked, or its directory without a lock file.
    """
    temp = f"{queue.base}/claimed/.{wid}{_LOCK}"
    try:
        fd = flocks.keep(disk.open(temp, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW))
    except FileExistsError:
        return None
    except FileNotFoundError:  # claimed/ was removed: make it anew, and let the caller try another wid
        if not disk.mkdir(f"{queue.base}/claimed"):
            raise
        return None
    owner = Owner(queue, wid, fd)
    try:
        if not flocks.take(disk.calls, fd):  # a rescuer was faster; it unlinks the temp file
            flocks.drop(disk.calls, fd)
            return None
        disk.calls.pwrite(fd, runs.head(boot, now), 0)
        if _name_it(disk, owner, temp):
            return owner
    except BaseException:
        _give_up(disk, fd, temp)
        raise
    _give_up(disk, fd, temp)
    return None


def _name_it(disk: Disk, owner: Owner, temp: str) -> bool:
    """Give the lock file its name and make the owner's directory. Return whether both succeeded.

    It uses `link`, not `rename`, because `link` never replaces the lock file of an owner that has this wid already.
    """
    if disk.calls.fstat(owner.fd).st_nlink == 0 or disk.stat(owner.base) is not None:
        return False
    if not disk.link(temp, owner.lock):
        return False
    disk.unlink(temp)
    if disk.mkdir(owner.base):
        return True
    disk.unlink(owner.lock)  # a directory that had lost its lock file has appeared: the next rescuer takes it
    return False


def _give_up(disk: Disk, fd: int, temp: str) -> None:
    with contextlib.suppress(OSError):  # what stays is not locked: a rescuer finds and unlinks it
        disk.unlink(temp)
    flocks.drop(disk.calls, fd)


def has_lock(disk: Disk, owner: Owner) -> bool:
    """Return whether the lock file that an owner holds still is the file at its path. Raises OSError."""
    found = disk.stat(owner.lock)
    return found is not None and flocks.is_still(disk.calls, owner.fd, (found.st_dev, found.st_ino))


def end(disk: Disk, owner: Owner) -> None:
    """Remove an owner's directory, then its lock file, and unlock it. Raises OSError.

    Where claims are left, directory and lock file stay for a rescuer.
    """
    try:
        if not owner.tokens and disk.rmdir(owner.base):  # a claimed job of a segment has no file in the directory
            disk.unlink(owner.lock)
    finally:
        flocks.drop(disk.calls, owner.fd)
        owner.fd = -1
