"""The ends of members, and the enqueue of follow-ups, for all queues of one spool."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from framework.engine.spool.disk.clock import Clock
from framework.engine.spool.disk.disk import Disk
from framework.engine.spool.disk.layout import QueueDir
from framework.engine.spool.fan_ins import record
from framework.engine.spool.format import job_file, names
from framework.model.extras import Extras
from framework.model.fan_in import How, member_of, released

if TYPE_CHECKING:
    from framework.engine.spool.store import Spool

WAIT = 1.0  # seconds for the lock of a record; it is held for one fsync and two renames
_KNOWN = 10_000  # fan-ins for which a process remembers which members have ended
Member = tuple[str, str, int]  # home queue, name, number


def member(queue: str, extras: Extras) -> Member | None:
    """Return which member of which fan-in a job is; None: of none. `queue` is the job's home."""
    found = member_of(extras)
    return None if found is None else (queue, *found)


class Ends:
    """The ends of members as the processes that settle jobs note them. Safe in threads."""

    def __init__(self, spool: Spool, disk: Disk, clock: Clock) -> None:
        self._spool = spool
        self._disk = disk
        self._clock = clock
        self._first: dict[str, int] = {}  # by fan-in: members before this number have ended

    def note(self, ends: Mapping[Member, How]) -> list[tuple[Member, OSError]]:
        """Write these ends durably; return what could not be written."""
        failed: list[tuple[Member, OSError]] = []
        for (queue, name), some in _by_fan_in(ends).items():
            try:
                with record.opened(self._disk, self._spool.queue(queue), name) as found:
                    if found is not None:
                        found.end({number: how for (*_, number), how in some.items()})
            except OSError as error:
                failed += [(one, error) for one in some]
        return failed

    def fire(self, members: Iterable[Member]) -> None:
        """Enqueue the follow-ups whose members have all ended. After an error, maintenance does it."""
        for queue, name in {(queue, name) for queue, name, _ in members}:
            with contextlib.suppress(OSError):
                self.fire_if_ended(self._spool.queue(queue), name)

    def end(self, queue: str, extras: Extras, how: How) -> None:
        """Note how one job has ended, and fire. Raises OSError."""
        one = member(queue, extras)
        if one is not None:
            for _, error in self.note({one: how}):
                raise error
            self.fire([one])

    def fire_if_ended(self, queue: QueueDir, name: str) -> bool:
        """Enqueue the follow-up if all members have ended; return whether the fan-in is gone. Raises OSError."""
        with record.opened(self._disk, queue, name) as found:
            if found is None:
                return True
            members = found.members()
            if members == record.OPEN:
                return False
            first = self._first[name] = found.first_left(self._first.get(name, 0), members)
            if first < members:
                if len(self._first) > _KNOWN:
                    self._first.clear()
                return False
            if not found.lock(WAIT):
                raise OSError(errno.EBUSY, f"its lock was held for {WAIT:g} s", record.path(queue, name))
            self._fire(queue, name, found, members)
        self._first.pop(name, None)
        return True

    def _fire(self, queue: QueueDir, name: str, found: record.Record, members: int) -> None:
        """Move the follow-up to its queue, with the lock held, unless another process has done it. Raises OSError."""
        disk, where = self._disk, record.path(queue, name)
        source, temp = where + record.THEN, where + record.NEW
        if disk.stat(source) is not None:
            try:
                job, _ = job_file.read(disk, source)
            except job_file.Damaged as error:
                raise OSError(errno.EIO, f"the follow-up is damaged: {error}", source) from error
            job = released(job, found.ended(members), self._clock.wall())
            disk.unlink(temp)
            disk.write_new(temp, job_file.encode(job), sync=True)
            disk.rename(temp, source)
            disk.sync_dir(record.directory(queue))
            target = self._spool.queue(job.queue)
            disk.move(source, target.ready(names.first(job, self._clock.stamp(), names.tails.next())))
            self._spool.ring(job.queue)
        disk.unlink(where)


def _by_fan_in(ends: Mapping[Member, How]) -> dict[tuple[str, str], dict[Member, How]]:
    found: dict[tuple[str, str], dict[Member, How]] = {}
    for one, how in ends.items():
        found.setdefault(one[:2], {})[one] = how
    return found
