"""A shared file in which every handler marks its job: which ran, when, and how long after its enqueue.

One mark costs two 8-byte stores, so the probe costs every system the same fraction of a microsecond, and the harness
can tell a job that never ran from one that ran late. Clocks are CLOCK_MONOTONIC, which all processes share.
"""

from __future__ import annotations

import mmap
import os
import time
from pathlib import Path

ROWS = 64  # processes
_WORD = 8
_GATE, _ROWS_AT = 0, 8  # words; a row is (pid, jobs)
_MARKS_AT = _ROWS_AT + 2 * ROWS
PATIENCE = 60.0  # seconds that a handler waits at the gate: a dead harness must not leave workers behind

VARIABLE = "BENCH_MARKS"


class Marks:
    """The mapped file.

    Args:
        path: of the file; `capacity` given: made anew for so many jobs.
    """

    def __init__(self, path: Path, capacity: int | None = None) -> None:
        self.path = path
        flags = os.O_RDWR if capacity is None else os.O_RDWR | os.O_CREAT | os.O_TRUNC
        descriptor = os.open(path, flags, 0o666)
        try:
            if capacity is not None:
                os.fchmod(descriptor, 0o666)
                os.truncate(descriptor, (_MARKS_AT + 2 * capacity) * _WORD)
            memory = mmap.mmap(descriptor, 0)
        finally:
            os.close(descriptor)
        self.words = memoryview(memory).cast("Q")
        self.capacity = (len(self.words) - _MARKS_AT) // 2

    # --- the harness ------------------------------------------------------------------------------------------------

    def reset(self, *, gate_open: bool = False) -> None:
        """Forgets everything."""
        self.words[:] = memoryview(bytes(len(self.words) * _WORD)).cast("Q")
        self.words[_GATE] = int(gate_open)

    def forget_jobs(self) -> None:
        """Forgets the marks, and keeps the processes."""
        self.words[_MARKS_AT:] = memoryview(bytes(2 * self.capacity * _WORD)).cast("Q")
        for row in range(ROWS):
            self.words[_ROWS_AT + 2 * row + 1] = 0

    def open_gate(self) -> int:
        """Lets the waiting handlers go; the time in monotonic ns."""
        now = time.monotonic_ns()
        self.words[_GATE] = 1
        return now

    def arrived(self) -> int:
        """Processes that have taken a job."""
        return sum(1 for row in range(ROWS) if self.words[_ROWS_AT + 2 * row])

    def ran(self) -> int:
        """Jobs that have run, repeats included."""
        return sum(self.words[_ROWS_AT + 1 : _MARKS_AT : 2])

    def times(self) -> list[int]:
        """When each marked job ran, in monotonic ns, sorted."""
        return sorted(filter(None, self.words[_MARKS_AT : _MARKS_AT + self.capacity]))

    def latencies(self) -> list[float]:
        """Seconds from just before the call of enqueue to the handler, sorted."""
        return sorted(value / 1e9 for value in self.words[_MARKS_AT + self.capacity :] if value)

    # --- a handler --------------------------------------------------------------------------------------------------

    def enter(self) -> int:
        """A process's first job: takes a row and waits at the gate; the word that counts its jobs."""
        row = next(row for row in range(ROWS) if self._take(row))
        end = time.monotonic() + PATIENCE
        while not self.words[_GATE] and time.monotonic() < end:
            time.sleep(0.0005)
        return _ROWS_AT + 2 * row + 1

    def _take(self, row: int) -> bool:
        """Two processes may race for a free row: looks again a little later who has it."""
        at = _ROWS_AT + 2 * row
        if self.words[at]:
            return False
        self.words[at] = os.getpid()
        time.sleep(0.002)
        return self.words[at] == os.getpid()


class Probe:
    """What a handler calls; opens the file named by BENCH_MARKS at the first job of a process."""

    def __init__(self) -> None:
        self._marks: Marks | None = None
        self._count_at = 0
        os.register_at_fork(after_in_child=self._forget)

    def _forget(self) -> None:
        self._marks = None

    def hit(self, seq: int, sent: int) -> None:
        """Marks job `seq`, whose enqueue began at `sent` (monotonic ns; 0 = not of interest)."""
        now = time.monotonic_ns()
        if self._marks is None:
            self._marks = Marks(Path(os.environ[VARIABLE]))
            self._count_at = self._marks.enter()
            if not sent:
                now = time.monotonic_ns()
        words = self._marks.words
        words[_MARKS_AT + seq] = now
        if sent:
            words[_MARKS_AT + self._marks.capacity + seq] = now - sent
        words[self._count_at] += 1


hit = Probe().hit
