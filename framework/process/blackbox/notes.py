"""The notes of a child in shared memory, which outlive it: the threads of its rows, the frames of hung coroutines, and
the last lines that its jobs logged.

A job writes nothing here unless it logs. One region belongs to each slot; its process writes, the supervisor reads. A
writer that is killed leaves at most one cell in disorder, which is then read as it is: the texts are for people.
"""

from __future__ import annotations

import mmap
import os
import struct
from itertools import count
from typing import Final

from framework.process.nameless import shared_memory
from framework.process.scoreboard import Scoreboard

LINES, LINE_SIZE = 32, 512  # cells for log lines, and bytes of one
FRAMES, FRAME_SIZE = 16, 2048  # the same for the frames of coroutines
MOST_LINES = 10  # lines that are read of one job
_CELL: Final = struct.Struct("<QIHxx64s")  # sequence number, delivery, bytes of text, job id
_REST = FRAMES * FRAME_SIZE + LINES * LINE_SIZE


class Pages:
    """The regions of all slots of a board, in memory that is taken as it is written.

    Attributes:
        descriptor: of the memory, for a process that is not forked.
    """

    def __init__(self, board: Scoreboard, descriptor: int = -1) -> None:
        """Make the memory, or map that of a descriptor. Raises OSError."""
        rows = [board.slot(index).rows for index in range(board.slots)]
        starts = [8 * sum(rows[:index]) + _REST * index for index in range(len(rows) + 1)]
        self._places = list(zip(starts, rows, strict=False))
        if descriptor < 0:
            descriptor, self._memory = shared_memory("black-box", max(starts[-1], mmap.PAGESIZE), sparse=True)
        else:
            self._memory = mmap.mmap(descriptor, os.fstat(descriptor).st_size)
        self.descriptor = descriptor

    def of(self, index: int) -> Notes:
        """Return the notes of a slot."""
        start, rows = self._places[index]
        return Notes(self._memory, start, rows)


class Notes:
    """The notes of one slot."""

    def __init__(self, memory: mmap.mmap, start: int, rows: int) -> None:
        self._memory = memory
        self._start, self._rows = start, rows
        self._frames = start + 8 * rows
        self._lines = self._frames + FRAMES * FRAME_SIZE
        self._end = self._lines + LINES * LINE_SIZE
        self._next = count(1).__next__  # one step of the interpreter, so that threads get different numbers

    # --- written by the slot's process ------------------------------------------------------------------------------

    def thread(self, row: int, ident: int) -> None:
        """Note which thread (`threading.get_ident()`) runs the jobs of a row."""
        if row < self._rows:
            struct.pack_into("<Q", self._memory, self._start + 8 * row, ident)

    def frames(self, row: int, job_id: str, delivery: int, text: str) -> None:
        """Note where the coroutines of a hung job stand, one `file\\0line\\0function` a line, the innermost first."""
        self._put(
            self._frames + row % FRAMES * FRAME_SIZE, FRAME_SIZE, job_id, delivery, text.encode("utf-8", "replace")
        )

    def line(self, job_id: str, delivery: int, line: bytes) -> None:
        """Note a line that a job has logged, in place of the oldest one."""
        number = self._next()
        self._put(self._lines + number % LINES * LINE_SIZE, LINE_SIZE, job_id, delivery, line, number)

    def _put(self, at: int, size: int, job_id: str, delivery: int, text: bytes, number: int = 1) -> None:
        text = text[: size - _CELL.size]
        head = _CELL.pack(number, delivery & 0xFFFFFFFF, len(text), job_id.encode("utf-8", "replace")[:64])
        self._memory[at : at + _CELL.size + len(text)] = head + text

    # --- read by the supervisor -------------------------------------------------------------------------------------

    def ident(self, row: int) -> int:
        """Return the thread of a row; 0: the row has none of its own."""
        return int(struct.unpack_from("<Q", self._memory, self._start + 8 * row)[0]) if row < self._rows else 0

    def frames_of(self, row: int, job_id: str, delivery: int) -> str:
        """Return what `frames` has noted of a job; empty: nothing."""
        at = self._frames + row % FRAMES * FRAME_SIZE
        found = self._read(at, FRAME_SIZE, job_id, delivery)
        return found[1] if found is not None else ""

    def lines_of(self, job_id: str, delivery: int) -> list[str]:
        """Return the last lines that a job has logged, the oldest first."""
        cells = (self._read(at, LINE_SIZE, job_id, delivery) for at in range(self._lines, self._end, LINE_SIZE))
        return [text.rstrip("\n") for _, text in sorted(cell for cell in cells if cell is not None)][-MOST_LINES:]

    def _read(self, at: int, size: int, job_id: str, delivery: int) -> tuple[int, str] | None:
        number, of, length, ident = _CELL.unpack_from(self._memory, at)
        if not number or of != delivery or ident.rstrip(b"\0") != job_id.encode("utf-8", "replace")[:64].rstrip(b"\0"):
            return None
        data = self._memory[at + _CELL.size : at + min(size, _CELL.size + length)]
        return number, data.decode("utf-8", "replace")

    def clear(self) -> None:
        """Forget what the slot's last process has noted. The supervisor calls this before it starts the next one."""
        if any(self._memory[self._start : self._start + 8 * self._rows]):
            self._memory[self._start : self._start + 8 * self._rows] = bytes(8 * self._rows)
