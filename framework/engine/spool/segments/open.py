"""The segments of one queue that one process has open. It claims their jobs in ranges, and settles them by words."""

from __future__ import annotations

import contextlib
import math
import os
import threading
import time
from collections import Counter
from collections.abc import Sequence

from framework.engine.spool.claim.life import Held, Owner
from framework.engine.spool.claim.setbacks import Setbacks
from framework.engine.spool.disk.disk import Disk
from framework.engine.spool.disk.layout import QueueDir
from framework.engine.spool.format import job_file, names
from framework.engine.spool.segments import format as bytes_of
from framework.engine.spool.segments import mending
from framework.engine.spool.segments import words as word
from framework.engine.spool.segments.file import Busy, Segment
from framework.model.job import Lease

KEEP = 5.0  # seconds
MOST_IDLE = 8  # segments that stay open without a lease in this process


class Segments:
    """The open segments of one queue. Thread-safe: one thread claims, any thread settles or gives back.

    A word may say that this process has a job of which it has no lease, because a claim failed half-way, or the
    dead-lettering of an expired job did. The next claim from that segment makes it a lease again, so no job strands
    with a living owner.
    """

    def __init__(self, disk: Disk, queue: QueueDir, counts: Counter[str], setbacks: Setbacks) -> None:
        self._disk = disk
        self.setbacks = setbacks
        self._queue = queue
        self._counts = counts
        self._open: dict[str, Segment] = {}
        self._expiries: dict[str, float] = {}
        self._kept: dict[str, float] = {}  # until when expired jobs of a segment are left alone, monotonic seconds
        self.after_fork()

    def after_fork(self) -> None:
        """Forget the parent's segments in a forked child, where their descriptors are already closed."""
        self._lock = threading.RLock()
        self._open.clear()

    def close(self) -> None:
        """Close all segments; unsettled leases stay for a rescuer. Idempotent."""
        with self._lock:
            for segment in self._open.values():
                segment.close()
            self._open.clear()

    # --- claims ------------------------------------------------------------------------------------------------

    def claim(
        self, owner: Owner, entry: str, limit: int, *, now: int = 0, expired_at: int | None = None
    ) -> tuple[list[Lease], bool]:
        """Return up to `limit` leases of a segment, and whether more could be claimed. Raises Newer, OSError.

        Args:
            now: jobs that have expired by then are skipped where expired jobs could not leave the segment lately.
            expired_at: claim only jobs that had expired then. Both are in microseconds since the epoch.
        """
        kept = self._kept.get(entry, 0.0) > time.monotonic()
        if expired_at is not None and kept:
            return [], False
        with self._lock:
            segment = self._get(entry)
            if segment is None:
                return [], False
            seen = segment.words()
            there = self._pick(segment, seen, owner.tag)
            if not there:
                self._rest(segment, keep=False)
                return [], False
            segment.load(there[-1] + 1)  # before any word changes: jobs that cannot be read are not claimed
            wanted = self._wanted(segment, there, now if kept else None, expired_at)
            try:
                with segment.locked():
                    found = segment.words()
                    picked = there
                    if found != seen:  # jobs that came since are not loaded
                        picked = [i for i in self._pick(segment, found, owner.tag) if i <= there[-1]]
                    if wanted is not None:
                        picked = [i for i in picked if i in wanted]
                    left = len(picked) > limit
                    del picked[limit:]
                    taken = word.claimed(found, picked, owner.tag)
                    segment.write_all(taken)
            except Busy:
                self._counts["busy"] += 1
                return [], False
            leases = self._leases(segment, owner, {i: taken.get(i, found[i]) for i in picked})
            _may_have_copies([lease for lease in leases if lease.token.index not in taken])
            if not segment.held:
                self._rest(segment, keep=left)
            return leases, left

    def _leases(self, segment: Segment, owner: Owner, mine: dict[int, int]) -> list[Lease]:
        """Return leases of jobs whose words are the owner's. Raises OSError: one failed, and there are no others."""
        leases: list[Lease] = []
        failed: OSError | None = None
        for index, one in mine.items():
            try:
                lease = self._lease(segment, owner, index, one)
            except OSError as error:  # a damaged record cannot be moved to bad/: the next claim tries it again
                failed = error
                continue
            leases += [] if lease is None else [lease]
        if failed is not None and not leases:
            raise failed
        return leases

    def _wanted(
        self, segment: Segment, there: Sequence[int], after: int | None, until: int | None
    ) -> frozenset[int] | None:
        """Return the indexes of jobs that expire up to `until`, else of those that expire after `after`; None: all."""
        if until is not None:
            return frozenset(i for i in there if self._expires(segment, i) <= until)
        if after is not None:
            return frozenset(i for i in there if self._expires(segment, i) > after)
        return None

    @staticmethod
    def _pick(segment: Segment, found: list[int], tag: int) -> list[int]:
        """Return the indexes that may be claimed, in order: free jobs, and the owner's jobs without a lease."""
        free, lost = word.all_free(found), word.all_of(found, tag) - segment.held
        return sorted([*free, *lost]) if lost else free

    def keep_expired(self, entry: str) -> None:
        """Skip the expired jobs of a segment for a while: they could not leave it, and other jobs must run."""
        self._kept[entry] = time.monotonic() + KEEP

    @staticmethod
    def _expires(segment: Segment, index: int) -> float:
        try:
            name = bytes_of.name_of(segment.name, index, segment.job(index), 0)
        except job_file.Damaged:  # a claim handles it
            return float("inf")
        return float("inf") if name.expires is None else name.expires

    def _lease(self, segment: Segment, owner: Owner, index: int, one: int) -> Lease | None:
        """Return a lease of a job whose word is the owner's; None: its record was damaged and is moved to bad/."""
        delivery = word.delivery_of(one)
        try:
            job = segment.job(index)
        except job_file.Damaged:
            self._put_aside(segment, index, one)
            return None
        name = bytes_of.name_of(segment.name, index, job, delivery)
        held = Held(owner, name, str(name), segment.inode, 0, False, False, segment, index, one)
        owner.held[held.entry] = held
        segment.held.add(index)
        return Lease(job, self._queue.name, 1, delivery, job.enqueued_at, held)  # none has a delay

    def _put_aside(self, segment: Segment, index: int, one: int) -> None:
        """Write the bytes of a damaged record to bad/, and set its word to *moved*. Raises OSError."""
        path = self._queue.path("bad", segment.name.of_job(index, 0, None))  # the same name at each try
        self._disk.unlink(path)
        self._disk.write_new(path, segment.record(index), sync=True)
        segment.write(index, word.moved(word.delivery_of(one), 0))
        self._counts["bad"] += 1

    # --- settlements -------------------------------------------------------------------------------------------

    def finish(self, held: Held) -> bool:
        """Mark the job as done. False: the lease was lost. Raises OSError: the lease stays."""
        return self._settle(held, held.word ^ word.FINISH)

    def finish_all(self, entry: str, done: Sequence[Held]) -> None:
        """Finish jobs of one segment at once; lost leases and failures are skipped, and `finish` reports them."""
        with self._lock, contextlib.suppress(OSError):
            segment = self._open.get(entry)
            if segment is None:
                return
            found = segment.words()
            mine = [held for held in done if held.segment is segment and found[held.index] == held.word]
            segment.write_all({held.index: held.word ^ word.FINISH for held in mine})
            for held in mine:
                segment.held.discard(held.index)
                held.owner.held.pop(held.entry, None)  # as `Held.done` does, which would look at the words each time
                held.segment, held.settled = None, True
            if not segment.held:
                self._rest(segment, keep=True)

    def give_back(self, held: Held) -> bool:
        """Make the job free again, in its old order. False: the lease was lost. Raises OSError: the lease stays."""
        return self._settle(held, word.free(held.name.delivery))

    def _settle(self, held: Held, wanted: int) -> bool:
        with self._lock:
            segment = held.segment
            if held.settled or segment is None or segment.fd < 0:
                return False
            now = self._word_of(held)
            if now == held.word:
                segment.write(held.index, wanted)
            elif now != wanted:  # equal: an earlier call wrote the word, then failed, and this call repeats it
                return False
            self.leave(held)
            return True

    @staticmethod
    def _word_of(held: Held) -> int:
        """Return the word as it is now; an unexpected one is read again after a check of the file. Raises OSError."""
        segment: Segment = held.segment
        with contextlib.suppress(OSError):  # the descriptor's number may belong to another file by now
            if (now := segment.word(held.index)) == held.word:
                return now
        segment.check()
        return segment.word(held.index)

    def leave(self, held: Held) -> None:
        """Remove the lease from its segment, whatever the job's word says."""
        with self._lock:
            segment, held.segment = held.segment, None
            if segment is None:
                return
            segment.held.discard(held.index)
            if not segment.held:
                with contextlib.suppress(OSError):  # the next use of the segment does it
                    self._rest(segment, keep=True)

    def _rest(self, segment: Segment, *, keep: bool) -> None:
        """Unlink a segment where all is settled; close it unless it has leases here or more jobs are to be claimed.

        Close idle segments beyond MOST_IDLE, too. Raises OSError.
        """
        found = segment.words()[::-1]  # the last jobs first, which are claimed last
        if all(map(word.is_settled, found)):
            self._unlink(segment)
        comes = any(map(word.is_vacant, found)) or (keep and any(map(word.is_free, found)))
        if not (segment.held or comes):
            self._forget(segment)
        idle = [one for one in self._open.values() if not one.held]
        for one in idle[: max(0, len(idle) - MOST_IDLE)]:
            self._forget(one)

    def _unlink(self, segment: Segment) -> None:
        """Unlink a settled segment without a second look: settled words never change, and no record is added."""
        self._disk.unlink(segment.path)

    def _forget(self, segment: Segment) -> None:
        self._open.pop(segment.entry, None)
        segment.close()

    # --- of others ---------------------------------------------------------------------------------------------

    def path(self, entry: str) -> str:
        """Return the path of a segment, relative to the root."""
        return f"{self._queue.base}/segments/{entry}"

    def _get(self, entry: str) -> Segment | None:
        """Return an open segment; None: it is gone, or it is damaged and moved to bad/. Raises Newer, OSError."""
        if not entry:
            return None
        known = self._open.get(entry)
        if known is not None:
            return known
        try:
            segment = self._open[entry] = Segment(self._disk, self.path(entry), self)
        except FileNotFoundError:
            return None
        except job_file.Damaged:
            if self._disk.move(self.path(entry), self._queue.path("bad", entry)):
                self._counts["bad"] += 1
            return None
        return segment

    def first_expiry(self, entry: str) -> float:
        """Return when the first claimable job of a segment expires, in microseconds since the epoch.

        Until `look_for_expiry` has read the records, this is the time in the segment's name.
        """
        name = names.segment(entry)
        if name is None or name.expires is None:
            return math.inf
        return self._expiries.get(entry, name.expires)

    def keep_expiries(self, entries: Sequence[str]) -> None:
        """Forget the known expiries of segments that are not among these entries."""
        if self._kept:
            self._kept = {entry: self._kept[entry] for entry in entries if entry in self._kept}
        if self._expiries:
            self._expiries = {entry: self._expiries[entry] for entry in entries if entry in self._expiries}

    def look_for_expiry(self, entry: str, tag: int) -> None:
        """Find out from the records when the first job expires that this owner may claim. Raises OSError."""
        with self._lock:
            segment = self._get(entry)
            if segment is None:
                return
            found = segment.words()
            there = self._pick(segment, found, tag)
            first = min((self._expires(segment, index) for index in there), default=math.inf)
            if word.is_vacant(found[-1]):  # more jobs may come, which may expire soon
                first = min(first, names.micros(time.time() + 1.0))
            self._expiries[entry] = first
            if not segment.held:
                self._rest(segment, keep=False)

    def word(self, entry: str, index: int) -> int | None:
        """Return a word of a segment; None: the segment is gone, or is in bad/. Raises Newer, OSError."""
        with self._lock:
            segment = self._get(entry) or self._get(self._again(entry))
            found = None if segment is None else segment.word(index)
            if segment is not None and not segment.held:
                self._forget(segment)
            return found

    def _again(self, entry: str) -> str:
        """Return the new name of a segment whose rename a power cut has undone; empty: it is gone. Raises OSError.

        Such a segment is still in tmp, where this recovers it, or was recovered under another name since.
        """
        wanted = names.segment(entry)
        drafts = map(names.segment, self._disk.listdir(f"{self._queue.base}/tmp"))
        for draft in [draft for draft in drafts if draft and wanted and draft.tail == wanted.tail]:
            mending.recover(self._disk, self._queue, str(draft))
        found = ((other, names.segment(other)) for other in self.entries())
        return next((other for other, name in found if name and wanted and name.tail == wanted.tail), "")

    def entries(self) -> list[str]:
        """Return the names of all segments, oldest first. Raises OSError."""
        return sorted(filter(names.segment, self._disk.listdir(f"{self._queue.base}/segments")))

    def collect(self, dead_owner: Owner) -> tuple[list[Lease], bool]:
        """Return new leases of what a dead owner had claimed from segments, and whether these are all.

        Raises OSError: an error that is not about a single file, and only while there are no leases to return.
        """
        leases: list[Lease] = []
        every = True
        for entry in self.entries():
            try:
                found = self.setbacks.tried(
                    self.path(entry), lambda path: self._collect(dead_owner, os.path.basename(path))
                )
            except OSError:
                if not leases:
                    raise
                return leases, False
            leases += found or []
            every = every and found is not None
        return leases, every

    def _collect(self, dead_owner: Owner, entry: str) -> list[Lease]:
        leases: list[Lease] = []
        with self._lock:
            segment = self._get(entry)
            if segment is not None:
                found = segment.words()
                mine = {index: found[index] for index in sorted(word.all_of(found, dead_owner.tag) - segment.held)}
                leases = self._leases(segment, dead_owner, mine)
                _may_have_copies(leases)
                if not segment.held:
                    self._rest(segment, keep=False)
        return leases


def _may_have_copies(leases: Sequence[Lease]) -> None:
    """Note on leases of jobs claimed before that a copy may exist: an earlier try may have begun to make one."""
    for lease in leases:
        lease.token.copied = True
