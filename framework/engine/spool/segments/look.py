"""Access to a segment without claims, and deletion of one of its jobs, as from the command line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from framework.engine.spool.disk.disk import Disk
from framework.engine.spool.format import job_file
from framework.engine.spool.segments import words as word
from framework.engine.spool.segments.file import Busy, Segment


@contextmanager
def open_segment(disk: Disk, path: str) -> Iterator[Segment]:
    """Open a segment apart from this process's claims, for the length of a block. Raises Damaged, Newer, OSError."""
    segment = Segment(disk, path)
    try:
        yield segment
    finally:
        segment.close()


def discard(disk: Disk, path: str, index: int) -> bool:
    """Delete an unclaimed job; False: it is gone or claimed. Raises OSError."""
    try:
        with open_segment(disk, path) as segment:
            with segment.locked():
                free = word.is_free(segment.word(index))
                if free:
                    segment.write(index, word.DONE)
            if free:
                segment.flush()
            return free
    except (job_file.Damaged, FileNotFoundError, Busy):
        return False
