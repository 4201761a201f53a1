"""What is due leaves delayed/ for ready/. Anybody may do it: whoever loses a rename was helped."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from framework.spool import names
from framework.spool.clock import Clock
from framework.spool.disk import Disk
from framework.spool.layout import QueueDir
from framework.spool.listing import Buckets
from framework.spool.names import Name
from framework.spool.setbacks import Setbacks

LEAST_PAUSE = 1.0  # seconds between a worker's looks for what others delayed: maintenance looks more often
MOST = 1024  # jobs in one call of a worker
_MINUTE = 60_000_000


class Ripen:
    """Moves what is due. Only minutes that are due are listed: half a million entries take 0.3 s."""

    def __init__(
        self, disk: Disk, queue: QueueDir, clock: Clock, *, ring: Callable[[], None], setbacks: Setbacks
    ) -> None:
        self._disk = disk
        self._setbacks = setbacks
        self._queue = queue
        self._clock = clock
        self._ring = ring
        self._base = f"{queue.base}/delayed"
        self._minutes = Buckets(disk, self._base, names.MINUTE)
        self._kept: dict[str, tuple[list[str], list[tuple[int, str, Name]]]] = {}
        self._due = 0
        self._look_at = 0.0

    def seconds_left(self) -> float:
        """Until the next job is due that we know of."""
        return max(0.0, (self._due - self._clock.micros()) / 1e6)

    def soon(self) -> None:
        """A worker's call: looks only when something is due, or others may have delayed something. Raises OSError."""
        if self._clock.micros() >= self._due or time.monotonic() >= self._look_at:
            self.now(most=MOST)

    def now(self, *, most: int | None = None, until: float = math.inf) -> bool:
        """Promote all jobs that are due, or `most`, until `until` (monotonic seconds). Return whether none is left.

        Raises OSError: one that is not about a single file.
        """
        start, now = time.monotonic(), self._clock.micros()
        moved, due, done = 0, names.MAX_TIME, True
        for minute in self._minutes.all():
            if minute > names.minute_of(now):
                due = min(due, int(minute) * _MINUTE)
                break
            for when, entry, name in self._entries(minute):
                if when > now or (most is not None and moved >= most) or (moved and time.monotonic() >= until):
                    due = min(due, when)
                    done = done and when > now
                    break
                moved += self._promote(f"{self._base}/{minute}/{entry}", name)
            if minute < names.minute_of(max(0, now - _MINUTE)):
                self._disk.rmdir(f"{self._base}/{minute}")
        self._due = due
        self._look_at = start + max(LEAST_PAUSE, 20 * (time.monotonic() - start))
        if moved:
            self._ring()
        return done

    def _promote(self, path: str, name: Name) -> bool:
        if self._setbacks.waits(path):
            return False
        try:
            moved = self._disk.move(path, self._queue.ready(name))
        except OSError as error:
            self._setbacks.add(path, error)
            return False
        self._setbacks.clear(path)
        return moved

    def _entries(self, minute: str) -> list[tuple[int, str, Name]]:
        """In the order in which they are due; parsed again only when the minute has changed."""
        entries = self._minutes.names(minute)
        kept = self._kept.get(minute)
        if kept is None or kept[0] is not entries:
            parsed = [(name.not_before or 0, entry, name) for entry in entries if (name := names.parse(entry))]
            kept = (entries, sorted(parsed))
            self._kept = {minute: kept}  # one is enough: earlier minutes empty soon
        return kept[1]
