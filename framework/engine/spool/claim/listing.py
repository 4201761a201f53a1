"""The runnable jobs of a queue in order, lower priority numbers first, from directory listings that are kept.

`readdir` returns names in no order and not as a snapshot: a name added meanwhile may appear without one added before
it. So only names stamped before the listing began are consumed: a producer stamps a job after its last one is in place.
This keeps the order within one priority; between priorities only the priority counts.
"""

from __future__ import annotations

import re
import threading
import time
from bisect import bisect_left, insort
from collections.abc import Callable

from framework.engine.spool.claim.pausing import MARKER
from framework.engine.spool.claim.setbacks import Setbacks
from framework.engine.spool.claim.starving import Starving
from framework.engine.spool.disk.clock import HORIZON, Clock
from framework.engine.spool.disk.disk import Disk
from framework.engine.spool.disk.layout import QueueDir
from framework.engine.spool.format import names
from framework.model.extras import USUAL

ENOUGH = 4096  # names in one listing; further buckets are listed when these are used up
LEAST_AGE = 0.1  # seconds; a listing that is not used up is renewed after 50 times what it took, but at least this
# A directory's time does not advance between two ticks of its file system's clock: up to 10 ms with the kernel's own
# clock, a second or two where times have no fractions (ext4 with inodes of 128 bytes, FAT, some network file systems).
# A second change within that span does not show, so a listing is trusted only once the time has been seen for longer.
RACY = 0.05  # seconds
COARSE = 2.1  # seconds; for a time that is a multiple of COARSE_UNIT
COARSE_UNIT = 10_000_000  # nanoseconds
# A full look finds changes that no time shows (a clock was set back, a network file system caches attributes).
FULL_LOOK = 5.0  # seconds between two full looks, or 50 times what they take
FEW = 8  # queues; a larger number shares the time for full looks


def tick(changed_at: int) -> float:
    """Return for how many seconds the file system's time may stand still, judged by the time itself."""
    return RACY if changed_at % COARSE_UNIT else COARSE


class Names:
    """The names in one directory, listed again only when it may have changed: an idle look is one `stat`.

    Times of the file system are compared only with each other, never with this machine's clock.
    """

    def __init__(self, disk: Disk, path: str) -> None:
        self._disk = disk
        self._path = path
        self._forget()

    def _forget(self) -> None:
        self._seen: tuple[int, int] | None = None  # inode and time of the directory
        self._since = 0.0  # when this process first saw that time
        self._trusted = False
        self._full_at = 0.0
        self.known: list[str] = []  # the names that the last look found

    def __call__(self, *, peers: int = 1) -> list[str]:
        """Return all names, sorted, foreign ones included. Raises OSError.

        It returns the same list object as long as nothing changed.

        Args:
            peers: how many directories share the time for full looks.
        """
        now = time.monotonic()
        found = self._disk.stat(self._path)
        if found is None:
            self._forget()
            return self.known
        seen = (found.st_ino, found.st_mtime_ns)
        if seen != self._seen:
            self._seen, self._since, self._trusted = seen, now, False
        if not self._trusted or now >= self._full_at:
            entries = sorted(self._disk.listdir(self._path))
            share = max(1.0, self._disk.queues / FEW)
            self._full_at = now + max(FULL_LOOK * share, 50 * peers * (time.monotonic() - now))
            self._trusted = now >= self._since + tick(found.st_mtime_ns)
            if entries != self.known:
                self.known = entries
        return self.known

    def is_current(self) -> bool:
        """Return whether the directory is as the last call saw it, and no full look is due. Raises OSError."""
        if not self._trusted or time.monotonic() >= self._full_at:
            return False
        found = self._disk.stat(self._path)
        return found is not None and (found.st_ino, found.st_mtime_ns) == self._seen


