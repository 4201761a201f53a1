"""The verbs with which a producer makes a fan-in, and with which people look at one."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from framework.engine.fan_in import refuse_too_large
from framework.engine.spool.disk.disk import Disk
from framework.engine.spool.disk.layout import QueueDir
from framework.engine.spool.fan_ins import record
from framework.engine.spool.fan_ins.ends import WAIT
from framework.engine.spool.format import job_file
from framework.model.fan_in import FanIn
from framework.model.job import Job

if TYPE_CHECKING:
    from framework.engine.spool.engine import SpoolEngine
    from framework.engine.spool.store import Spool


class SpoolFanIns:
    """The `FanIns` of `framework.engine.fan_in`."""

    def __init__(self, engine: SpoolEngine) -> None:
        self._engine = engine

    @contextmanager
    def _at(self, queue: str, name: str) -> Iterator[tuple[Spool, Disk, QueueDir]]:
        """Yield what a verb needs; turn an OSError into an EngineUnavailable."""
        spool = self._engine.in_place()
        try:
            yield spool, spool.opened()[0], spool.parts(queue).queue
        except OSError as error:
            raise spool.unavailable(f"fan-in {name}", error) from error

    def begin(self, queue: str, follow_up: Job) -> None:
        """Write the follow-up, then the record."""
        with self._at(queue, follow_up.id) as (spool, disk, here):
            most = spool.parts(follow_up.queue).queue.options.max_payload_bytes
            refuse_too_large(follow_up, most)
            where = record.path(here, follow_up.id)
            disk.mkdir(record.directory(here))
            if disk.stat(where) is not None:
                return  # a repeated call
            for path, data in ((where + record.THEN, job_file.encode(follow_up)), (where, record.new())):
                disk.unlink(where + record.NEW)
                disk.write_new(where + record.NEW, data, sync=True)
                disk.rename(where + record.NEW, path)
            disk.sync_dir(record.directory(here))

    def grow(self, queue: str, name: str, members: int) -> bool:
        """Add bytes to the record."""
        with self._at(queue, name) as (_, disk, here), record.opened(disk, here, name) as found:
            if found is not None:
                found.grow(members)
            return found is not None

    def seal(self, queue: str, name: str, members: int) -> bool:
        """Write the number of members, and fire if all have ended. The lock keeps maintenance from giving up now."""
        with self._at(queue, name) as (spool, disk, here):
            with self._locked(disk, here, name) as found:
                if found is None:
                    return False
                found.seal(members)
            spool.ends.fire([(queue, name, 0)])
            return True

    def drop(self, queue: str, name: str) -> None:
        """Remove record and follow-up."""
        with self._at(queue, name) as (_, disk, here):
            drop(disk, here, name)

    def look(self, queue: str, name: str) -> FanIn | None:
        """Read the record."""
        with self._at(queue, name) as (_, disk, here), record.opened(disk, here, name) as found:
            if found is None:
                return None
            members = found.members()
            count = found.size() if members == record.OPEN else members
            return FanIn(count, members != record.OPEN, found.ended(count))

    @contextmanager
    def _locked(self, disk: Disk, queue: QueueDir, name: str) -> Iterator[record.Record | None]:
        with record.opened(disk, queue, name) as found:
            if found is not None and not found.lock(WAIT):
                raise OSError(errno.EBUSY, f"its lock was held for {WAIT:g} s", record.path(queue, name))
            # Another process may have removed the file before the lock was ours.
            gone = found is None or disk.stat(record.path(queue, name)) is None
            yield None if gone else found


def drop(disk: Disk, queue: QueueDir, name: str) -> None:
    """Delete a fan-in unless it is sealed or its lock is held. Idempotent. Raises OSError."""
    where = record.path(queue, name)
    with record.opened(disk, queue, name) as found:
        if found is not None and (not found.lock(0) or found.members() != record.OPEN):
            return
        disk.unlink(where + record.THEN)
        disk.unlink(where + record.NEW)
        disk.unlink(where)
