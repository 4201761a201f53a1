"""The check for workers that read no segments. Producers write segments only where `<queue>/segmented.2` exists.

A worker of an earlier version does not look for segments, or ignores segments that are open for more jobs. So the head
of a worker's lock file says that the worker reads them. Maintenance sets this marker while all workers do; a process
that finds a worker that does not removes the marker. Drain the queues before a downgrade: segments that are left wait
for the next upgrade.
"""

from __future__ import annotations

import os

from framework.engine.spool.claim.setbacks import OF_ONE_FILE
from framework.engine.spool.disk.disk import Disk
from framework.engine.spool.disk.layout import QueueDir
from framework.engine.spool.format import runs


def mark(disk: Disk, queue: QueueDir) -> None:
    """Set the marker that all workers of a queue read segments. Raises OSError."""
    try:
        disk.calls.close(disk.open(queue.segmented, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW))
    except FileExistsError:
        return


class Readers:
    """The workers of a queue, as one process has seen them."""

    def __init__(self, disk: Disk, queue: QueueDir) -> None:
        self._disk = disk
        self._queue = queue
        self._known: dict[str, bool] = {}  # for each lock file, whether its worker reads segments

    def look(self, *, mark_if_all: bool) -> None:
        """Remove the marker where a worker does not read segments; else set it if `mark_if_all`. Raises OSError."""
        entries = self._disk.listdir(f"{self._queue.base}/claimed")
        locks = [entry for entry in entries if entry.endswith(".lock") and not entry.startswith(".")]
        self._known = {entry: self._known.get(entry) or self._reads(entry) for entry in locks}
        if not all(self._known.values()):
            self._disk.unlink(self._queue.segmented)
        elif mark_if_all and self._disk.stat(self._queue.segmented) is None:
            mark(self._disk, self._queue)

    def _reads(self, entry: str) -> bool:
        try:
            head = self._disk.read_small(f"{self._queue.base}/claimed/{entry}", runs.ROW)
        except OSError as error:
            if error.errno not in OF_ONE_FILE:
                raise
            return True  # a damaged lock file does not count as an old worker
        return head is None or runs.reads_segments(head)