def first_there(is_there: Callable[[int], bool], low: int, end: int) -> int:
    """Return the first index from `low` on whose entry exists, or `end` if none does.

    The entries that are gone must be one run that begins at `low`. A galloping search costs a few `stat`s instead of a
    failed rename for each entry, and skips no job.
    """
    high, step = low, 1
    while high < end and not is_there(high):
        low, high, step = high + 1, high + step, step * 2
    high = min(high, end)
    while low < high:
        middle = (low + high) // 2
        if is_there(middle):
            high = middle
        else:
            low = middle + 1
    return low


class Buckets:
    """The names in the buckets of ready/ or in the minutes of delayed/. A damaged bucket does not hide the others.

    Args:
        base: the directory above the buckets. pattern: pattern of a bucket's name.
        setbacks: the queue's setbacks; it notes the buckets that cannot be read.

    Attributes:
        known: the buckets that the last look found.
        paused: the last look found the marker of a pause among them.
    """

    def __init__(self, disk: Disk, base: str, pattern: re.Pattern[str] = names.BUCKET, *, setbacks: Setbacks) -> None:
        self._disk = disk
        self._setbacks = setbacks
        self._base = base
        self._pattern = pattern
        self._here = Names(disk, base)
        self._seen: list[str] = []
        self._inside: dict[str, Names] = {}
        self.known: list[str] = []
        self.paused = False

    def all(self) -> list[str]:
        """Return the buckets that exist, oldest first. Raises OSError."""
        seen = self._here()
        if seen is not self._seen:
            self.known = [entry for entry in seen if self._pattern.fullmatch(entry)]
            self._inside = {b: self._inside.get(b) or Names(self._disk, f"{self._base}/{b}") for b in self.known}
            self.paused = MARKER in seen
            self._seen = seen
        return self.known

    def first(self) -> str:
        """Return the name of the oldest bucket, "" if there is none. It mostly costs one `stat`. Raises OSError."""
        found = self.known if self._here.is_current() and self._here.known is self._seen else self.all()
        return found[0] if found else ""

    def names(self, bucket: str) -> list[str]:
        """Return the names in one bucket as `Names` does, or the last known ones if it waits. Raises OSError."""
        inside = self._inside.get(bucket)
        if inside is None:
            return []
        if not self.waits(bucket):
            try:
                return inside(peers=len(self._inside))
            except OSError as error:
                self._setbacks.add(f"{self._base}/{bucket}", error)
        return inside.known

    def waits(self, bucket: str) -> bool:
        """Return whether a bucket could not be read, or nothing in it be moved, and its next try is not due yet."""
        return self._setbacks.waits(f"{self._base}/{bucket}")


