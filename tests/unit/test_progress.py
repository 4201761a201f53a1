"""The file of progress beside a board: which report a run has, and what stands for none."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from framework.model.handling import Progress
from framework.process.scoreboard import RowState, Scoreboard
from framework.process.scoreboard.progress import SIZE, SUFFIX, ProgressReader, ProgressWriter

SLOTS = [("maintenance", 0), ("deliveries/0", 3), ("digests/0", 1)]
FIRST, SECOND = Progress(1, 2, "first"), Progress(2.5, None, "☃" * 100)


@pytest.fixture
def board(tmp_path: Path) -> Scoreboard:
    return Scoreboard.create(tmp_path / "3.board", SLOTS, app="Relay")


def start(board: Scoreboard, slot: int, row: int, *, delivery: int = 1, started: int = 1_234_567_890_123) -> RowState:
    board.row_writer(slot, row).start("job", delivery, started, 0, 0, "deliveries")
    return next(busy for busy in board.busy_rows(slot) if busy.row == row)


def report(board: Scoreboard, slot: int, row: RowState, progress: Progress) -> None:
    ProgressWriter(board, slot).write(row.row, row.started / 1e9, row.delivery, progress)


def test_each_run_has_its_last_report(board: Scoreboard) -> None:
    one, other, third = start(board, 1, 0), start(board, 1, 2), start(board, 2, 0)
    assert ProgressReader(board).of(1, one) is None
    report(board, 1, other, FIRST)
    report(board, 2, third, FIRST)
    report(board, 2, third, SECOND)
    board.publish()
    assert board.path is not None
    reader = ProgressReader(Scoreboard.open(board.path))
    assert [reader.of(1, one), reader.of(1, other), reader.of(2, third)] == [None, FIRST, SECOND]


def test_what_an_earlier_run_has_reported_is_not_the_next_one_s(board: Scoreboard) -> None:
    report(board, 1, start(board, 1, 0), FIRST)
    reader = ProgressReader(board)
    assert reader.of(1, start(board, 1, 0, delivery=2)) is None
    assert reader.of(1, start(board, 1, 0, started=1_234_567_890_124)) is None
    assert reader.of(1, start(board, 1, 0)) == FIRST


@pytest.mark.parametrize("at", range(0, 60, 7))
def test_a_damaged_or_half_written_entry_is_none(board: Scoreboard, at: int) -> None:
    row = start(board, 1, 0)
    report(board, 1, row, Progress(7, 8, "x" * 80))
    assert board.path is not None
    path = board.path.with_suffix(SUFFIX)
    data = bytearray(path.read_bytes())
    data[at] ^= 0xFF
    path.write_bytes(data)
    assert ProgressReader(board).of(1, row) is None


def test_what_is_no_such_file_is_no_progress(board: Scoreboard) -> None:
    row = start(board, 1, 0)
    assert board.path is not None
    path = board.path.with_suffix(SUFFIX)
    for plant in (lambda: path.mkdir(), lambda: os.mkfifo(path), lambda: path.symlink_to("/dev/zero")):
        plant()
        assert ProgressReader(board).of(1, row) is None
        with pytest.raises(OSError):
            report(board, 1, row, FIRST)
        path.rmdir() if path.is_dir() else path.unlink()
    path.write_bytes(os.urandom(SIZE * 4))
    assert ProgressReader(board).of(1, row) is None
    report(board, 1, row, FIRST)
    assert ProgressReader(board).of(1, row) == FIRST
    path.symlink_to(path.rename(path.with_suffix(".other")))
    assert ProgressReader(board).of(1, row) is None


def test_a_board_without_a_copy_has_no_file() -> None:
    board = Scoreboard.in_memory(SLOTS, app="Relay")
    row = start(board, 1, 0)
    report(board, 1, row, FIRST)
    assert ProgressReader(board).of(1, row) is None
