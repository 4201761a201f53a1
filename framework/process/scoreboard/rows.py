"""The row of one concurrent job on a scoreboard: its process writes it, and the supervisor reads it at any moment."""

from __future__ import annotations

import struct
import time

from framework.process.scoreboard.layout import (
    BUSY_OFFSET,
    CPU_OFFSET,
    ROW,
    SETTLING_OFFSET,
    Memory,
    RowState,
    string,
)

_QUICK_TRIES, _MOST_TRIES = 20, 150  # tries to read a whole row; a writer may lose the processor for 0.1 s

_THREAD = struct.Struct("<I")
_SOFT = struct.calcsize("<IBBBxQ")  # offset of the soft deadline in a row, before the hard one


class RowWriter:
    """The writer of one row. It is written after the run record, and cleared after the settlement."""

    __slots__ = ("_at", "_fields", "_memory", "_place", "_quads", "_sequence", "row")

    def __init__(self, row: int, memory: Memory, quads: memoryview[int], at: int) -> None:
        self.row = row
        self._memory = memory
        self._quads = quads
        self._at = at
        self._place = at // 8  # index of the sequence number
        self._fields = slice(at + 8, at + 8 + ROW.size)
        self._sequence = 0

    def start(self, job_id: str, delivery: int, started: int, soft: int, hard: int, queue: str = "") -> None:
        """Record that a job runs here now; times are in monotonic ns, 0: no deadline."""
        self._sequence += 2
        self._quads[self._place] = self._sequence - 1
        ident = job_id.encode("utf-8", "replace")  # `pack` truncates it
        self._memory[self._fields] = ROW.pack(delivery, 1, 0, 0, started, soft, hard, ident, queue.encode())
        self._quads[self._place] = self._sequence

    @property
    def sequence(self) -> int:
        """Return a number that changes with each start."""
        return self._sequence

    def shorten(self, sequence: int, soft: int, hard: int) -> None:
        """Bring the deadlines forward of the job that started with this sequence number. Safe in any thread."""
        quads, at = self._quads, self._place + 1 + _SOFT // 8
        soft, hard = (min(new, old or new) for new, old in zip((soft, hard), quads[at : at + 2], strict=True))
        # The interpreter switches threads at none of these lines, so no other job starts in between.
        if self._sequence == sequence:
            quads[at] = soft
            quads[at + 1] = hard

    def on_cpu(self, running: bool) -> None:
        """Record whether this job's code runs now; this shows which job blocks an event loop."""
        self._memory[self._at + CPU_OFFSET] = running

    def thread(self, number: int) -> None:
        """Record the kernel's number of the thread that runs all jobs of this row."""
        _THREAD.pack_into(self._memory, self._fields.stop, number)

    def ended(self) -> None:
        """Record that the handler has ended: the time that the engine takes after this is not the job's time."""
        self._memory[self._at + SETTLING_OFFSET] = 1

    def clear(self) -> None:
        """Record that no job runs here."""
        self._memory[self._at + BUSY_OFFSET] = 0


def read_row(memory: Memory, quads: memoryview[int], row: int, at: int) -> RowState | None:
    """Return the job in a busy row; None: it has just ended."""
    for tries in range(_MOST_TRIES):
        before = quads[at // 8]
        fields = memory[at + 8 : at + 8 + ROW.size]
        whole = before % 2 == 0 and quads[at // 8] == before
        if whole:
            break
        if tries >= _QUICK_TRIES:
            time.sleep(0.001)  # the writer has lost the processor during its write
    # A writer that was killed during its write leaves an odd sequence number: the content is the best that is known. If
    # a writer has lost the processor for longer than this, the next look reads the row again.
    delivery, busy, on_cpu, settling, started, soft, hard, job_id, queue = ROW.unpack(fields)
    (thread,) = _THREAD.unpack_from(memory, at + 8 + ROW.size)
    if not busy:
        return None
    return RowState(
        row, string(job_id), delivery, started, soft, hard, bool(on_cpu), bool(settling), whole, thread, string(queue)
    )
