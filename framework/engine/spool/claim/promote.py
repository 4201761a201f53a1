"""Promotion of due jobs: they move from delayed/ to ready/.

Any process may promote at any time: where a rename fails because another process was faster, the job has moved.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from operator import itemgetter

from framework.engine.spool.claim.listing import Buckets, first_there
from framework.engine.spool.claim.setbacks import Setbacks
from framework.engine.spool.disk.clock import Clock
from framework.engine.spool.disk.disk import Disk
from framework.engine.spool.disk.layout import QueueDir
from framework.engine.spool.format import job_file, names
from framework.model.extras import USUAL

LEAST_PAUSE = 1.0  # seconds between a worker's looks for what others delayed: maintenance looks more often
LONG = 0.01  # seconds; a longer look waits until nothing is ready, and is repeated after 20 times what it took
MOST_LATE = 10.0  # seconds for which such a look waits at most
STEP = 1 << 14  # names in one step of a look; between steps, jobs that have come to ready/ meanwhile are claimed
_MINUTE = 60_000_000
_NOT_BEFORE = re.compile(r",n(\d{1,18})")

Waiting = tuple[int, str, str]  # when it is due (microseconds since the epoch), name, minute


@dataclass(slots=True)
class Line:
    """The delayed jobs that a look found, sorted. `at` is the index of the first that has not been moved yet."""

    waiting: list[Waiting] = field(default_factory=list)
    at: int = 0

    def due(self) -> int:
        """Return when the next job is due, in microseconds since the epoch, or MAX_TIME if none waits."""
        return self.waiting[self.at][0] if self.at < len(self.waiting) else names.MAX_TIME


class Promote:
    """The promotion of one queue's due jobs: first those with a priority below 5, each group in the order they are due.

    All jobs that a look found are moved without another look, so that the cost of one does not grow with their number.
    Only minutes that are due are listed: half a million entries take 0.3 s.

    Attributes:
        error: the error that ended the last call of `soon`, if there was one.
    """

    def __init__(
        self, disk: Disk, queue: QueueDir, clock: Clock, *, ring: Callable[[], None], setbacks: Setbacks
    ) -> None:
        self._disk = disk
        self._setbacks = setbacks
        self._queue = queue
        self._clock = clock
        self._ring = ring
        self._base = f"{queue.base}/delayed"
        self._minutes = Buckets(disk, self._base, names.MINUTE, setbacks=setbacks)
        # By minute: the listed names, and the parsed jobs by name.
        self._parsed: dict[str, tuple[list[str], dict[str, Waiting]]] = {}
        self._steps: Iterator[None] | None = None  # the steps of the look that is under way
        self._lines = Line(), Line()  # jobs with a priority below 5, and the others
        self._next_minute = 0  # begin of the first minute that is not listed, in microseconds since the epoch
        self._looked_at = -MOST_LATE
        self._took = 0.0
        self.error: OSError | None = None

    @property
    def looking(self) -> bool:
        """Return whether a look is under way, which the next call continues."""
        return self._steps is not None

    def seconds_left(self) -> float:
        """Return the seconds until the next known job is due."""
        due = self._next_due()
        return max(0.0, ((self._next_minute if due == names.MAX_TIME else due) - self._clock.micros()) / 1e6)

    def soon(self, most: int, *, patient: bool) -> int:
        """Promote up to `most` due jobs for a worker and return how many. It never raises: see `error`.

        Args:
            patient: no other job is to be claimed, so a look may take its time.
        """
        self.error = None
        try:
            late = time.monotonic() - self._looked_at
            if patient or self._took <= LONG or late >= MOST_LATE:
                over = late >= max(LEAST_PAUSE, 20 * self._took)
                if self._steps is not None or over or self._clock.micros() >= self._next_minute:
                    self._go_on()
            return self._move(most, math.inf)
        except OSError as error:
            self.error = error
            return 0

    def now(self, *, until: float = math.inf) -> bool:
        """Promote all due jobs, until `until` (monotonic seconds). Return whether none is left.

        Raises OSError where the error is not about a single file.
        """
        if self._took <= LONG or time.monotonic() >= self._looked_at + 20 * self._took:
            while not self._go_on():
                pass
        self._move(sum(len(line.waiting) for line in self._lines), until)
        return self._next_due() > self._clock.micros()

    def _go_on(self) -> bool:
        """Take the next step of a look, or begin one. Return whether the look is over."""
        self._steps = self._steps or self._look()
        try:
            next(self._steps)
        except StopIteration:
            self._steps = None
        except BaseException:
            self._steps = None
            raise
        return self._steps is None

    def _look(self) -> Iterator[None]:
        """Find the delayed jobs, in steps. The result of the last look is valid until the end of this one."""
        now, began, taken = self._clock.micros(), time.monotonic(), 0
        self._looked_at = began
        next_minute, parsed = names.MAX_TIME, dict[str, tuple[list[str], dict[str, Waiting]]]()
        for minute in self._minutes.all():
            if minute > names.minute_of(now):
                next_minute = int(minute) * _MINUTE
                break
            entries = self._minutes.names(minute)
            if self._minutes.waits(minute):
                continue
            if not entries:
                if minute < names.minute_of(max(0, now - _MINUTE)):
                    self._setbacks.tried(f"{self._base}/{minute}", self._disk.rmdir)
                continue
            known = self._parsed.get(minute, ([], {}))
            if known[0] is not entries:
                known = entries, {}
                for at in range(0, len(entries), STEP):
                    if taken >= STEP:
                        yield
                        taken = 0
                    known[1].update(self._parse(minute, entries[at : at + STEP]))
                    taken += len(entries[at : at + STEP])
            parsed[minute] = known
        self._next_minute, self._parsed = next_minute, parsed
        every = [waiting for _, found in parsed.values() for waiting in found.values()]
        every.sort(key=itemgetter(0))  # jobs that are due at the same moment are in the order of their names already
        urgent = [waiting for waiting in every if ",p" in waiting[1] and names.priority_of(waiting[1]) < USUAL]
        if urgent:
            every = [waiting for waiting in every if names.priority_of(waiting[1]) >= USUAL]
        self._lines = Line(urgent), Line(every)
        self._took = time.monotonic() - began

    def _parse(self, minute: str, entries: list[str]) -> Iterator[tuple[str, Waiting]]:
        """Yield each name with the time at which it is due; a name that the last look has seen is not parsed again."""
        find, known = _NOT_BEFORE.search, self._parsed.get(minute, ([], {}))[1]
        for entry in entries:
            waiting = known.get(entry)
            if waiting is None:
                waiting = int(due[1]) if (due := find(entry)) else 0, entry, minute
            yield entry, waiting

    def _next_due(self) -> int:
        return min(line.due() for line in self._lines)

    def _move(self, most: int, until: float) -> int:
        moved = 0
        for line in self._lines:
            moved += self._move_of(line, most - moved, until)
        return moved

    def _move_of(self, line: Line, most: int, until: float) -> int:
        now, moved, missed = self._clock.micros(), 0, 0
        disk, every = self._disk, line.waiting
        try:
            while moved < most and line.due() <= now:
                done = self._promote(line.waiting[line.at])
                line.at += 1
                moved, missed = moved + bool(done), missed + 1 if done is False else 0
                if missed == 2:  # others move the same ones, in the same order
                    line.at, missed = first_there(lambda i: disk.is_there(self._path(every[i])), line.at, len(every)), 0
                if time.monotonic() >= until:
                    break
        finally:
            if moved:
                self._ring()
        return moved

    def _path(self, waiting: Waiting) -> str:
        return f"{self._base}/{waiting[2]}/{waiting[1]}"

    def _promote(self, waiting: Waiting) -> bool | None:
        """Move one entry and return whether it moved: False if it is gone, None if it cannot be moved or read as a job.

        Raises OSError.
        """
        path, entry = self._path(waiting), waiting[1]
        if self._setbacks.waits(path):
            return None
        name = names.parse(entry)
        if name is None:
            if names.needs_newer(entry):
                self._setbacks.add(path, job_file.Newer(job_file.VERSION + 1))
            return None
        return self._setbacks.tried(path, lambda path: self._disk.move(path, self._queue.ready(name)))
