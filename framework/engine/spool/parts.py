"""The parts of one queue in one process, put together."""

from __future__ import annotations

import threading
from collections import Counter

from framework.engine.spool.claim import life
from framework.engine.spool.claim.claim import Claim, Reader
from framework.engine.spool.claim.life import Owner
from framework.engine.spool.claim.listing import Listing
from framework.engine.spool.claim.notifier import Notifier
from framework.engine.spool.claim.promote import Promote
from framework.engine.spool.claim.setbacks import Setbacks
from framework.engine.spool.claim.settle import Settle
from framework.engine.spool.disk.clock import Clock, boot_id
from framework.engine.spool.disk.disk import Disk
from framework.engine.spool.disk.layout import QueueDir
from framework.engine.spool.enqueue.enqueue import Enqueue
from framework.engine.spool.enqueue.ticks import Ticks
from framework.engine.spool.segments.open import Segments
from framework.engine.spool.upkeep.counts import Counts
from framework.engine.spool.upkeep.maintain import Maintain
from framework.engine.spool.upkeep.rescue import Rescue


class Parts:
    """The parts of one queue. The first claim makes the owner, so a process that only enqueues or looks has none."""

    def __init__(
        self, disk: Disk, queue: QueueDir, clock: Clock, *, incarnation: str, settle: Settle, counts: Counter[str]
    ) -> None:
        self.queue = queue
        self._disk = disk
        self._clock = clock
        self._incarnation = incarnation
        self._owner: Owner | None = None
        self._lives = 0
        self._birth = threading.Lock()
        reader = Reader(disk, counts)
        self.setbacks = Setbacks()
        self.segments = Segments(disk, queue, counts, self.setbacks)
        self.notifier = Notifier(disk, queue)
        self.listing = Listing(disk, queue, clock, setbacks=self.setbacks)
        self.counts = Counts(disk, queue, setbacks=self.setbacks)
        self.enqueue = Enqueue(disk, queue, clock, ring=self.notifier.ring)
        self.ticks = Ticks(disk, queue, clock, ring=self.notifier.ring)
        self.promote = Promote(disk, queue, clock, ring=self.notifier.ring, setbacks=self.setbacks)
        self.rescue = Rescue(disk, queue, reader, self.setbacks, self.segments)
        kept = self.setbacks, counts, self.segments
        self.claim = Claim(disk, clock, self.listing, reader, settle, *kept, owner=self.owner, reborn=self.reborn)
        self.maintain = Maintain(
            disk, queue, clock, self.promote, self.counts, self.claim, *kept, ring=self.notifier.ring
        )

    @property
    def wid(self) -> str | None:
        """Return the id of this process's owner on this queue; None: it has claimed nothing yet."""
        return self._owner.wid if self._owner is not None else None

    @property
    def claims(self) -> bool:
        """Return whether this process has claimed from the queue, or settles what dead owners claimed."""
        return self._owner is not None or bool(self.rescue.dead_owners)

    def owner(self) -> Owner:
        """Return this process's owner, made when needed. Raises OSError."""
        return self._owner or self._born()

    def _born(self) -> Owner:
        with self._birth:  # maintenance may expire something while a claim waits in another thread
            if self._owner is None:
                self._owner = life.birth(
                    self._disk,
                    self.queue,
                    self._incarnation,
                    boot=boot_id(),
                    now=self._clock.wall(),
                    lives=self._lives,
                )
                self._lives += 1
            return self._owner

    def reborn(self) -> None:
        """Handle the loss of the owner's directory: the job files in it are gone.

        Jobs claimed from segments stay this owner's while it has its lock. Without the lock they belong to another
        process, and the next claim makes a new owner.
        """
        owner = self._owner
        if owner is None:
            return
        stays = life.has_lock(self._disk, owner)
        for held in list(owner.held.values()):
            if held.segment is None or not stays:
                held.done()
        if stays:
            self._disk.mkdir(owner.base)
        else:
            life.end(self._disk, owner)
            self._owner = None

    def patience(self) -> float:
        """Return the seconds until the next known job is due; without a notification no earlier look is needed."""
        return max(0.001, self.promote.seconds_left())

    def close(self) -> None:
        """Close everything; unsettled leases stay for a rescuer. Raises OSError."""
        self.enqueue.close()
        self.segments.close()  # before the lock goes: else this process could still copy a job that a rescuer has
        try:
            if self._owner is not None:
                life.end(self._disk, self._owner)
                self._owner = None
        finally:
            self.rescue.forget()
            self.notifier.close()

    def forget(self) -> None:
        """Forget owner and dead owners in a forked child: they are the parent's, their descriptors already closed."""
        self._birth = threading.Lock()
        self._owner = None
        self.rescue.dead_owners.clear()
        self.segments.after_fork()
