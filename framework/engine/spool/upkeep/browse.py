"""Views of stored jobs, and their replay, restoration and deletion, for a person at the command line."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from framework.engine.spool.claim import markers, order
from framework.engine.spool.disk.clock import Clock
from framework.engine.spool.disk.disk import Disk
from framework.engine.spool.disk.layout import QueueDir, queue_of
from framework.engine.spool.enqueue import keys
from framework.engine.spool.format import job_file, names
from framework.engine.spool.format.names import Name
from framework.engine.spool.segments.file import Segment
from framework.engine.spool.segments.format import WORDS_AT, head, name_of
from framework.engine.spool.segments.words import delivery_of, is_free, is_owned
from framework.engine.spool.segments.write import discard
from framework.engine.spool.upkeep import bad
from framework.engine.spool.upkeep.counts import Counts, read_depth
from framework.engine.spool.upkeep.pages import Pages, Position, Refused
from framework.engine.spool.upkeep.search import Search
from framework.model.extras import NONE, Extras
from framework.model.job import Job
from framework.model.options import QueueOptions

LOOKED = 200  # files of a state in a quick look: jobs that no worker here takes are soon among the oldest
# Nanoseconds for which a queue counts as declared after its last depth: an idle one has its turn once a minute, and
# services are restarted.
KEPT = 150_000_000_000


@dataclass(frozen=True, slots=True)
class Stored:
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

    def stored(self, queue: QueueDir, state: str, after: str = "") -> Iterator[Stored]:
        """Yield the jobs of a queue in one state, in the order of their names.

        Where the system refuses a look, this yields all other jobs first and then raises the OSError.

        Args:
            after: only jobs after this position.
        """
        refused, begin = Refused(), Position.read(after, state)
        pages = Pages(self._disk, queue, self._directories, refused)
        for entry, directory in pages(self._states(queue, state), begin):
            segment = directory == f"{queue.base}/segments"
            look = self._in_segment if segment else self._bad if state == "bad" else self._look
            path = f"{directory}/{entry}"
            for stored in refused(partial(look, queue, entry, path, state), path):
                if not segment or stored.index > begin.inside or not entry.startswith(f"{begin.name},"):
                    yield stored
        refused.tell()

    def _in_segment(self, queue: QueueDir, entry: str, path: str, state: str) -> Iterator[Stored]:
        """Yield the claimed jobs of a segment for the state in_flight, else those that may be claimed."""
        wanted = is_owned if state == "in_flight" else is_free
        try:
            with Segment(self._disk, path) as segment:
                for index, one in enumerate(segment.words()):
                    if not wanted(one):
                        continue
                    try:
                        job = segment.job(index)
                    except job_file.Damaged:  # a claim moves it to bad/
                        continue
                    name = name_of(segment.name, index, job, delivery_of(one))
                    yield Stored(segment.path, name, job, segment.inode, job.enqueued_at, index=index)
        except job_file.Newer:
            if state != "in_flight":
                yield from self._newer(queue, entry, path)
        except job_file.Damaged:  # a claim moves the segment to bad/
            return

    def found(self, queues: Sequence[QueueDir], job_id: str) -> Iterator[tuple[QueueDir, str, Stored]]:
        """Yield the jobs of an id on these queues, each with its queue and state. Raises OSError as `stored` does."""
        refused = Refused()
        search = Search(self._disk, queues, job_id, directories=self._directories, refused=refused)
        for queue, directory, entry in search():
            path, part = f"{directory}/{entry}", directory.removeprefix(f"{queue.base}/").partition("/")[0]
            states = ("ready", "in_flight") if part == "segments" else ("in_flight" if part == "claimed" else part,)
            look = self._in_segment if part == "segments" else self._look
            for state in states:
                shown = "dead" if state in ("ready", "delayed") and self.keeps_dead_letters(queue) else state
                for stored in refused(partial(look, queue, entry, path, state), path):
                    if stored.job.id == job_id:
                        yield queue, shown, stored
        refused.tell()

    def bad(self, queue: QueueDir, entry: str) -> Iterator[Stored]:
        """Yield the file of this name in bad/, if it is there. Raises OSError."""
        if entry and "/" not in entry and entry not in (".", ".."):
            yield from self._bad(queue, entry, f"{queue.base}/bad/{entry}", "bad")

    def queues(self) -> list[str]:
        """Return the queues of the root, declared or not, in the order of their names. Raises OSError."""
        found = (queue_of(entry) for entry in self._disk.listdir("."))
        there = (name for name in found if name is not None)
        return sorted(name for name in there if self._is_queue(QueueDir(QueueOptions(name))))

    def reported(self, queue: QueueDir) -> float | None:
        """Return when a service last published a queue's depth, in seconds since the epoch. Raises OSError."""
        published = read_depth(self._disk, queue)
        return None if published is None else self._clock.wall() - (self._clock.now() - published[1]) / 1e9

    def newer(self, queue: QueueDir, state: str) -> Iterator[Stored]:
        """Yield those of a state's oldest jobs that only a newer version can read. Raises OSError as `stored` does."""
        refused, left = Refused(), LOOKED
        for directory in sorted(refused(partial(self._directories, queue, state), _base(queue, state))):
            entries = sorted(refused(partial(self._disk.listdir, directory), directory))[:left]
            left -= len(entries)
            for entry in entries:
                path = f"{directory}/{entry}"
                yield from refused(partial(self._newer, queue, entry, path), path)
        refused.tell()

    def keeps_dead_letters(self, queue: QueueDir) -> bool:
        """Return whether a queue is a dead-letter queue that no service handles. Raises OSError."""
        return markers.keeps_dead_letters(self._disk, queue)

    def undeclared(self, known: dict[str, Counts]) -> dict[str, Counts]:
        """Return the counts of the queues that no running service declares. Raises OSError.

        Args:
            known: the result of the last call.
        """
        found: dict[str, Counts] = {}
        for entry in self._disk.listdir("."):
            name = queue_of(entry)
            if name is None or name in self._declared:
                continue
            queue = QueueDir(QueueOptions(name))
            if self._is_queue(queue) and not self._is_kept(queue):
                found[name] = known.get(name) or Counts(self._disk, queue)
        return found

    def _is_queue(self, queue: QueueDir) -> bool:
        try:
            return self._disk.stat(f"{queue.base}/ready") is not None
        except NotADirectoryError:  # a file with a name that a queue could have
            return False

    def _is_kept(self, queue: QueueDir) -> bool:
        """Return whether a service does the housekeeping of a queue, as its depth was published lately."""
        published = read_depth(self._disk, queue)
        return published is not None and 0 <= self._clock.now() - published[1] < KEPT

    def _states(self, queue: QueueDir, state: str) -> tuple[str, ...]:
        """Return the states whose jobs are shown in this one."""
        if state in ("ready", "delayed", "dead") and self.keeps_dead_letters(queue):
            return ("ready", "delayed", "dead") if state == "dead" else ()
        return (state,)

    def _directories(self, queue: QueueDir, state: str) -> list[str]:
        base = _base(queue, state)
        if state in ("dead", "bad", "cancelled"):
            return [base]
        return [f"{base}/{entry}" for entry in self._disk.listdir(base) if not entry.endswith(".lock")]

    def replay(self, stored: Stored) -> bool:
        """Move a job to the end of its home queue. Return whether it moved. Raises OSError.

        It keeps its id and uid, gets attempt 0 and a new stamp, and its ttl begins anew.
        """
        if stored.name is None:
            return False
        home, now = self._queue(stored.job.queue), self._clock.micros()
        expires = None if stored.job.ttl is None else now + names.micros(stored.job.ttl)
        name = stored.name.restamped(self._clock.stamp())._replace(attempt=0, not_before=now, expires=expires)
        target = home.ready(name)
        keys.take_again(self._disk, self._clock, home, stored.path, name, stored.inode)
        if not self._disk.move(stored.path, target):
            return False
        self._ring(home.name)
        self._disk.sync_dir(os.path.dirname(target))
        return True

    def restore(self, queue: QueueDir, stored: Stored) -> str:
        """Put a bad file back among the jobs of its queue. Return "", or why it cannot be done. Raises OSError."""
        why = bad.restore(self._disk, self._clock, queue, stored.path, self._queue)
        if not why:
            self._ring(queue.name)
        return why

    def discard(self, stored: Stored) -> bool:
        """Delete a job for ever. Return whether it was there. Raises OSError."""
        if stored.index >= 0:
            return discard(self._disk, stored.path, stored.index)
        home, job_id = self._queue(stored.job.queue), stored.job.id
        gone = keys.leave(self._disk, home, stored.name, job_id, stored.inode, lambda: self._disk.unlink(stored.path))
        if gone:  # else it has moved since it was seen, and may be the next of its group
            with contextlib.suppress(OSError):  # then maintenance removes the mark
                order.ends(self._disk, home, stored.name)
        return gone

    def _look(self, queue: QueueDir, entry: str, path: str, _state: str) -> Iterator[Stored]:
        name = names.parse(entry)
        if name is None:
            yield from self._newer(queue, entry, path)
            return
        try:
            job, found = job_file.read(self._disk, path)
            yield Stored(path, name, job, found.st_ino, found.st_ctime)
        except job_file.Newer:
            yield from self._newer(queue, entry, path)
        except job_file.Planted:
            return  # a planted file, which a look leaves alone
        except job_file.Damaged:
            if path == queue.path("dead", name):  # elsewhere a claim moves it; jobs in dead/ are never claimed
                self._disk.move(path, queue.path("bad", name))

    def _newer(self, queue: QueueDir, entry: str, path: str) -> Iterator[Stored]:
        """Yield what is known of a job that only a newer version can read, and nothing for any other file."""
        name = names.parse(entry)
        inside = names.segment(entry) is not None
        if name is None and not inside and not names.needs_newer(entry):
            return
        try:
            with job_file.opened(self._disk, path) as (fd, found):
                why = "" if name or inside else f"its name asks for a newer version than {job_file.VERSION}"
                try:
                    data = self._disk.calls.pread(fd, WORDS_AT, 0)
                    if inside:
                        head(data)
                    else:
                        job_file.layout(data)
                except job_file.Newer as error:
                    why = error.strerror or str(error)
        except job_file.Damaged:
            return
        if why:
            job, flaw = _unread(queue, entry, b"", found), f"{found.st_size:,} bytes; {why}"
            yield Stored(path, name, job, found.st_ino, found.st_ctime, flaw, newer=True)

    def _bad(self, queue: QueueDir, entry: str, path: str, _state: str) -> Iterator[Stored]:
        """Yield what can be shown of a file in bad/; a file that cannot be read still has a name and a beginning."""
        found = self._disk.stat(path)
        if found is not None:
            flaw, start, extras = bad.look(self._disk, path)
            yield Stored(path, None, _unread(queue, entry, start, found, extras), 0, found.st_ctime, flaw)


def _base(queue: QueueDir, state: str) -> str:
    return f"{queue.base}/claimed" if state == "in_flight" else f"{queue.base}/{state}"


def _unread(queue: QueueDir, entry: str, start: bytes, found: os.stat_result, extras: Extras = NONE) -> Job:
    """Return a stand-in for a job whose file is not decoded."""
    moment = found.st_ctime
    return Job(entry, bytes(16), queue.name, start, headers={}, enqueued_at=moment, extras=extras)
