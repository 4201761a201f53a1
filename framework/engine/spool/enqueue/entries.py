"""The upkeep of the entries of ids and keys: what a restore has cut off, and what ended jobs have left."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator

from framework.engine.spool.disk.clock import Clock
from framework.engine.spool.disk.disk import Disk
from framework.engine.spool.disk.layout import QueueDir
from framework.engine.spool.enqueue import ids, keys
from framework.engine.spool.format import job_file, names
from framework.model.options import QueueOptions

_ENTRY = re.compile(
    rf"[0-9a-f]{{32}}(?:{re.escape(ids.NEW)})?|[0-9a-f]{{24}}{re.escape(keys.END)}(?:{re.escape(ids.NEW)})?", re.ASCII
)


def sweep(disk: Disk, clock: Clock, path: str) -> int:
    """Remove the entries in one `ids/<xx>` that finished jobs have left; return how many. Raises OSError."""
    removed = 0
    stale = [one for one in disk.listdir(path) if _ENTRY.fullmatch(one) and _is_stale(disk, clock, f"{path}/{one}")]
    if stale:
        with contextlib.suppress(ids.IdBusy), ids.locked(disk, path, wait=0.05):
            for name in stale:
                removed += _is_stale(disk, clock, f"{path}/{name}") and disk.unlink(f"{path}/{name}")
    return removed


def _is_stale(disk: Disk, clock: Clock, path: str) -> bool:
    return ids.is_cut_off(disk, path) and (not path.endswith(keys.END) or keys.is_over(disk, clock, path))


class Relink:
    """A repair of entries after a restore without hard links, which cuts jobs off from their entries.

    It looks at all jobs of one queue whose ids were chosen or that may hold a key, once in each process.

    Attributes:
        done: the look has ended. Before that no entry may be removed as left behind by a finished job.
    """

    def __init__(self, disk: Disk, queue: QueueDir, clock: Clock) -> None:
        self._disk = disk
        self._queue = queue
        self._clock = clock
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
                self._again = False
                self._files = ids.of_queue(self._disk, self._queue.base, None, _has_an_entry)
            elif path is None:
                self.done = True
            elif ids.is_cut_off(self._disk, path) and self._relink(path):
                self._again, linked = True, linked + 1
        return linked

    def _relink(self, path: str) -> bool:
        disk = self._disk
        try:
            job, here = job_file.job_in(disk, path), disk.stat(path)
            if job is None or here is None:
                return False
            home = QueueDir(QueueOptions(job.queue))
            entry = keys.entry_of(home, job)
            with ids.locked(disk, os.path.dirname(entry), wait=0.05):
                if not job.chosen_id:
                    held = keys.is_held_at(home, job, path)
                    return held and keys.take(disk, self._clock, home, path, entry, here.st_ino)
                found = disk.stat(entry)
                if found is not None and ids.is_stored(disk, home, entry, found):
                    return False  # another job has the id
                ids.replace(disk, path, entry)
        except (OSError, ids.IdBusy):  # it has moved, its home is missing, or it cannot be read
            return False
        return True


def _has_an_entry(entry: str) -> bool:
    return ids.is_chosen(entry) or names.KEY.search(entry) is not None
