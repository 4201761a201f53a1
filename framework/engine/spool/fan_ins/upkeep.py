"""The housekeeping of a queue's fan-ins: what killed processes have left, and members that have left unseen."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING

from framework.engine.spool.claim.listing import Names
from framework.engine.spool.disk.clock import Clock
from framework.engine.spool.disk.disk import Disk
from framework.engine.spool.disk.layout import QueueDir
from framework.engine.spool.fan_ins import record
from framework.engine.spool.fan_ins.ends import Ends, Member
from framework.engine.spool.fan_ins.verbs import drop
from framework.model.fan_in import GIVEN_UP, MEND_AFTER, NAME, How, member_of

if TYPE_CHECKING:
    from framework.engine.spool.upkeep.browse import Browse

LOOK_EVERY = 2.0  # seconds between two looks at the records
# A member is looked for in all states of its queue, one after the other, and may move meanwhile. So it counts as gone
# once it was missed in so many looks in a row, which are MEND_AFTER apart.
MISSES = 3
MOST = 10_000  # members that one look is for; the others have their turn once these have ended
STATES = ("ready", "delayed", "in_flight", "ready", "cancelled", "dead")
_ENDED: dict[str, How] = {"cancelled": "cancelled", "dead": "dead"}


class FanInUpkeep:
    """The housekeeping of one queue's fan-ins. One thread at a time may use it."""

    def __init__(self, disk: Disk, queue: QueueDir, clock: Clock, ends: Ends, browse: Browse) -> None:
        self._disk = disk
        self._queue = queue
        self._clock = clock
        self._ends = ends
        self._browse = browse
        self._names = Names(disk, record.directory(queue))
        self._look_at = 0.0
        self._scan: Iterator[None] = iter(())
        self._scan_at = 0.0  # by the clock, as _look_at
        self._scan_after = MEND_AFTER  # seconds between two looks for members
        self._todo: list[str] = []  # records at which to look
        self._missed: dict[Member, int] = {}  # in how many looks in a row

    def __call__(self, until: float) -> bool:
        """Do what is due until a monotonic time. Return whether all had its turn. Raises OSError."""
        wall = self._clock.wall()
        if not self._todo and not self._look_at - LOOK_EVERY <= wall < self._look_at:
            self._look_at = wall + LOOK_EVERY
            self._todo = list(self._names())
            if self._todo and not self._scan_at - self._scan_after <= wall < self._scan_at:
                self._scan_at = wall + self._scan_after
                self._scan = self._look_for_members()
        while self._todo:
            self._one(self._todo.pop())  # after an error the others have their turn at the next call
            if time.monotonic() >= until:
                return False
        return all(time.monotonic() < until for _ in self._scan)

    def _one(self, entry: str) -> None:
        """Fire what has ended; delete what is left of a fan-in that was never sealed."""
        name, _, kind = entry.partition(".")
        where = f"{record.directory(self._queue)}/{entry}"
        if not NAME.fullmatch(name):
            return  # what else lies here is not the spool's
        if not kind:
            if self._ends.fire_if_ended(self._queue, name):
                return
            if self._disk.stat(where + record.THEN) is None:  # its follow-up was enqueued before this was written
                self._disk.unlink(where)
                return
        found = self._disk.stat(where)
        if found is None or found.st_mtime > self._clock.wall() - GIVEN_UP:
            return
        if not kind:
            drop(self._disk, self._queue, name)
        elif self._disk.stat(f"{record.directory(self._queue)}/{name}") is None:
            self._disk.unlink(where)

    def _look_for_members(self) -> Iterator[None]:
        """End members of sealed fan-ins whose jobs are gone, or have ended unseen. Yield after each job looked at."""
        began = time.monotonic()
        waits = self._waiting()
        if not waits:
            self._missed = {}
            return
        ended: dict[Member, How] = {}
        for state in STATES:
            for stored in self._browse.stored(self._queue, state):
                if stored.newer:
                    return  # a job that cannot be read may be any member
                found = member_of(stored.job.extras)
                if found is not None and (one := (self._queue.name, *found)) in waits:
                    if state in _ENDED:
                        ended[one] = _ENDED[state]
                    else:
                        waits.discard(one)
                yield
        self._missed = {one: self._missed.get(one, 0) + 1 for one in waits}
        gone: dict[Member, How] = {one: ended.get(one, "unknown") for one in waits if self._missed[one] >= MISSES}
        for _, error in self._ends.note(gone):
            raise error
        self._ends.fire(gone)
        self._scan_after = max(MEND_AFTER, 50 * (time.monotonic() - began))

    def _waiting(self) -> set[Member]:
        """Return the members that have not ended, of fan-ins of which none has ended for a while. Raises OSError."""
        found: set[Member] = set()
        for name in filter(NAME.fullmatch, self._names()):
            state = self._disk.stat(record.path(self._queue, name))
            if state is None or state.st_mtime > self._clock.wall() - MEND_AFTER:
                continue
            with record.opened(self._disk, self._queue, name) as opened:
                members = record.OPEN if opened is None else opened.members()
                if opened is not None and members != record.OPEN:
                    some = islice(opened.left(members), max(0, MOST - len(found)))
                    found.update((self._queue.name, name, number) for number in some)
        return found
