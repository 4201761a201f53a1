"""The change of a job that waits by another one with its unique key: `on_conflict="replace"` and `"postpone"`.

A job file is never written again, so a new file takes the old one's place, with the lock of the key held:

    1  the new file is written in tmp, durably
    2  the old file is moved from where it waits into tmp, so that no worker can claim it any more
    3  the key's entry becomes a link to the new file, durably: now the job is changed
    4  the old file is removed
    5  the new file is moved to where the old one waited, or to its new time

Recovery does the rest for a killed process. Before 3 the entry leads to the old file, which is moved back, and the new
one is removed; after 3 it leads to the new file, which is moved to its place, and the old one is removed.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable

from framework.engine.spool.disk.clock import Clock
from framework.engine.spool.disk.disk import Disk
from framework.engine.spool.disk.layout import QueueDir
from framework.engine.spool.enqueue import ids, keys
from framework.engine.spool.enqueue.temp_files import Gone, Rollback, TempFile, close, create, rename_into_place
from framework.engine.spool.format import job_file, names
from framework.engine.spool.format.names import Name
from framework.model.job import Job, JobId


class Change:
    """The changes by the producers of one queue in one process."""

    def __init__(self, disk: Disk, queue: QueueDir, clock: Clock, *, ring: Callable[[], None]) -> None:
        self._disk = disk
        self._queue = queue
        self._clock = clock
        self._ring = ring
        self._rollback = Rollback(disk, queue)

    def __call__(self, job: Job, done: list[JobId]) -> bool:
        """Change the job that holds this one's key, unless it was claimed before. False: it has moved: look again.

        The caller holds the lock of the key. Raises OSError, IdBusy, EnqueueErrors.
        """
        disk, entry = self._disk, keys.entry_of(self._queue, job)
        first, path = job_file.read(disk, entry)[0], keys.waiting_at(disk, self._queue, entry)
        old = None if path is None else names.parse(os.path.basename(path))
        if path is None or old is None or old.delivery:
            return True
        aside = self._queue.path("tmp", old)
        files: list[TempFile] = []
        try:
            with self._rollback.before_publishing(files, job, done):
                # By this name, recovery moves it to the place of the old one.
                new = Name(old.stamp, names.tails.next(), other=names.fields(first))
                files.append(file := create(disk, self._queue, first.changed_by(job), lambda _: new))
                disk.write_all(file.fd, job_file.encode(file.job))
                disk.sync(file.fd)
                try:
                    disk.rename(path, aside)
                except FileNotFoundError:  # a worker has it, or its time has come
                    self._rollback.remove(files)
                    return False
                self._take_entry(file, entry, aside, path, done)
            self._publish(file, old, path, aside, job, done)
            self._ring()
        finally:
            close(disk, files)
        return True

    def _take_entry(self, file: TempFile, entry: str, aside: str, path: str, done: list[JobId]) -> None:
        """Make the entry lead to the new file. Where that fails, move the old one back, and raise OSError."""
        disk, leads = self._disk, True
        try:
            ids.replace(disk, file.path, entry)
        except OSError as error:
            with contextlib.suppress(OSError):
                here, mine = disk.stat(entry), disk.calls.fstat(file.fd)
                leads = here is None or here.st_ino == mine.st_ino
            if leads:  # or that is unknown: recovery does what the entry says
                self._rollback.uncertain(file.job, error, done)
            with contextlib.suppress(OSError):  # else recovery moves it back
                disk.move(aside, path)
            raise

    def _publish(self, file: TempFile, old: Name, path: str, aside: str, job: Job, done: list[JobId]) -> None:
        if job.on_conflict == "postpone":
            new = names.first(file.job, old.stamp, old.tail)
            name = old._replace(not_before=new.not_before, expires=new.expires)
            path = self._queue.waiting(name, self._clock.micros())
        try:
            self._disk.sync_removal(os.path.dirname(keys.entry_of(self._queue, job)))
            self._disk.unlink(aside)
            rename_into_place(self._disk, file.path, path)
        except (OSError, Gone) as error:
            self._rollback.uncertain(job, error, done)
