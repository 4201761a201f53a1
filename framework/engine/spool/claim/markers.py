"""Marker files in a queue's directory: which services handle it, and that all its workers read segments.

Each service that handles a dead-letter queue has a file `handled.<service>` there. Dead letters that no service handles
stay in ready/ and delayed/. They are counted and listed as dead, and the queue's ttl deletes them. As nothing moves, a
service that gets a handler later handles those that wait.

Producers write segments only where `segmented.2` exists. A worker of an earlier version does not look for segments, or
ignores segments that are open for more jobs. So the head of a worker's lock file says that the worker reads them.
Maintenance sets the marker while all workers do; a process that finds a worker that does not removes it. Drain the
queues before a downgrade: segments that are left wait for the next upgrade.
"""

from __future__ import annotations

import contextlib
import os
from urllib.parse import quote

from framework.engine.spool.claim.setbacks import OF_ONE_FILE
from framework.engine.spool.disk.disk import FULL, Disk
from framework.engine.spool.disk.layout import QueueDir
from framework.engine.spool.format import runs

_PREFIX = "handled."


def declare(disk: Disk, queue: QueueDir) -> None:
    """Store whether the service of the queue's options handles the queue.

    The file is durable, because the ttl of another service must spare this one's dead letters. A full disk has no room
    for it, and must not keep a service from starting. Raises OSError.
    """
    options = queue.options
    if not options.is_dead_letter or not options.service:
        return
    path = f"{queue.base}/{_PREFIX}{quote(options.service, safe='')[:200]}"
    if not options.handled:
        disk.unlink(path)
    elif disk.stat(path) is None:
        try:
            _mark(disk, path)
            disk.sync_dir(queue.base)
        except FileExistsError:  # another process of the service was faster
            return
        except OSError as error:
            if error.errno not in FULL:
                raise


def keeps_dead_letters(disk: Disk, queue: QueueDir) -> bool:
    """Return whether the queue is a dead-letter queue that no service handles. Raises OSError."""
    options = queue.options
    if not options.is_dead_letter or options.handled:
        return False
    return not any(entry.startswith(_PREFIX) for entry in disk.listdir(queue.base))


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
            with contextlib.suppress(FileExistsError):
                _mark(self._disk, self._queue.segmented)

    def _reads(self, entry: str) -> bool:
        try:
            head = self._disk.read_small(f"{self._queue.base}/claimed/{entry}", runs.ROW)
        except OSError as error:
            if error.errno not in OF_ONE_FILE:
                raise
            return True  # a damaged lock file does not count as an old worker
        return head is None or runs.reads_segments(head)


def _mark(disk: Disk, path: str) -> None:
    disk.calls.close(disk.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW))
