"""The maintenance of a queue's segments: it counts and flushes words, and repairs what no worker repairs."""

from __future__ import annotations

import os
import time
from collections import deque
from contextlib import suppress

from framework.engine.spool.claim.listing import Names
from framework.engine.spool.claim.setbacks import Setbacks
from framework.engine.spool.disk.disk import Disk
from framework.engine.spool.disk.layout import QueueDir
from framework.engine.spool.format import job_file, names
from framework.engine.spool.segments import format as bytes_of
from framework.engine.spool.segments import mending
from framework.engine.spool.segments import words as word
from framework.engine.spool.segments.file import Busy, Segment
from framework.engine.spool.segments.open import Segments

FLUSH_EVERY = 2.0  # seconds: a power cut does not bring back jobs that were settled longer ago
LONG = 0.01  # seconds; a count that takes longer than this is used for 50 times as long as it took


class Words:
    """The words of all segments of a queue; each file is open only while its words are read."""

    def __init__(self, disk: Disk, queue: QueueDir, setbacks: Setbacks) -> None:
        self._disk = disk
        self._queue = queue
        self._setbacks = setbacks
        self._names = Names(disk, f"{queue.base}/segments")
        self._seen: list[str] = []
        self._entries: list[str] = []
        self._known: dict[str, list[int]] = {}
        self._look_at = 0.0

    @property
    def known(self) -> bool:
        """Return whether the last look found segments."""
        return bool(self._entries)

    def entries(self) -> list[str]:
        """Return the names of all segments, oldest first. Raises OSError."""
        seen = self._names()
        if seen is not self._seen:
            self._seen, self._entries = seen, [entry for entry in seen if names.segment(entry)]
        return self._entries

    def all(self) -> dict[str, list[int]]:
        """Return the words of each segment; one that cannot be read counts as unclaimed. Raises OSError."""
        entries = self.entries()
        began = time.monotonic()
        if began >= self._look_at or any(entry not in self._known for entry in entries):
            known = ((entry, self.of(entry)) for entry in entries)
            self._known = {entry: found for entry, found in known if found is not None}
            took = time.monotonic() - began
            self._look_at = began + 50 * took if took > LONG else 0.0
        return {entry: self._known[entry] for entry in entries if entry in self._known}

    def of(self, entry: str) -> list[int] | None:
        """Return the words of one segment; None: it is gone. Raises OSError."""
        name, path = names.segment(entry), f"{self._queue.base}/segments/{entry}"
        assert name is not None
        size = bytes_of.WORDS_AT + word.SIZE * name.jobs
        try:
            with self._disk.opened(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK) as fd:
                data = self._disk.calls.pread(fd, size, 0)
            head, found = bytes_of.head(data), word.unpack(data[bytes_of.WORDS_AT :])
            if head.jobs == len(found) == name.jobs:
                return found
        except FileNotFoundError:
            return None
        except job_file.Damaged:
            pass
        except OSError as error:
            if error.errno not in job_file.PLANTED:
                self._setbacks.add(path, error)
        return [0] * name.jobs  # damaged: a claim moves it to bad/


class Upkeep:
    """The steps of maintenance for the segments of a queue. One thread at a time may call it."""

    def __init__(self, disk: Disk, queue: QueueDir, segments: Segments) -> None:
        self._disk = disk
        self._queue = queue
        self._segments = segments
        self._words = Words(disk, queue, segments.setbacks)
        self._flushed: dict[str, list[int]] = {}
        self._at = self._took = 0.0
        self._left: deque[str] = deque()

    def __call__(self, until: float) -> bool:
        """Look at the segments until `until`; return whether all were looked at. Raises OSError.

        A look begins every two seconds, or less often where it takes long.
        """
        began = time.monotonic()
        if began >= self._at:
            self._at, self._took = began + FLUSH_EVERY, 0.0
            entries = self._words.entries()
            self._flushed = {entry: self._flushed[entry] for entry in entries if entry in self._flushed}
            self._left = deque(entries)
        while self._left:
            entry = self._left.popleft()
            self._segments.setbacks.tried(self._segments.path(entry), self._one)
            if time.monotonic() >= until:
                break
        self._took += time.monotonic() - began
        if not self._left:
            self._at = max(self._at, time.monotonic() + 20 * self._took)
        return not self._left

    def _one(self, path: str) -> None:
        entry = os.path.basename(path)
        found = self._words.of(entry)
        if found is None:
            return
        if all(map(word.is_settled, found)):  # a worker was killed between the last word and the unlink
            self._disk.unlink(path)
            return
        if word.VACANT in found:
            with suppress(job_file.Damaged, FileNotFoundError):
                mending.adopt(self._disk, path)
        self._free_unknown(entry, found)
        if self._disk.power and any(found) and self._flushed.get(entry) != found:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
            with suppress(FileNotFoundError), self._disk.opened(path, flags) as fd:  # gone once its last job has ended
                self._disk.calls.fdatasync(fd)
                self._flushed[entry] = found

    def _free_unknown(self, entry: str, found: list[int]) -> None:
        """Free the jobs whose words name an owner that no longer exists, as after a power cut.

        An owner has its lock file before its first word, and settles its words before the lock file is removed. So a
        word belongs to no owner where it was the same before and after a look that found no lock file.
        """
        suspects = [index for index, one in enumerate(found) if word.is_owned(one)]
        if not suspects:
            return
        claimed = self._disk.listdir(f"{self._queue.base}/claimed")
        living = {word.tag(wid.removesuffix(".lock")) for wid in claimed}
        suspects = [index for index in suspects if word.tag_of_word(found[index]) not in living]
        if not suspects:
            return
        with suppress(job_file.Damaged, FileNotFoundError, Busy):  # the next look tries again
            with Segment(self._disk, self._segments.path(entry)) as segment, segment.locked():
                now, there = segment.words(), segment.whole()
                suspects = [i for i in suspects if now[i] == found[i]]
                # A half-written word may have been vacant, without a job.
                job = {i for i in suspects if there[i] or word.tag_of_word(now[i])}
                segment.write_all({i: word.free(word.delivery_of(now[i])) if i in job else word.DONE for i in suspects})


def first_free(name: names.SegmentName, found: list[int]) -> str:
    """Return the stamp of the first job that may be claimed; empty: there is none."""
    index = next((i for i, one in enumerate(found) if word.is_free(one)), None)
    return "" if index is None else f"{int(name.stamp) + index:020d}"
