"""The cancellation of a job by a person, and the housekeeping of what cancellations leave behind."""

from __future__ import annotations

import errno
import os
import time
from typing import TYPE_CHECKING

from framework.engine.inspector import CANCELLED_KEPT, Cancelled
from framework.engine.spool.claim import cancelling, life
from framework.engine.spool.claim.life import Owner
from framework.engine.spool.claim.listing import Names
from framework.engine.spool.disk import clock
from framework.engine.spool.disk.clock import Clock
from framework.engine.spool.disk.disk import Disk
from framework.engine.spool.enqueue import ids, keys
from framework.engine.spool.enqueue.recover import holder, recover
from framework.engine.spool.format import names
from framework.engine.spool.segments.file import Busy
from framework.engine.spool.upkeep.browse import Browse, Stored
from framework.model.errors import LeaseLost
from framework.model.job import Job, Lease
from framework.model.outcome import CANCELLED, Settlement

if TYPE_CHECKING:
    from framework.engine.spool.store import Parts, Spool

TRIES = 20  # looks at a job that moves meanwhile
LOOK_EVERY = 1.0  # seconds between two looks of maintenance
AGAIN = 5.0  # seconds between two looks at the job of a mark: its worker needs a moment
FIRST_OWNER = 1000  # numbers of owners: no worker has had so many on one queue
TORN = 60.0  # seconds after which a mark that says nothing is removed: its process was killed


