"""The ticks of a queue's schedules: `schedules/<hash>` holds the latest one that was handled.

A tick and its job are stored in one step, with the `flock` on the directory held:

    0  the directory is flushed, so that the move of the job of the tick before is durable
    1  the job's file is written here, durably, under a name that begins with the schedule's hash
    2  the record, which names the new tick and that file, replaces the old one by a rename; now the tick is handled
    3  once that is durable, the file is moved to ready/, with a stamp of that moment

A kill or a power cut before 2 leaves a file that no record names, which the next tick removes. After 2 the record names
a file that is still here, and the process that looks at the schedule next moves it.
"""

from __future__ import annotations

import errno
import json
import logging
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from framework.engine.port import Tick
from framework.engine.spool.disk.clock import Clock
from framework.engine.spool.disk.disk import Disk
from framework.engine.spool.disk.layout import QueueDir
from framework.engine.spool.enqueue import ids
from framework.engine.spool.enqueue.limits import Limits
from framework.engine.spool.format import job_file, names
from framework.model.errors import PayloadTooLarge
from framework.model.job import Job

MOST_BYTES = 4096  # of a record; a key has at most 200 characters
_NEW = ".new"  # a record that is to replace another one

log = logging.getLogger("framework")


class Record(NamedTuple):
    """The content of a schedule's file.

    Attributes:
        key: the schedule's key. last, missed: as in Tick.
        job: name of the file of the latest tick's job, here or moved already; empty: that tick had none.
    """

    key: str
    last: float
    missed: int
    job: str


class Ticks:
    """The schedules of one queue. One thread of a process calls it at a time."""

    def __init__(self, disk: Disk, queue: QueueDir, clock: Clock, *, ring: Callable[[], None]) -> None:
        self._disk = disk
        self._queue = queue
        self._clock = clock
        self._ring = ring
        self._limits = Limits(disk, queue, clock)
        self._base = f"{queue.base}/schedules"

    def states(self, keys: Sequence[str]) -> dict[str, Tick]:
        """Return the states of these schedules, and move their jobs that a dead process has left. Raises OSError."""
        found: dict[str, Tick] = {}
        for key in keys:
            record = self._read(key)
            if record is None:
                continue
            found[key] = Tick(record.last, record.missed)
            if record.job and self._disk.stat(self._path(record.job)) is not None:
                with self._locked():
                    self._publish(self._read(key))
        return found

    def fire(self, key: str, last: float | None, tick: float, job: Job | None, missed: int) -> bool:
        """Handle a tick if the latest one is `last`. Raises QueueFull, PayloadTooLarge, OSError."""
        with self._locked():
            known = self._read(key)
            self._publish(known)
            if (None if known is None else known.last) != last:
                return False
            self._sweep(key)
            if known is not None and known.job:
                # Its move must not be lost where the new record, which does not name it, is kept.
                self._disk.sync_dir(self._base)
            name = "" if job is None else self._write_job(key, job)
            record = Record(key, tick, missed + (known.missed if known else 0), name)
            self._replace(record)
            self._publish(record)
        return True

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            with ids.locked(self._disk, self._base):
                yield
        except ids.IdBusy:
            raise OSError(errno.EBUSY, f"its lock was held for {ids.WAIT:g} s", self._base) from None

    def _path(self, entry: str) -> str:
        return f"{self._base}/{entry}"

    def _read(self, key: str) -> Record | None:
        """Return a schedule's record; None: there is none, or it is damaged, and the schedule begins anew."""
        data = self._disk.read_small(self._path(ids.digest(key)), MOST_BYTES)
        if data is None:
            return None
        record = _parse(data)
        if record is None or record.key != key:
            log.warning("spool: %s is damaged: its schedule %r begins anew", self._path(ids.digest(key)), key)
            return None
        return record

    def _sweep(self, key: str) -> None:
        """Remove the files of ticks that were never handled; the job of a handled one has been moved before."""
        begin = f"{ids.digest(key)},"
        for entry in self._disk.listdir(self._base):
            if entry.startswith(begin):
                self._disk.unlink(self._path(entry))

    def _write_job(self, key: str, job: Job) -> str:
        """Write the job's file durably; return its name here."""
        most = self._queue.options.max_payload_bytes
        if len(job.payload) > most:
            raise PayloadTooLarge(
                f"queue {self._queue.name!r} takes payloads of {most} bytes, that of schedule {key!r} has "
                f"{len(job.payload)}"
            )
        data = job_file.encode(job)
        self._limits.admit(1, len(data))
        entry = f"{ids.digest(key)},{names.first(job, self._clock.stamp(), names.tails.next())}"
        self._disk.write_new(self._path(entry), data, sync=True)
        return entry

    def _replace(self, record: Record) -> None:
        path = self._path(ids.digest(record.key))
        self._disk.unlink(path + _NEW)
        data = json.dumps(record._asdict(), separators=(",", ":")).encode()
        self._disk.write_new(path + _NEW, data, sync=True)
        self._disk.rename(path + _NEW, path)

    def _publish(self, record: Record | None) -> None:
        """Move the job of a handled tick into the queue, unless it was moved already."""
        if record is None or not record.job:
            return
        name = names.parse(record.job.partition(",")[2])
        source = self._path(record.job)
        if name is None or self._disk.stat(source) is None:
            return
        self._disk.sync_dir(self._base)  # the record first: else a power cut could leave the job without its tick
        self._disk.move(source, self._queue.ready(name._replace(stamp=self._clock.stamp())))
        self._ring()


def _parse(data: bytes) -> Record | None:
    try:
        found = json.loads(data)
        record = Record(str(found["key"]), float(found["last"]), int(found["missed"]), str(found["job"]))
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None
    sound = math.isfinite(record.last) and record.missed >= 0 and os.path.basename(record.job) == record.job
    return record if sound else None
