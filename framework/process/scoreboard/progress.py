"""The progress that running jobs have reported: a file beside a board's copy, with a place for each row.

The file is made by the first report, and never flushed. A process opens it for each report, since a handler may have
closed its descriptors. Each entry names its run, so what an earlier run has left is not read.
"""

from __future__ import annotations

import os
import struct
import zlib
from typing import Final

from framework.model.handling import Progress
from framework.process.scoreboard.board import Scoreboard
from framework.process.scoreboard.layout import RowState

SUFFIX: Final = ".progress"
SIZE: Final = 512  # bytes of an entry
_CRC: Final = struct.Struct("<I")
_ENTRY: Final = struct.Struct("<dIddH")  # start of the run, delivery, done, total, length of the text
_NO_TOTAL: Final = -1.0


class ProgressWriter:
    """The writer of a slot's entries. Safe in any thread.

    Args:
        board: the board of the tree; where it has no copy, nothing is written.
        index: the slot.
    """

    def __init__(self, board: Scoreboard, index: int) -> None:
        self._path = None if board.path is None else board.path.with_suffix(SUFFIX)
        self._first = _first_row(board, index)

    def write(self, row: int, began: float, delivery: int, progress: Progress) -> None:
        """Write the progress of the job on a row; `began` is its start in monotonic seconds. Raises OSError."""
        if self._path is None:
            return
        text = progress.text.encode("utf-8", "replace")
        total = _NO_TOTAL if progress.total is None else progress.total
        entry = _ENTRY.pack(began, delivery, progress.done, total, len(text)) + text
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        descriptor = os.open(self._path, flags, 0o600)
        try:
            os.pwrite(descriptor, _CRC.pack(zlib.crc32(entry)) + entry, (self._first + row) * SIZE)
        finally:
            os.close(descriptor)


class ProgressReader:
    """The entries of a board as they were when this was made; none where the file cannot be read."""

    def __init__(self, board: Scoreboard) -> None:
        self._board = board
        self._data = b""
        if board.path is None:
            return
        try:
            flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
            descriptor = os.open(board.path.with_suffix(SUFFIX), flags)
        except OSError:
            return
        try:
            self._data = os.pread(descriptor, board.rows * SIZE, 0)
        except OSError:
            return
        finally:
            os.close(descriptor)

    def of(self, index: int, row: RowState) -> Progress | None:
        """Return what the job on a row of a slot has reported; None: nothing, or its entry is being written."""
        at = (_first_row(self._board, index) + row.row) * SIZE
        data = self._data[at : at + SIZE]
        if len(data) < _CRC.size + _ENTRY.size:
            return None
        began, delivery, done, total, length = _ENTRY.unpack_from(data, _CRC.size)
        entry = data[_CRC.size : _CRC.size + _ENTRY.size + length]
        if (began, delivery) != (row.started / 1e9, row.delivery) or _CRC.unpack_from(data)[0] != zlib.crc32(entry):
            return None
        text = entry[_ENTRY.size :].decode("utf-8", "replace")
        try:
            return Progress(done, None if total == _NO_TOTAL else total, text)
        except ValueError:
            return None


def _first_row(board: Scoreboard, index: int) -> int:
    return sum(board.slot(before).rows for before in range(index))
