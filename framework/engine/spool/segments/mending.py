"""The repair of segments: those whose writer died, and those that were moved to bad/."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from framework.engine import flocks
from framework.engine.spool.disk.disk import Disk
from framework.engine.spool.disk.layout import QueueDir
from framework.engine.spool.format import job_file
from framework.engine.spool.segments import format as bytes_of
from framework.engine.spool.segments import words as word
from framework.engine.spool.segments.file import Segment, name_at


def recover(disk: Disk, queue: QueueDir, entry: str) -> int:
    """Recover a segment in tmp: move its whole jobs into place, drop torn ones; return how many jobs were recovered.

    A living writer holds the `flock` of the file; then nothing happens. Raises Newer, OSError.
    """
    path, name = queue.path("tmp", entry), name_at(entry)
    with _locked(disk, path) as fd:
        if fd is None:
            return 0
        data = _content(disk, fd)
        try:
            there = _whole(data, bytes_of.head(data).jobs)
        except job_file.Damaged:
            there = []
        if not any(there) or len(there) != name.jobs:
            disk.unlink(path)
            return 0
        found = word.unpack(data[bytes_of.WORDS_AT : bytes_of.WORDS_AT + word.SIZE * name.jobs])
        settled = [_closed(one, whole) for one, whole in zip(found, there, strict=True)]
        if settled != found:
            disk.calls.pwrite(fd, word.pack(settled), bytes_of.WORDS_AT)
        disk.sync(fd)  # its writer may have died before its own sync
        return sum(there) if disk.move(path, f"{queue.base}/segments/{entry}") else 0


def _closed(one: int, whole: bool) -> int:
    """Return the word that a record has once its segment is closed: vacant becomes free, or done where it is torn."""
    if not whole:
        return word.DONE
    return word.free(0) if one == word.VACANT else one


def adopt(disk: Disk, path: str) -> None:
    """Close a segment whose writer is dead; whole records whose words are still vacant become free jobs.

    A living writer holds the `flock`; then nothing happens. Workers never write vacant words. Raises Damaged, Newer,
    OSError.
    """
    with Segment(disk, path) as segment:
        if not flocks.take(disk.calls, segment.fd):
            return
        there = segment.whole()
        vacant = {i: _closed(one, there[i]) for i, one in enumerate(segment.words()) if one == word.VACANT}
        if any(map(word.is_free, vacant.values())):
            segment.flush()  # its writer may have died before its own flush
        segment.write_all(vacant)


def _whole(data: bytes, jobs: int) -> list[bool]:
    """Return for each index of a whole file whether its record is as it was written."""
    records = data[bytes_of.data_at(jobs) :]
    return [bytes_of.is_whole(records, at) for at in bytes_of.walk(records, jobs)]


@contextmanager
def _locked(disk: Disk, path: str) -> Iterator[int | None]:
    """Open and lock a file for the length of a block; None: its writer lives, or the file is gone."""
    try:
        fd = flocks.keep(disk.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK))
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP, errno.ENXIO, errno.EISDIR):
            yield None
            return
        raise
    try:
        here = disk.stat(path) if flocks.take(disk.calls, fd) else None
        found = disk.calls.fstat(fd)
        ours = here is not None and here.st_ino == found.st_ino and stat.S_ISREG(found.st_mode)
        yield fd if ours else None
    finally:
        flocks.drop(disk.calls, fd)
        disk.reserve()


def _content(disk: Disk, fd: int) -> bytes:
    size = disk.calls.fstat(fd).st_size
    data = disk.calls.pread(fd, size, 0)
    while len(data) < size and (more := disk.calls.pread(fd, size - len(data), len(data))):
        data += more
    return data


def flaw(disk: Disk, path: str) -> str:
    """Return what is wrong with a segment in bad/; empty: it can be read. Raises OSError."""
    with disk.opened(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK) as fd:
        data = _content(disk, fd)
    jobs = name_at(path).jobs
    whole = sum(_whole(data, jobs))
    why = _flaw_of_head(data, jobs)
    return why and f"{why}; {whole} of its {jobs} jobs can be read and may run again when it is restored"


def _flaw_of_head(data: bytes, jobs: int) -> str:
    try:
        return "" if bytes_of.head(data).jobs == jobs else "another number of jobs than its name says"
    except job_file.Damaged as error:
        return str(error)


def restore(disk: Disk, queue: QueueDir, path: str) -> str:
    """Move a segment back from bad/; return "", or why not. Raises OSError.

    A damaged head is replaced by a new one, and all its whole jobs become free: some may run again.
    """
    name = name_at(path)
    with disk.opened(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK) as fd:
        data = _content(disk, fd)
        there = _whole(data, name.jobs)
        if not any(there):
            return "cannot be read: none of its jobs is whole"
        if _flaw_of_head(data, name.jobs):
            words = [0 if whole else word.DONE for whole in there]
            head = bytes_of.head_of(name.jobs, len(data), queue.name)
            disk.calls.pwrite(fd, head[: bytes_of.WORDS_AT] + word.pack(words), 0)
            disk.sync(fd)
    return "" if disk.move(path, f"{queue.base}/segments/{os.path.basename(path)}") else "is no longer there"
