"""The search for the jobs of one id, which does not read all files of a queue.

No name contains an id. A generated id begins with its time, as names do: the files of that time are read first. A
chosen id has an entry that is a link to the job's file: listings tell inodes. Only an id of neither kind, or one that
no job has, costs a look into the head of every file.
"""

from __future__ import annotations

import heapq
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from framework.engine.spool.disk.disk import Disk
from framework.engine.spool.disk.layout import QueueDir, queue_of
from framework.engine.spool.enqueue import ids
from framework.engine.spool.format import job_file, names
from framework.engine.spool.segments.file import Segment
from framework.engine.spool.segments.words import is_free, is_owned
from framework.engine.spool.upkeep.pages import Refused, inodes
from framework.model.options import QueueOptions

STATES = ("in_flight", "ready", "delayed", "dead", "cancelled")
_GENERATED = re.compile(r"[0-9a-f]{32}", re.ASCII)
WINDOWS = (1_000_000_000, 60_000_000_000)  # nanoseconds by which a name's time may differ from the id's
NEAR = 2_000  # files that are read, those nearest to the id's time
_HEAD = 512  # bytes behind the fixed header in which an id stands

Found = tuple[QueueDir, str, str]  # queue, directory, entry


class Search:
    """One search on some queues.

    Args:
        directories: returns the directories of a state.
        refused: notes the looks that the system refuses.
    """

    def __init__(
        self,
        disk: Disk,
        queues: Sequence[QueueDir],
        job_id: str,
        *,
        directories: Callable[[QueueDir, str], list[str]],
        refused: Refused,
    ) -> None:
        self._disk = disk
        self._queues = queues
        self._id = job_id
        self._directories = directories
        self._refused = refused
        self._needle = json.dumps(job_id).encode()
        self._time = int(job_id[:12], 16) * 1_000_000 if _GENERATED.fullmatch(job_id) else None

    def __call__(self) -> Iterator[Found]:
        """Yield the files and segments that may hold the job, those of the cheapest way that finds any."""
        ways: list[Callable[[], Iterator[Found]]] = [self._chosen, self._fresh]
        ways += [partial(self._moved, window) for window in WINDOWS]
        for way in (*ways, self._everywhere):
            found = False
            for one in way():
                found = True
                yield one
            if found:
                return

    def _chosen(self) -> Iterator[Found]:
        """Yield the files that the id's entries are links to; a dead letter's entry is in its home queue."""
        wanted: dict[int, int] = {}
        for directory in self._disk.listdir("."):
            name = queue_of(directory)
            link = "" if name is None else ids.entry(QueueDir(QueueOptions(name)), self._id)
            there = self._stat(link) if link else None
            if there is not None:
                job = job_file.job_in(self._disk, link)
                wanted[there.st_ino] = 0 if job is None else round(job.enqueued_at * 1e9)
        if not wanted:
            return
        first, later = self._directories_at(max(wanted.values()))
        for queue, path in [*first, *later]:
            if not wanted:
                return
            for entry, inode in self._refused(lambda path=path: inodes(self._disk, path), path):  # type: ignore[misc]
                if wanted.pop(inode, None) is not None:
                    yield queue, path, entry

    def _stat(self, path: str) -> os.stat_result | None:
        try:
            return self._disk.stat(path)
        except OSError:  # a file with a name that a queue could have, or a damaged directory
            return None

    def _fresh(self) -> Iterator[Found]:
        """Yield the file or segment of a job with a generated id, where it lies as it was enqueued or is claimed."""
        if self._time is not None:
            first, _ = self._directories_at(self._time)
            yield from self._first_of(first, WINDOWS[-1]) or self._in_segments()

    def _moved(self, window: int) -> Iterator[Found]:
        """Yield the file of a job with a generated id, wherever it lies: names keep the time of the enqueue."""
        if self._time is not None:
            first, later = self._directories_at(self._time)
            yield from self._first_of([*later, *first], window)

    def _first_of(self, directories: Sequence[tuple[QueueDir, str]], window: int) -> list[Found]:
        for queue, path in directories:
            for entry in self._nearest(path, self._time or 0, window):
                if self._holds(f"{path}/{entry}"):
                    return [(queue, path, entry)]
        return []

    def _nearest(self, path: str, moment: int, window: int) -> list[str]:
        low, high = max(0, moment - window), moment + window
        listed = self._refused(lambda: inodes(self._disk, path), path)
        at_low, at_high, origin_low, origin_high = f"{low:020d}", f"{high:020d}", f"{low:016x}", f"{high:016x}"
        near = []
        for entry, _ in listed:
            at = entry.find(",o")
            if at < 0:
                if at_low < entry < at_high:
                    near.append((abs(int(entry[:20]) - moment), entry))
            elif origin_low < entry[at + 2 : at + 18] < origin_high:
                near.append((abs(_origin(entry[at + 2 : at + 18]) - moment), entry))
        return [entry for _, entry in heapq.nsmallest(NEAR, near)]

    def _in_segments(self) -> Iterator[Found]:
        """Yield the segments that hold the id; those that began long after it cannot."""
        for queue in self._queues:
            path = f"{queue.base}/segments"
            for entry, _ in self._refused(lambda path=path: inodes(self._disk, path), path):  # type: ignore[misc]
                if names.segment(entry) and self._segment_holds(f"{path}/{entry}"):
                    yield queue, path, entry

    def _everywhere(self) -> Iterator[Found]:
        """Yield all files that hold the id, or have it as their name."""
        first, later = self._directories_at(0)
        for queue, path in [*first, *later]:
            for entry, _ in self._refused(lambda path=path: inodes(self._disk, path), path):  # type: ignore[misc]
                if entry == self._id or self._holds(f"{path}/{entry}"):
                    yield queue, path, entry
        if self._time is None:
            yield from self._in_segments()

    def _directories_at(self, moment: int) -> tuple[list[tuple[QueueDir, str]], list[tuple[QueueDir, str]]]:
        """Return the directories of claimed jobs and of those enqueued at this time, and all others."""
        first: list[tuple[QueueDir, str]] = []
        later: list[tuple[QueueDir, str]] = []
        bucket = f"{moment:020d}"[: names.BUCKET_DIGITS]
        for queue in self._queues:
            for state in STATES:
                base = f"{queue.base}/{state}"
                for path in self._refused(lambda q=queue, s=state: self._directories(q, s), base):  # type: ignore[misc]
                    near = state == "in_flight" or (state == "ready" and _is_beside(os.path.basename(path), bucket))
                    (first if near else later).append((queue, path))
        return first, later

    def _holds(self, path: str) -> bool:
        """Return whether the head of a job file contains the id. A file that cannot be read does not."""
        try:
            data = self._disk.read_small(path, job_file.FIXED_SIZE + len(self._needle) + _HEAD)
        except OSError:
            return False
        return data is not None and self._needle in data

    def _segment_holds(self, path: str) -> bool:
        """Return whether the job is in this segment. The record of one that has left it stays there."""
        try:
            with Segment(self._disk, path) as segment:
                if not segment.holds(self._id.encode("utf-8", "surrogatepass")):
                    return False
                here = [index for index, one in enumerate(segment.words()) if is_free(one) or is_owned(one)]
                return any(self._is_at(segment, index) for index in here)
        except (job_file.Damaged, job_file.Newer, OSError):
            return False

    def _is_at(self, segment: Segment, index: int) -> bool:
        try:
            return segment.job(index).id == self._id
        except job_file.Damaged:
            return False


def _origin(text: str) -> int:
    try:
        return int(text, 16)
    except ValueError:  # a file that is not the spool's
        return 0


def _is_beside(name: str, bucket: str) -> bool:
    return len(name) == len(bucket) and name.isdecimal() and 0 <= int(name) - int(bucket) <= 1
