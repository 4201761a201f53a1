"""The repair of id entries after a restore without hard links (`cp -r`), which cuts jobs off from their entries."""

from __future__ import annotations

import time
from collections.abc import Iterator

from framework.engine.spool.disk.disk import Disk
from framework.engine.spool.disk.layout import QueueDir
from framework.engine.spool.enqueue import ids, locate
from framework.engine.spool.format import jobfile
from framework.model.options import QueueOptions


class Relink:
    """A look at all jobs of one queue whose ids were chosen, done once in each process.

    Attributes:
        done: the look has ended. Before that no entry may be removed as left behind by a finished job.
    """

    def __init__(self, disk: Disk, queue: QueueDir) -> None:
        self._disk = disk
        self._queue = queue
        self._files: Iterator[str] = iter(())
        self._again = True
        self.done = False

    def __call__(self, until: float) -> int:
        """Go on until `until` (monotonic seconds), at least one step; return how many were linked. Raises OSError."""
        linked, over = 0, False
        while not self.done and not over:
            over = time.monotonic() >= until
            try:
                path = next(self._files, None)
            except OSError:
                self._again = True
                raise
            if path is None and self._again:  # jobs may have moved, unseen, during a pass that found something
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
        except (OSError, ids.IdBusy, locate.Moving):  # it has moved, its home is missing, or it cannot be read
            return False
        return True