class Cancel:
    """The cancellations of one queue."""

    def __init__(self, part: Parts, spool: Spool, disk: Disk, here: Clock, browse: Browse) -> None:
        self._part = part
        self._spool = spool
        self._disk = disk
        self._clock = here
        self._owners = FIRST_OWNER
        self._queue = part.queue
        self._browse = browse
        self._look_at = 0.0
        self._tried: dict[str, float] = {}  # when to look at the job of each mark, monotonic seconds
        self._aside = Names(disk, part.queue.cancelled)
        self._seen: list[str] = []
        self._over_at = 0.0  # when the first of the cancelled jobs is to be deleted, seconds since the epoch

    def __call__(self, uid: bytes, job_id: str, job: Job | None = None) -> Cancelled:
        """Cancel a job, wherever it is. Raises OSError.

        A worker may put the job back before it sees the mark. So this looks again once the mark is there.

        Args:
            job: the same as known by a view; None: it was claimed, so no producer changes it.
        """
        marked = ""
        missed = False
        self._end_changes(job)
        for _ in range(TRIES):
            state, stored = self._look(uid, job_id)
            if stored is None or stored.name is None:
                if missed:  # at the first time it may have been moving
                    break
                missed = True
                self._end_changes(job)
            elif state == "in_flight":
                if marked == stored.name.stem:
                    return "stopping"
                marked = stored.name.stem
                cancelling.mark(self._disk, self._queue, marked, stored.job)
            elif state not in ("ready", "delayed", "cancelled"):
                break
            elif state == "cancelled" or self._set_aside(stored):
                self._spool.ends.end(self._queue.name, stored.job.extras, "cancelled")
                cancelling.unmark(self._disk, self._queue, stored.name.stem)
                return "cancelled"
        else:
            raise OSError(errno.EBUSY, "it moves all the time", self._queue.base)
        if marked:
            cancelling.unmark(self._disk, self._queue, marked)
        return "gone"

    def _look(self, uid: bytes, job_id: str) -> tuple[str, Stored | None]:
        for _, state, stored in self._browse.found([self._queue], job_id):
            if stored.job.uid == uid and stored.job.queue == self._queue.name:
                return state, stored
        return "", None

    def _end_changes(self, job: Job | None) -> None:
        """Let a producer that changes a job with a unique key end: the job is in tmp meanwhile. Raises OSError.

        What a killed one has left there is recovered: else it would become this job again later.
        """
        if job is None or job.extras.unique_key is None:
            return
        disk, queue, field = self._disk, self._queue, names.key_field(job)
        try:
            with ids.locked(disk, os.path.dirname(keys.entry_of(queue, job))):
                holder(disk, self._clock, queue, job)
        except ids.IdBusy:
            raise OSError(errno.EBUSY, "a process has locked its unique key", queue.base) from None
        for entry in disk.listdir(f"{queue.base}/tmp"):
            if field in entry:
                recover(disk, self._clock, queue, entry)

    def _set_aside(self, stored: Stored) -> bool:
        """Take a waiting job out of its queue; return False if it is not there any more. Raises OSError.

        A job of a segment is claimed first. If this process is killed before it has left the segment, it goes back.
        """
        assert stored.name is not None
        if stored.index >= 0:
            return self._out_of_segment(stored)
        done = cancelling.set_aside(self._disk, self._queue, stored.path, stored.name, stored.job, stored.inode)
        if done:
            cancelling.sync(self._disk, self._queue, stored.path)
        return done

    def _out_of_segment(self, stored: Stored) -> bool:
        """Claim the job as an owner of its own, which ends at once, and settle it. After an error a rescuer has it."""
        self._owners += 1
        now = self._clock.wall()
        owner = life.make(
            self._disk, self._queue, self._spool.incarnation, boot=clock.boot_id(), now=now, first=self._owners
        )
        try:
            lease = self._take(owner, stored)
            if lease is not None:
                self._spool.settle([Settlement(lease, CANCELLED)])
            return lease is not None
        except LeaseLost:
            return False
        finally:
            life.end(self._disk, owner)
            for token in list(owner.tokens.values()):
                token.drop()

    def _take(self, owner: Owner, stored: Stored) -> Lease | None:
        for _ in range(TRIES):
            try:
                return self._part.segments.take(owner, os.path.basename(stored.path), stored.index)
            except Busy:  # a claim holds the lock for microseconds
                time.sleep(0.001)
        return None

    # --- housekeeping -------------------------------------------------------------------------------------------

    def sweep(self, until: float) -> bool:
        """Carry out what marks ask for whose jobs no worker has, and delete cancelled jobs in time. Raises OSError.

        Return whether all had their turn.
        """
        now = time.monotonic()
        if now < self._look_at:
            return True
        # The first look finds marks that outlived their workers: a power cut may have put their jobs back.
        first = now + AGAIN if self._look_at else now
        self._look_at = now + LOOK_EVERY
        marked = self._part.marks.names()
        stems = filter(names.BATCH.fullmatch, marked)  # what else lies there is not the spool's
        self._tried = {stem: self._tried.get(stem, first) for stem in stems}
        for stem in [stem for stem, at in self._tried.items() if at <= now]:
            self._tried[stem] = now + AGAIN
            self._carry_out(stem)
            if time.monotonic() >= until:
                return False
        self._delete_over()
        return True

    def _carry_out(self, stem: str) -> None:
        path = f"{self._queue.cancels}/{stem}"
        found, job = self._disk.stat(path), cancelling.marked(self._disk, self._queue, stem)
        torn = job is None and found is not None and found.st_mtime < time.time() - TORN
        if torn or (job is not None and self(*job) == "gone"):
            self._disk.unlink(path)

    def _delete_over(self) -> None:
        entries, now, ttl = self._aside(), time.time(), self._queue.options.ttl
        if entries is self._seen and now < self._over_at:
            return
        self._seen, self._over_at = entries, float("inf")
        for entry in entries:
            path = f"{self._queue.cancelled}/{entry}"
            # A rename sets the ctime: since then it has been here. What else lies here is not the spool's.
            found = self._disk.stat(path) if names.parse(entry) else None
            over_at = found.st_ctime + (CANCELLED_KEPT if ttl is None else ttl) if found is not None else float("inf")
            if over_at <= now:
                self._disk.unlink(path)
            else:
                self._over_at = min(self._over_at, over_at)
