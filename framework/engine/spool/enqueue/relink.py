"""Gives ids back to jobs that a restore without hard links (`cp -r`) has cut off from their entries."""

from __future__ import annotations

import time
from collections.abc import Iterator

from framework.engine.spool.disk.disk import Disk
from framework.engine.spool.disk.layout import QueueDir
from framework.engine.spool.enqueue import ids, locate
from framework.engine.spool.format import jobfile
from framework.model.options import QueueOptions


class Relink:
    """The look at all jobs of one queue whose ids were chosen, once in a process's life.

    Attributes:
        done: the look has come to its end. Before, no entry may be removed as one that a finished job left.
    """

    def __init__(self, disk: Disk, queue: QueueDir) -> None:
        self._disk = disk
        self._queue = queue
        self._files: Iterator[str] = iter(())
        self._again = True
        self.done = False

    def __call__(self, until: float) -> int:
        """Go on, one step at least, until `until` (monotonic seconds). Return how many were linked. Raises OSError."""
        linked, over = 0, False
        while not self.done and not over:
            over = time.monotonic() >= until
            try:
                path = next(self._files, None)
            except OSError:
                self._again = True
                raise
            if path is None and self._again:  # what moved during a pass that found something may not have been seen
                self._again, self._files = False, locate.of_queue(self._disk, self._queue.base)
            elif path is None:
                self.done = True
            elif locate.is_cut_off(self._disk, path) and self._relink(path):
                self._again, linked = True, linked + 1
        return linked

    def _relink(self, path: str) -> bool:
        try:
            job = jobfile.job_in(self._disk, path)
            if job is None:
                return False
            home = QueueDir(QueueOptions(job.queue))
            with ids.locked(self._disk, ids.directory(home, job.id), wait=0.05):
                entry = ids.entry(home, job.id)
                found = self._disk.stat(entry)
                if found is not None and locate.is_stored(self._disk, home, entry, found):
                    return False  # another job has the id
                ids.replace(self._disk, path, entry)
        except (OSError, ids.IdBusy, locate.Moving):  # it has moved, its home is not there, or it cannot be read
            return False
        return True
