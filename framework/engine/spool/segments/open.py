"""The segments of one queue that one process has open. It claims their jobs in ranges, and settles them by words."""

from __future__ import annotations

import contextlib
import math
import os
import threading
import time
from collections import Counter
from collections.abc import Container, Mapping, Sequence

from framework.engine.spool.claim.life import Owner, Token
from framework.engine.spool.claim.setbacks import Setbacks
from framework.engine.spool.disk.disk import Disk
from framework.engine.spool.disk.layout import QueueDir
from framework.engine.spool.format import job_file, names
from framework.engine.spool.segments import format as bytes_of
from framework.engine.spool.segments import mending
from framework.engine.spool.segments import words as word
from framework.engine.spool.segments.file import Busy, Segment
from framework.model.job import Job, Lease

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
        self._expiries: dict[
            str, float
        ] = {}  # when the first job of each segment expires, microseconds since the epoch
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

    def claim(
        self, owner: Owner, entry: str, limit: int, now: int, *, expired: bool = False
    ) -> tuple[list[Lease], bool]:
        """Return up to `limit` leases of a segment, and whether more could be claimed. Raises Newer, OSError.

        Args:
            now: in microseconds since the epoch. Where expired jobs could not leave the segment lately, they are
                skipped.
            expired: claim only jobs that have expired.
        """
        kept = self._kept.get(entry, 0.0) > time.monotonic()
        with self._lock:
            segment = None if expired and kept else self._get(entry)
            if segment is None:
                return [], False
            seen = segment.words()
            there = self._pick(segment, seen, owner.tag)
            if not there:
                self._tidy(segment, keep=False)
                return [], False
            segment.load(there[-1] + 1)  # before any word changes: jobs that cannot be read are not claimed
            wanted = {i for i in there if (self._expires(segment, i) <= now) == expired} if expired or kept else None
            try:
                with segment.locked():
                    found = segment.words()
                    picked = there
                    if found != seen:  # jobs that came since are not loaded
                        picked = [i for i in self._pick(segment, found, owner.tag) if i <= there[-1]]
                    if wanted is not None:
                        picked = [i for i in picked if i in wanted]
                    taken = word.claimed(found, picked[:limit], owner.tag)
                    segment.write_all(taken)
            except Busy:
                self._counts["busy"] += 1
                return [], False
            left = len(picked) > limit
            leases = self._leases(segment, owner, {i: taken.get(i, found[i]) for i in picked[:limit]}, taken)
            self._tidy(segment, keep=left)
            return leases, left

    def take(self, owner: Owner, entry: str, index: int) -> Lease | None:
        """Claim one job of a segment; None: it is not free any more. Raises Busy, Newer, OSError."""
        with self._lock:
            segment = self._get(entry)
            if segment is None:
                return None
            segment.load(index + 1)
            with segment.locked():
                taken = word.claimed(segment.words(), [index], owner.tag)
                segment.write_all(taken)
            leases = self._leases(segment, owner, taken, taken)
            self._tidy(segment, keep=True)
            return leases[0] if leases else None

    @staticmethod
    def _pick(segment: Segment, found: list[int], tag: int) -> list[int]:
        """Return the indexes that may be claimed, in order: free jobs, and the owner's jobs without a lease."""
        free, lost = word.all_free(found), word.all_of(found, tag) - segment.claimed
        return sorted([*free, *lost]) if lost else free

    def _leases(
        self, segment: Segment, owner: Owner, mine: Mapping[int, int], taken: Container[int] = ()
    ) -> list[Lease]:
        """Return leases of jobs whose words are the owner's. Raises OSError: one failed, and there are no others.

        The next claim tries it again.

        Args:
            mine: the words, by index.
            taken: the jobs that this claim has taken; an earlier try may have begun to make a copy of the others.
        """
        leases: list[Lease] = []
        failed: OSError | None = None
        for index, one in mine.items():
            delivery = word.delivery_of(one)
            try:
                job = self._job(segment, index, delivery)
            except OSError as error:
                failed = error
                continue
            if job is None:
                continue
            name = bytes_of.name_of(segment.name, index, job, delivery)
            token = Token(
                owner, name, str(name), segment.inode, segment=segment, index=index, word=one, copied=index not in taken
            )
            owner.tokens[token.entry] = token
            segment.claimed.add(index)
            leases.append(Lease(job, self._queue.name, 1, delivery, job.enqueued_at, token))  # none has a delay
        if failed is not None and not leases:
            raise failed
        return leases

    def _job(self, segment: Segment, index: int, delivery: int) -> Job | None:
        """Return a job; None: its record is damaged, and moved to bad/ under the word *moved*. Raises OSError."""
        try:
            return segment.job(index)
        except job_file.Damaged:
            path = self._queue.path("bad", segment.name.of_job(index, 0, None))  # the same name at each try
            self._disk.unlink(path)
            self._disk.write_new(path, segment.record(index), sync=True)
            segment.write(index, word.moved(delivery, 0))
            self._counts["bad"] += 1
            return None

    # --- settlements -------------------------------------------------------------------------------------------

    def settle(self, token: Token, *, free: bool) -> bool:
        """Mark the job as done, or make it free again in its old order. False: the lease was lost.

        Raises OSError: the lease stays.
        """
        wanted = word.free(token.name.delivery) if free else token.word ^ word.FINISH
        with self._lock:
            segment = token.segment
            if token.settled or segment is None or segment.fd < 0:
                return False
            now = self._word_of(token)
            if now == token.word:
                segment.write(token.index, wanted)
            elif now != wanted:  # equal: an earlier call wrote the word, then failed, and this call repeats it
                return False
            self.leave(token)
            return True

    def finish_all(self, entry: str, done: Sequence[Token]) -> None:
        """Finish jobs of one segment at once; lost leases and failures are skipped, and `settle` reports them."""
        with self._lock, contextlib.suppress(OSError):
            segment = self._open.get(entry)
            if segment is None:
                return
            found = segment.words()
            mine = [token for token in done if token.segment is segment and found[token.index] == token.word]
            segment.write_all({token.index: token.word ^ word.FINISH for token in mine})
            for token in mine:
                segment.claimed.discard(token.index)
                token.owner.tokens.pop(token.entry, None)  # as `Token.done`, without a look at the words
                token.segment, token.settled = None, True
            self._tidy(segment, keep=True)

    @staticmethod
    def _word_of(token: Token) -> int:
        """Return the word as it is now; an unexpected one is read again after a check of the file. Raises OSError."""
        segment: Segment = token.segment
        with contextlib.suppress(OSError):  # the descriptor's number may belong to another file by now
            if (now := segment.word(token.index)) == token.word:
                return now
        segment.check()
        return segment.word(token.index)

    def leave(self, token: Token) -> None:
        """Remove the lease from its segment, whatever the job's word says."""
        with self._lock:
            segment, token.segment = token.segment, None
            if segment is not None:
                segment.claimed.discard(token.index)
                with contextlib.suppress(OSError):  # the next use of the segment does it
                    self._tidy(segment, keep=True)

    def _tidy(self, segment: Segment, *, keep: bool) -> None:
        """Unlink a segment where all is settled; close it unless more jobs come, or are to be claimed (`keep`).

        A segment with leases here stays as it is. Close idle segments beyond MOST_IDLE, too. Raises OSError.
        """
        if segment.claimed:
            return
        found = segment.words()[::-1]  # the last jobs first, which are claimed last
        if all(map(word.is_settled, found)):
            self._disk.unlink(segment.path)  # without a second look: settled words never change, no record is added
        if not (word.VACANT in found or (keep and any(map(word.is_free, found)))):
            self._forget(segment)
        idle = [one for one in self._open.values() if not one.claimed]
        for one in idle[: max(0, len(idle) - MOST_IDLE)]:
            self._forget(one)

    def _forget(self, segment: Segment) -> None:
        self._open.pop(segment.entry, None)
        segment.close()

    # --- the times at which jobs expire -------------------------------------------------------------------------

    def keep_expired(self, entry: str) -> None:
        """Skip the expired jobs of a segment for a while: they could not leave it, and other jobs must run."""
        self._kept[entry] = time.monotonic() + KEEP

    @staticmethod
    def _expires(segment: Segment, index: int) -> float:
        try:
            name = bytes_of.name_of(segment.name, index, segment.job(index), 0)
        except job_file.Damaged:  # a claim handles it
            return math.inf
        return math.inf if name.expires is None else name.expires

    def expired(self, entries: Sequence[str], now: int) -> list[str]:
        """Return those of all segments in which a claimable job has expired at `now` (microseconds since the epoch).

        Until `look_for_expiry` has read a segment's records, the time in its name counts.
        """
        for known in (self._kept, self._expiries):
            for gone in known.keys() - set(entries):
                del known[gone]
        due: list[str] = []
        for entry in entries:
            name = names.segment(entry)
            if name is not None and name.expires is not None and self._expiries.get(entry, name.expires) <= now:
                due.append(entry)
        return due

    def look_for_expiry(self, entry: str, tag: int) -> None:
        """Find out from the records when the first job expires that this owner may claim. Raises OSError."""
        with self._lock:
            segment = self._get(entry)
            if segment is None:
                return
            found = segment.words()
            there = self._pick(segment, found, tag)
            first = min((self._expires(segment, index) for index in there), default=math.inf)
            if found[-1] == word.VACANT:  # more jobs may come, which may expire soon
                first = min(first, names.micros(time.time() + 1.0))
            self._expiries[entry] = first
            self._tidy(segment, keep=False)

    # --- of others ---------------------------------------------------------------------------------------------

    def path(self, entry: str) -> str:
        """Return the path of a segment, relative to the root."""
        return f"{self._queue.base}/segments/{entry}"

    def _get(self, entry: str) -> Segment | None:
        """Return an open segment; None: it is gone, or it is damaged and moved to bad/. Raises Newer, OSError."""
        known = self._open.get(entry)
        if known is not None or not entry:
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

    def word(self, entry: str, index: int) -> int | None:
        """Return a word of a segment; None: the segment is gone, or is in bad/. Raises Newer, OSError."""
        with self._lock:
            segment = self._get(entry) or self._get(self._again(entry))
            found = None if segment is None else segment.word(index)
            if segment is not None and not segment.claimed:
                self._forget(segment)
            return found

    def _again(self, entry: str) -> str:
        """Return the new name of a segment whose rename a power cut has undone; empty: it is gone. Raises OSError.

        Such a segment is still in tmp, where this recovers it, or was recovered under another name since.
        """
        wanted = names.segment(entry)
        if wanted is None:
            return ""
        for temp in self._disk.listdir(f"{self._queue.base}/tmp"):
            if (name := names.segment(temp)) is not None and name.tail == wanted.tail:
                mending.recover(self._disk, self._queue, temp)
        found = ((other, names.segment(other)) for other in self.entries())
        return next((other for other, name in found if name is not None and name.tail == wanted.tail), "")

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
                found = self.setbacks.tried(self.path(entry), lambda path: self._collect(dead_owner, path))
            except OSError:
                if not leases:
                    raise
                return leases, False
            leases += found or []
            every = every and found is not None
        return leases, every

    def _collect(self, dead_owner: Owner, path: str) -> list[Lease]:
        leases: list[Lease] = []
        with self._lock:
            segment = self._get(os.path.basename(path))
            if segment is not None:
                found = segment.words()
                mine = sorted(word.all_of(found, dead_owner.tag) - segment.claimed)
                leases = self._leases(segment, dead_owner, {index: found[index] for index in mine})
                self._tidy(segment, keep=False)
        return leases
