"""Cancelled jobs of a queue: marks for those that a worker has, and a directory of those that will not run.

`cancels/<stem>` asks the worker that has a job to stop it; the stem is the part of a job's name that no claim changes,
and the file says which job it is. `cancelled/` holds the files of cancelled jobs until they are deleted. The first
cancellation makes both directories. Versions that know none of this leave them alone, and run a marked job to its end.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from framework.engine.spool.claim import order
from framework.engine.spool.claim.listing import Names
from framework.engine.spool.disk.disk import Disk
from framework.engine.spool.disk.layout import QueueDir
from framework.engine.spool.enqueue import keys
from framework.engine.spool.format.names import Name
from framework.model.job import Job, Lease


class Marks:
    """The marks of one queue. A look costs one `stat` as long as nothing changes. Safe in threads."""

    def __init__(self, disk: Disk, queue: QueueDir) -> None:
        self.names = Names(disk, queue.cancels)

    def of(self, leases: Sequence[Lease]) -> list[Lease]:
        """Return those of the leases of this queue whose jobs have a mark. Raises OSError."""
        marked = self.names()
        return [lease for lease in leases if lease.token.name.stem in marked] if marked else []


def mark(disk: Disk, queue: QueueDir, stem: str, job: Job) -> None:
    """Mark a claimed job durably. Idempotent. Raises OSError."""
    path = f"{queue.cancels}/{stem}"
    if disk.read_small(path) == b"":  # the process that made it was killed before it could write
        disk.unlink(path)
    try:
        try:
            disk.write_new(path, _content(job), sync=True)
        except FileNotFoundError:
            disk.mkdir(queue.cancels)
            disk.write_new(path, _content(job), sync=True)
    except FileExistsError:
        pass
    disk.sync_dir(queue.cancels)


def _content(job: Job) -> bytes:
    return job.uid + job.id.encode("utf-8", "surrogatepass")


def marked(disk: Disk, queue: QueueDir, stem: str) -> tuple[bytes, str] | None:
    """Return uid and id of the job that a mark is for; None: it is gone, or not whole. Raises OSError."""
    data = disk.read_small(f"{queue.cancels}/{stem}") or b""
    try:
        return (data[:16], data[16:].decode("utf-8", "surrogatepass")) if len(data) > 16 else None
    except UnicodeDecodeError:
        return None


def unmark(disk: Disk, queue: QueueDir, stem: str) -> None:
    """Remove the mark of a job that will not run again. Raises OSError."""
    disk.unlink(f"{queue.cancels}/{stem}")


def set_aside(disk: Disk, queue: QueueDir, source: str, name: Name, job: Job, inode: int) -> bool:
    """Move a job's file into `cancelled/`, and free its id and key; return False if it is not there. Raises OSError."""
    target = f"{queue.cancelled}/{name}"
    order.ends(disk, queue, name)
    return keys.leave(disk, queue, name, job.id, inode, lambda: disk.move(source, target))


def sync(disk: Disk, queue: QueueDir, source: str) -> None:
    """Make the move of a job's file into `cancelled/` durable. Raises OSError."""
    disk.sync_dir(queue.cancelled)
    disk.sync_removal(os.path.dirname(source))
