"""Storage of many jobs in one segment: it is written in tmp, flushed once, and renamed to where segments are claimed.

After an error either all of its jobs are stored or none. The writer holds the `flock` of the file until after the
rename.
"""

from __future__ import annotations

from collections.abc import Sequence

from framework.engine.spool.disk.clock import Clock
from framework.engine.spool.disk.disk import Disk
from framework.engine.spool.disk.layout import QueueDir
from framework.engine.spool.enqueue.temp_files import TempFile, create, rename_into_place
from framework.engine.spool.format import job_file, names
from framework.engine.spool.format.names import SegmentName
from framework.engine.spool.segments import format as bytes_of
from framework.engine.spool.segments import words as word
from framework.engine.spool.segments.file import Busy, Segment, name_at
from framework.model.job import Job

LEAST = 16  # jobs of one call, from which on they are stored in a segment


def together(jobs: Sequence[Job]) -> int:
    """Return how many of these jobs, from the first on, fit into one segment."""
    size = 0
    for at, job in enumerate(jobs[: bytes_of.MOST]):
        size += len(job.payload)
        if size > bytes_of.MOST_BYTES and at:
            return at
    return min(len(jobs), bytes_of.MOST)


def begin(disk: Disk, queue: QueueDir, clock: Clock, jobs: Sequence[Job], slots: int) -> TempFile:
    """Make an empty locked file in tmp, named after its future content. Raises OSError."""
    expiries = [names.micros(job.eligible_at + job.ttl) for job in jobs if job.ttl is not None]
    first = min(expiries, default=None)
    return create(disk, queue, jobs[0], lambda _: SegmentName(clock.stamp(), names.tails.next(), slots, first))


def publish(disk: Disk, queue: QueueDir, clock: Clock, temp: TempFile) -> None:
    """Rename the segment into place, which makes all its jobs runnable. Raises OSError, Gone.

    An error of the rename is ignored where the file is in place all the same.
    """
    name = name_at(temp.path)
    stamp = clock.stamp(name.jobs)  # taken now: a listing takes only jobs stamped before it
    target = f"{queue.base}/segments/{name._replace(stamp=stamp)}"
    try:
        rename_into_place(disk, temp.path, target)
    except OSError:
        if disk.stat(target) is None:
            raise
    temp.path = target


def take_back(disk: Disk, path: str, indexes: range, most: int) -> list[int]:
    """Take back, durably, up to `most` of these jobs, the last unclaimed ones; return their indexes.

    Raises Busy, OSError: some may be taken back.
    """
    with Segment(disk, path) as segment:
        with segment.locked():
            found = segment.words()
            free = [index for index in indexes if word.is_free(found[index])]
            taken = free[max(0, len(free) - most) :]
            segment.write_all(dict.fromkeys(taken, word.DONE))
        segment.flush()  # without the lock: claims wait only 2 ms for it, and then take later jobs first
        if segment.is_done():
            disk.unlink(path)
    return taken


def discard(disk: Disk, path: str, index: int) -> bool:
    """Delete an unclaimed job, as from the command line; False: it is gone or claimed. Raises OSError."""
    try:
        return bool(take_back(disk, path, range(index, index + 1), 1))
    except (job_file.Damaged, FileNotFoundError, Busy):
        return False
