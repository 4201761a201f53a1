"""Who is alive: the birth of an owner of claims, and its end.

`claimed/<wid>/` holds what one process incarnation has claimed from one queue; whoever has the `flock` on
`claimed/<wid>.lock` may touch it: the process itself while it lives, afterwards one rescuer. Never decide by pid.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, unquote

from framework.engine.spool.disk import flocks
from framework.engine.spool.disk.disk import Disk
from framework.engine.spool.disk.layout import QueueDir
from framework.engine.spool.format import runs
from framework.engine.spool.format.names import Name
from framework.engine.spool.segments import words
from framework.model.errors import EngineError

_SUFFIX = "+"
_LOCK = ".lock"


@dataclass(eq=False, slots=True)
class Owner:
    """A directory of claims whose lock this process holds.

    Attributes:
        queue: from which they were claimed.
        wid: name of the incarnation that claimed them.
        base: the directory of the claims.
        fd: the lock file, locked.
        dead_owner: its process is dead; this process settles its claims.
        held: entries that are leases now.
        started: of a dead owner of the version before: the runs in its lock file, by stem and delivery.
        tag: names it in the words of segments.
        searched: of a dead owner: all segments were looked at for what it had claimed.
    """

    queue: QueueDir
    wid: str
    fd: int
    dead_owner: bool = False
    held: dict[str, Held] = field(default_factory=dict)
    started: dict[tuple[str, int], runs.Started] = field(default_factory=dict)
    searched: bool = False
    base: str = field(init=False)
    tag: int = field(init=False)

    def __post_init__(self) -> None:
        self.base = f"{self.queue.base}/claimed/{self.wid}"
        self.tag = words.tag(self.wid)

    @property
    def lock(self) -> str:
        """The lock file."""
        return self.base + _LOCK


@dataclass(eq=False, slots=True)
class Held:
    """A lease's token.

    Attributes:
        owner: in whose directory the file is.
        name, entry: its name there, parsed and as text.
        inode: of the file.
        slots_at: where its history begins.
        settled: somebody has settled it, or it was lost.
        forgiven: settled by a call that failed for others, so that a repetition of the call passes.
        segment: where the job is one of many; None: it has a file of its own.
        index, word: its place there, and its word as long as the lease holds.
        copied: the copy with which it leaves the segment may be there.
    """

    owner: Owner
    name: Name
    entry: str
    inode: int = 0
    slots_at: int = 0
    settled: bool = False
    forgiven: bool = False
    segment: Any = None  # a Segment; `segments` imports this module
    index: int = 0
    word: int = 0
    copied: bool = False

    @property
    def path(self) -> str:
        """The job's file, relative to the root."""
        if self.segment is not None:
            path: str = self.segment.path
            return path
        return f"{self.owner.base}/{self.entry}"

    @property
    def key(self) -> tuple[str, int]:
        """What names this run in a lock file of the version before."""
        return self.name.stem, self.name.delivery

    def let_lie(self) -> None:
        """Stop holding the lease; its file stays where it is, for the next look at the own directory."""
        self.owner.held.pop(self.entry, None)
        if self.segment is not None:
            self.segment.store.leave(self)

    def done(self) -> None:
        """It is no lease any more."""
        self.settled = True
        self.let_lie()


def wid_of(incarnation: str, number: int = 0) -> str:
    """A file name for an incarnation; a number tells the second and further ones apart."""
    text = quote(incarnation, safe="").replace(".", "%2E")
    if not 0 < len(text) <= 150:
        raise EngineError(f"incarnation {incarnation[:60]!r} is empty or too long: give it 1 to 50 characters")
    return f"{text}{_SUFFIX}{number}" if number else text


def incarnation_of(wid: str) -> str:
    """The incarnation behind a wid."""
    return unquote(wid.partition(_SUFFIX)[0])


def birth(disk: Disk, queue: QueueDir, incarnation: str, *, boot: str, now: float, lives: int = 0) -> Owner:
    """A new owner, under a wid that was never used. Raises OSError, EngineError.

    Args:
        boot: id of this boot. now: seconds since the epoch.
        lives: how many this process had on this queue already.
    """
    for number in range(lives, lives + 1000):
        owner = _born_as(disk, queue, wid_of(incarnation, number), boot=boot, now=now)
        if owner is not None:
            return owner
    raise EngineError(
        f"incarnation {incarnation!r} was born 1000 times on {queue.name!r}: a new process needs a new one"
    )


def _born_as(disk: Disk, queue: QueueDir, wid: str, *, boot: str, now: float) -> Owner | None:
    """Lock first, name second, directory last; None: the wid is taken.

    Any other order lets a rescuer see a lock that nobody holds, or a directory that has none, of a living worker.
    """
    draft = f"{queue.base}/claimed/.{wid}{_LOCK}"
    try:
        fd = flocks.keep(disk.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW))
    except FileExistsError:
        return None
    except FileNotFoundError:  # somebody has removed claimed/: another wid, in one made anew
        if not disk.mkdir(f"{queue.base}/claimed"):
            raise
        return None
    owner = Owner(queue, wid, fd)
    try:
        if not flocks.take(disk.calls, fd):  # a rescuer was faster; it unlinks the draft
            flocks.drop(disk.calls, fd)
            return None
        disk.calls.pwrite(fd, runs.head(boot, now), 0)
        if _name_it(disk, owner, draft):
            return owner
    except BaseException:
        _stillborn(disk, fd, draft)
        raise
    _stillborn(disk, fd, draft)
    return None


def _name_it(disk: Disk, owner: Owner, draft: str) -> bool:
    """`link`, not `rename`: it never replaces the lock of somebody who has that wid already."""
    if disk.calls.fstat(owner.fd).st_nlink == 0 or disk.stat(owner.base) is not None:
        return False
    if not disk.link(draft, owner.lock):
        return False
    disk.unlink(draft)
    if disk.mkdir(owner.base):
        return True
    disk.unlink(owner.lock)  # the directory of a lost lock appeared: the next rescuer takes it
    return False


def _stillborn(disk: Disk, fd: int, draft: str) -> None:
    with contextlib.suppress(OSError):  # a rescuer finds and unlinks it: nobody holds its lock
        disk.unlink(draft)
    flocks.drop(disk.calls, fd)


def has_lock(disk: Disk, owner: Owner) -> bool:
    """Return whether the lock that an owner holds is the one by its name. Raises OSError."""
    found = disk.stat(owner.lock)
    return found is not None and flocks.is_still(disk.calls, owner.fd, (found.st_dev, found.st_ino))


def end(disk: Disk, owner: Owner) -> None:
    """Lets go: directory, then lock; with claims left in it both stay, for a rescuer. Raises OSError."""
    try:
        if not owner.held and disk.rmdir(owner.base):  # a record of a segment has no file in the directory
            disk.unlink(owner.lock)
    finally:
        flocks.drop(disk.calls, owner.fd)
        owner.fd = -1