class Listing:
    """The entries of ready/ and segments/, handed out in order. One thread takes them, any thread puts them back."""

    def __init__(self, disk: Disk, queue: QueueDir, clock: Clock, *, setbacks: Setbacks) -> None:
        self._disk = disk
        self._base = f"{queue.base}/ready"
        self._clock = clock
        self._buckets = Buckets(disk, self._base, setbacks=setbacks)
        self._segments_at = f"{queue.base}/segments"
        self._segments = Names(disk, self._segments_at)
        self._spent: set[str] = set()  # segments in which this process found nothing to claim at its last look
        self._names: list[str] = []  # sorted by `names.order`
        self._at = 0
        self._bucket_of: dict[str, str] = {}  # buckets that do not follow from the name
        self._due = self._urgent_due = 0.0  # when to list again: all names, and those with a priority below 5
        self._starving = Starving(queue)
        self._out_of_turn = False  # the last entry was taken before more urgent ones
        self._returned: list[str] = []
        self._foreign: set[str] = set()
        self._lock = threading.Lock()

    def path(self, entry: str) -> str:
        """Return the path of an entry, relative to the root."""
        if entry.endswith(names.SEGMENT_END):
            return f"{self._segments_at}/{entry}"
        bucket = self._bucket_of.get(entry)
        if bucket is None:
            priority = names.priority_of(entry) if ",p" in entry else USUAL
            bucket = entry[: names.BUCKET_DIGITS] if priority == USUAL else names.bucket_of(priority)
        return f"{self._base}/{bucket}/{entry}"

    def __len__(self) -> int:
        """Return how many names are left, as far as this process knows."""
        return len(self._names) - self._at + len(self._returned)

    def take(self) -> str | None:
        """Return the next entry, which may be gone already, or None if there is none. Raises OSError."""
        if self._returned:
            self._merge()
        now = time.monotonic()
        if self._urgent_due <= now < self._due and self._at < len(self._names):
            self._look_for_urgent()
        if self._at >= len(self._names) or now >= self._due:
            self._refresh()
            if not self._names:
                return None
        at = self._starving.turn(self._names, self._at, now) if now >= self._starving.due else self._at
        if at != self._at:
            self._names.insert(self._at, self._names.pop(at))
        self._out_of_turn = at != self._at
        self._at += 1
        return self._names[self._at - 1]

    def share(self, limit: int) -> int:
        """Return how many jobs may be claimed from the last entry, a segment."""
        return 1 if self._out_of_turn else limit

    def untake(self) -> None:
        """Let `take` return the last entry again: it is a segment from which more can be claimed."""
        self._at -= 1
        if self._out_of_turn:
            insort(self._names, self._names.pop(self._at), self._at, key=names.order)

    def note(self, entry: str, *, spent: bool) -> None:
        """Note whether others have claimed all that is left of a segment: then it hides no job behind it."""
        if spent:
            self._spent.add(entry)
        else:
            self._spent.discard(entry)

    def is_spent(self) -> bool:
        """Return whether only spent segments are listed."""
        return self._spent.issuperset(self._names)

    def hide(self, entry: str) -> None:
        """Never hand out this entry again: it is not a job that this version knows."""
        self._foreign.add(entry)

    def put_back(self, entry: str) -> None:
        """Put a released entry back: in this process it comes first of its priority again."""
        if names.priority_of(entry) > USUAL:
            return  # entries that were not listed may come before it: the next listing finds it
        with self._lock:
            if entry not in self._returned:  # a segment comes back with each of its jobs
                self._returned.append(entry)

    def skip_gone(self) -> None:
        """Skip the entries that other processes have claimed; called after two misses.

        Others consume in the same order, so the claimed entries are one run from here. A run ends with its priority:
        entries of a higher priority may have come after the others had listed those of a lower one.
        """
        if self._at < len(self._names):
            level, _ = names.order(self._names[self._at])
            is_there, every = self._disk.is_there, self._names
            self._at = first_there(lambda i: is_there(self.path(every[i])), self._at, self._end_of(level))

    def _end_of(self, level: int) -> int:
        """Return the index at which the remaining names up to this priority level end."""
        return bisect_left(self._names, (level + 1, ""), self._at, key=names.order)

    def _merge(self) -> None:
        with self._lock:
            returned, self._returned = self._returned, []
        self._names, self._at = self._names[self._at :], 0
        for entry in returned:
            insort(self._names, entry, key=names.order)
        self._starving.look(self._names, self._clock)

    def _refresh(self) -> None:
        with self._lock:
            self._returned.clear()  # the entries that were put back are on disk: the listing finds them
        self._bucket_of = {}
        began, start = self._clock.text(), time.monotonic()
        urgent, usual, patient = self._parted()
        if self._buckets.paused:
            self._names, self._at, self._due = [], 0, 0.0
            return
        found = self._each_of(urgent, began)
        if len(found) < ENOUGH or self._starving.possible:
            if (segments := self._segments()) or self._spent:
                self._spent.intersection_update(segments)
                usual = sorted([*usual, *segments])
            alike = self._before(began, self._usual(usual, max(1, ENOUGH - len(found))))
            found += alike
            if any(",p" in entry for entry in alike):  # a version that knows no priorities leaves them anywhere
                found.sort(key=names.order)
        for bucket in patient:
            if len(found) < ENOUGH or self._starving.possible:
                found += self._each_of([bucket], began)
        self._names, self._at = found, 0
        self._starving.look(found, self._clock)
        now = time.monotonic()
        self._due = now + max(LEAST_AGE, 50 * (now - start))
        self._urgent_due = now + LEAST_AGE / 2

    def _look_for_urgent(self) -> None:
        """Insert new entries of priorities below 5 before the remaining names: a long listing is renewed much later."""
        # The time of this thread: how soon urgent jobs are looked for must not depend on how busy the machine is.
        began, start = self._clock.text(), time.thread_time()
        found = self._each_of(self._parted()[0], began)
        if self._buckets.paused:
            self._due = 0.0  # `take` looks again at once
            return
        self._names, self._at = found + self._names[self._end_of(USUAL - 1) :], 0
        self._starving.look(self._names, self._clock)
        pause = max(LEAST_AGE / 2, 50 * (time.thread_time() - start))
        self._urgent_due = min(self._due, time.monotonic() + pause)

    def _parted(self) -> tuple[list[str], list[str], list[str]]:
        """Return the buckets of priorities below 5, of 5, and above 5, each in order. Raises OSError."""
        every = self._buckets.all()
        first, last = bisect_left(every, names.BEGIN), bisect_left(every, names.END)
        # No clock makes stamps outside this range, so there are few or none in `low` and `high`.
        low, high, of_time = every[:first], every[last:], names.is_of_time
        usual = [*filter(of_time, low), *every[first:last], *filter(of_time, high)]
        return [b for b in low if not of_time(b)], usual, [b for b in high if not of_time(b)]

    def _before(self, began: str, found: list[str]) -> list[str]:
        """Return, of a sorted list, the names stamped before the listing began, without those that are hidden."""
        horizon = f"{int(began) + HORIZON:020d}"
        made_up: list[str] = []  # names whose stamps no clock has made: kept and last, else they would wait for ever
        while found and found[-1][: len(began)] >= began:
            entry = found.pop()
            if entry[: len(began)] > horizon:
                made_up.append(entry)
        found += made_up
        if self._foreign:
            found = [entry for entry in found if entry not in self._foreign]
        return found

    def _each_of(self, buckets: list[str], began: str) -> list[str]:
        """Return the names in these priority buckets, one bucket after the other."""
        found: list[str] = []
        for bucket in buckets:
            entries = list(self._alone(self._buckets.names(bucket)))  # a copy: the kept lists must not change
            if not self._buckets.waits(bucket):
                self._bucket_of.update(dict.fromkeys(entries, bucket))
                found += self._before(began, entries)
        return found

    def _alone(self, entries: list[str]) -> list[str]:
        """Return those of the entries that are in no group; without groups all are."""
        return entries

    def _usual(self, buckets: list[str], enough: int) -> list[str]:
        """Return the first names in order, without a gap: at least `enough` of them where there are so many.

        Buckets and segments come in the order of their first stamps, so a bucket of ten seconds comes before the
        segments of that time. Names behind the next segment's stamp are left for later: its jobs come before them.
        """
        alone: list[str] = []
        segments: list[str] = []
        inside = 0  # jobs in segments
        for bucket in buckets:
            if len(alone) + inside >= enough:
                end = bisect_left(alone, bucket)
                if end + inside >= enough:
                    del alone[end:]
                    break
            if bucket.endswith(names.SEGMENT_END):
                if (segment := names.segment(bucket)) is not None:
                    segments.append(bucket)
                    inside += 0 if bucket in self._spent else segment.jobs
                continue
            entries = self._alone(self._buckets.names(bucket))
            if self._buckets.waits(bucket):
                continue
            mixed = alone and entries and entries[0] < alone[-1]
            alone += entries
            if mixed:
                alone.sort()
            # Moved here by hand, or written by a version without priorities, or by one that wrote batches.
            elsewhere = [entry for entry in entries if ",p" in entry or not entry.startswith(bucket)]
            self._bucket_of.update(dict.fromkeys(elsewhere, bucket))
        return sorted(alone + segments)
