"""Views of stored jobs, and their replay, restoration and deletion, for a person at the command line."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

from framework.engine.spool.claim import markers
from framework.engine.spool.disk.clock import Clock
from framework.engine.spool.disk.disk import Disk
from framework.engine.spool.disk.layout import QueueDir
from framework.engine.spool.enqueue import ids
from framework.engine.spool.format import frame, jobfile, names
from framework.engine.spool.format.names import Name
from framework.engine.spool.segments.file import Segment
from framework.engine.spool.segments.format import WORDS_AT, head, name_of
from framework.engine.spool.segments.words import delivery_of, is_free, is_owned
from framework.engine.spool.segments.write import discard
from framework.engine.spool.upkeep import bad, undeclared
from framework.engine.spool.upkeep.counts import Counts
from framework.engine.spool.upkeep.refused import Refused
from framework.model.extras import NONE, Extras
from framework.model.job import Job

LOOKED = 200  # files of a state in a quick look: jobs that no worker here takes are soon among the oldest

# state -> its directory, and whether jobs are one directory deeper
_PLACES = {
    "ready": ("ready", True),
    "delayed": ("delayed", True),
    "in_flight": ("claimed", True),
    "dead": ("dead", False),
    "bad": ("bad", False),
}


@dataclass(frozen=True, slots=True)
class Sight:
    """A stored job and where it is stored.

    Attributes:
        path: path of the file, relative to the root. name: its parsed name; None for a bad file.
        inode: inode of the file. since: when the job came there, seconds since the epoch.
        flaw: what is wrong with a bad file; "" if it can be read now.
        newer: only a newer version can read the job.
        index: index of the job in its segment; -1 if it has a file of its own.
    """

    path: str
    name: Name | None
    job: Job
    inode: int
    since: float
    flaw: str = ""
    newer: bool = False
    index: int = -1


class Browse:
    """Views of stored jobs without claiming them. A job may be gone as soon as it was seen."""

    def __init__(
        self,
        disk: Disk,
        clock: Clock,
        *,
        queue: Callable[[str], QueueDir],
        declared: Collection[str],
        ring: Callable[[str], None],
    ) -> None:
        self._declared = declared
        self._disk = disk
        self._clock = clock
        self._queue = queue
        self._ring = ring

    def sights(self, queue: QueueDir, state: str) -> Iterator[Sight]:
        """Yield the jobs of a queue in one state, in the order of their names.

        Where the system refuses a look, this yields all other jobs first and then raises the OSError.
        """
        refused = Refused()
        found: list[tuple[str, str]] = []  # names and their directories: the order needs all names of a state
        for place in self._places(queue, state):
            for directory in refused(partial(self._directories, queue, place), f"{queue.base}/{place}"):
                listed = refused(partial(self._disk.listdir, directory), directory)
                found += [(entry, directory) for entry in listed]
        segments = f"{queue.base}/segments"
        found += [(entry, segments) for entry in refused(partial(self._segments, queue, state), segments)]
        for entry, directory in sorted(found):
            path = f"{directory}/{entry}"
            if directory == segments:
                yield from refused(partial(self._in_segment, queue, entry, state), path)
            else:
                yield from refused(partial(self._seen, queue, entry, path, state), path)
        refused.tell()

    def _seen(self, queue: QueueDir, entry: str, path: str, state: str) -> Iterable[Sight]:
        sight = self._bad(queue, entry, path) if state == "bad" else self._look(queue, entry, path)
        return () if sight is None else (sight,)

    def _segments(self, queue: QueueDir, state: str) -> list[str]:
        shown = {"ready", "in_flight"}.intersection(self._places(queue, state))
        return (
            [entry for entry in self._disk.listdir(f"{queue.base}/segments") if names.segment(entry)] if shown else []
        )

    def _in_segment(self, queue: QueueDir, entry: str, state: str) -> Iterator[Sight]:
        """Yield the claimed jobs of a segment for the state in_flight, else those that may be claimed."""
        wanted = is_owned if state == "in_flight" else is_free
        try:
            with Segment(self._disk, f"{queue.base}/segments/{entry}") as segment:
                for index, one in enumerate(segment.words()):
                    if not wanted(one):
                        continue
                    try:
                        job = segment.job(index)
                    except frame.Damaged:  # a claim moves it to bad/
                        continue
                    name = name_of(segment.name, index, job, delivery_of(one))
                    yield Sight(segment.path, name, job, segment.inode, job.enqueued_at, index=index)
        except frame.Newer:
            sight = self._newer(queue, entry, f"{queue.base}/segments/{entry}")
            if state != "in_flight" and sight is not None:
                yield sight
        except frame.Damaged:  # a claim moves the segment to bad/
            return

    def newer(self, queue: QueueDir, state: str) -> Iterator[Sight]:
        """Yield those of a state's oldest jobs that only a newer version can read. Raises OSError as `sights` does."""
        refused, left = Refused(), LOOKED
        for directory in sorted(refused(partial(self._directories, queue, state), f"{queue.base}/{state}")):
            entries = sorted(refused(partial(self._disk.listdir, directory), directory))[:left]
            left -= len(entries)
            for entry in entries:
                path = f"{directory}/{entry}"
                yield from refused(partial(self._newer_at, queue, entry, path), path)
        refused.tell()

    def _newer_at(self, queue: QueueDir, entry: str, path: str) -> Iterable[Sight]:
        sight = self._newer(queue, entry, path)
        return () if sight is None else (sight,)

    def keeps_letters(self, queue: QueueDir) -> bool:
        """Return whether a queue is a dead-letter queue that no service handles. Raises OSError."""
        return markers.keeps_letters(self._disk, queue)

    def undeclared(self, known: dict[str, Counts]) -> dict[str, Counts]:
        """Return the counts of the queues that no running service declares. Raises OSError.

        Args:
            known: the result of the last call.
        """
        return undeclared.find(self._disk, self._clock, self._declared, known)

    def _places(self, queue: QueueDir, state: str) -> tuple[str, ...]:
        if state in ("ready", "delayed", "dead") and self.keeps_letters(queue):
            return ("ready", "delayed", "dead") if state == "dead" else ()
        return (state,)

    def _directories(self, queue: QueueDir, state: str) -> list[str]:
        place, deep = _PLACES[state]
        base = f"{queue.base}/{place}"
        return [f"{base}/{d}" for d in self._disk.listdir(base) if not d.endswith(".lock")] if deep else [base]

    def replay(self, sight: Sight) -> bool:
        """Move a job to the end of its home queue. Return whether it moved. Raises OSError.

        It keeps its id and uid, gets attempt 0 and a new stamp, and its ttl begins anew.
        """
        if sight.name is None:
            return False
        home, now = self._queue(sight.job.queue), self._clock.micros()
        expires = None if sight.job.ttl is None else now + names.micros(sight.job.ttl)
        name = sight.name._replace(stamp=self._clock.stamp(), attempt=0, not_before=now, expires=expires)
        target = home.ready(name)
        if not self._disk.move(sight.path, target):
            return False
        self._ring(home.name)
        self._disk.sync_dir(os.path.dirname(target))
        return True

    def restore(self, queue: QueueDir, sight: Sight) -> str:
        """Put a bad file back among the jobs of its queue. Return "", or why it cannot be done. Raises OSError."""
        why = bad.restore(self._disk, self._clock, queue, sight.path, self._queue)
        if not why:
            self._ring(queue.name)
        return why

    def discard(self, sight: Sight) -> bool:
        """Delete a job for ever. Return whether it was there. Raises OSError."""
        if sight.index >= 0:
            return discard(self._disk, sight.path, sight.index)
        if sight.name is not None and sight.name.chosen and sight.inode:
            return ids.unlink(self._disk, sight.path, self._queue(sight.job.queue), sight.job.id, sight.inode)
        return self._disk.unlink(sight.path)

    def _look(self, queue: QueueDir, entry: str, path: str) -> Sight | None:
        name = names.parse(entry)
        if name is None:
            return self._newer(queue, entry, path)
        try:
            job, found = jobfile.read(self._disk, path)
        except frame.Newer:
            return self._newer(queue, entry, path)
        except jobfile.Planted:
            return None  # a planted file, which a look leaves alone
        except frame.Damaged:
            if path == queue.path("dead", name):  # elsewhere a claim moves it; jobs in dead/ are never claimed
                self._disk.move(path, queue.path("bad", name))
            return None
        return Sight(path, name, job, found.st_ino, found.st_ctime)

    def _newer(self, queue: QueueDir, entry: str, path: str) -> Sight | None:
        """Return what is known of a job that only a newer version can read, or None for any other file."""
        name = names.parse(entry)
        inside = names.segment(entry) is not None
        if name is None and not inside and not names.needs_newer(entry):
            return None
        try:
            with jobfile.opened(self._disk, path) as (fd, found):
                why = "" if name or inside else f"its name asks for a newer version than {frame.VERSION}"
                try:
                    data = self._disk.calls.pread(fd, WORDS_AT, 0)
                    if inside:
                        head(data)
                    else:
                        frame.layout(data)
                except frame.Newer as error:
                    why = error.strerror or str(error)
        except frame.Damaged:
            return None
        if not why:
            return None
        job, flaw = _unread(queue, entry, b"", found), f"{found.st_size:,} bytes; {why}"
        return Sight(path, name, job, found.st_ino, found.st_ctime, flaw, newer=True)

    def _bad(self, queue: QueueDir, entry: str, path: str) -> Sight | None:
        """Return what can be shown of a file in bad/, or None if it is gone.

        A file that cannot be read still has a name and a beginning, which a person wants to see.
        """
        found = self._disk.stat(path)
        if found is None:
            return None
        flaw, start, extras = bad.look(self._disk, path)
        return Sight(path, None, _unread(queue, entry, start, found, extras), 0, found.st_ctime, flaw)


def _unread(queue: QueueDir, entry: str, start: bytes, found: os.stat_result, extras: Extras = NONE) -> Job:
    """Return a stand-in for a job whose file is not decoded."""
    moment = found.st_ctime
    return Job(entry, bytes(16), queue.name, start, headers={}, enqueued_at=moment, extras=extras)
