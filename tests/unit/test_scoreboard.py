"""The shared board: written by one process, read by others at any moment."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from framework.process.scoreboard import (
    EMPTY,
    EXIT_REASONS,
    LEAVING,
    PLANNED,
    READY,
    STARTING,
    STATES,
    TIMEOUT,
    KillReason,
    RowState,
    Scoreboard,
    before_deadline,
    layout,
    process_start,
)

SLOTS = [("maintenance", 0), ("deliveries/0", 3), ("digests/0", 1)]


@pytest.fixture
def board(tmp_path: Path) -> Scoreboard:
    return Scoreboard.create(tmp_path / "0.board", SLOTS, app="Relay")


def test_a_new_board(board: Scoreboard, tmp_path: Path) -> None:
    assert [(slot.name, slot.rows, slot.state) for slot in board.all_slots()] == [(n, r, EMPTY) for n, r in SLOTS]
    assert (board.app, board.supervisor, board.deadline, board.supervised()) == ("Relay", os.getpid(), 0, True)
    assert os.listdir(tmp_path) == ["0.board"]
    assert (tmp_path / "0.board").stat().st_mode & 0o777 == 0o600
    used = os.fstat(Scoreboard.in_memory(SLOTS, app="Relay").descriptor)
    assert used.st_blocks * 512 >= used.st_size  # a hole would be SIGBUS where memory is full


def test_deadlines_are_brought_forward_for_the_job_that_was_meant(board: Scoreboard) -> None:
    writer = board.row_writer(1, 0)

    def deadlines() -> list[tuple[str, int, int]]:
        return [(row.job_id, row.soft, row.hard) for row in board.busy_rows(1)]

    writer.start("a", 1, 10, 0, 0)
    first = writer.sequence
    writer.shorten(first, 50, 60)
    assert deadlines() == [("a", 50, 60)]
    writer.shorten(first, 70, 80)
    assert deadlines() == [("a", 50, 60)], "never later"
    writer.start("b", 1, 20, 500, 600)
    writer.shorten(first, 30, 40)
    assert deadlines() == [("b", 500, 600)], "another job runs there by now"


def test_what_one_writes_another_reads(board: Scoreboard) -> None:
    board.occupy(1, "1-abc")
    board.set_pid(1, 4242, 99)
    board.set_state(1, READY, 1000)
    board.tick(1, 2000, used=2, jobs=7)
    board.count_exit(1, "crashed")
    board.count_exit(1, "crashed")
    board.publish()
    other = Scoreboard.open(board.path)
    slot = other.slot(1)
    assert (slot.name, slot.incarnation, slot.pid, slot.pid_start) == ("deliveries/0", "1-abc", 4242, 99)
    assert (STATES[slot.state], slot.ready, slot.tick, slot.used, slot.jobs) == ("ready", 1000, 2000, 2, 7)
    assert dict(zip(EXIT_REASONS, slot.exits, strict=True))["crashed"] == 2
    assert sum(slot.exits) == 2
    assert other.slot(2) == Scoreboard.open(board.path).slot(2)
    assert other.slot(2).state == EMPTY
    Scoreboard.inherited(board.descriptor, Path()).deadline = 77
    assert board.deadline == 77


def test_leaving_keeps_the_moment_it_became_ready(board: Scoreboard) -> None:
    board.set_state(1, READY, 1000)
    board.set_state(1, LEAVING, 3000)
    assert (board.slot(1).state, board.slot(1).ready, board.slot(1).tick) == (LEAVING, 1000, 3000)


def test_what_an_older_version_has_counted_keeps_its_place(board: Scoreboard) -> None:
    """The board of an earlier tree is read after an upgrade, and a new one by an older probe."""
    older = (
        "drained",
        "recycled",
        "crashed",
        "killed",
        "timeout",
        "failed_to_start",
        "out_of_memory",
        "stuck",
        "ruined",
    )
    assert [layout.EXITS_OFFSET + 4 * EXIT_REASONS.index(reason) for reason in older] == list(range(224, 260, 4))
    assert layout.EXITS_OFFSET >= layout.TOLD_OFFSET + 4
    assert layout.EXITS_OFFSET + layout.EXITS.size <= layout.ENGINE_OFFSET


def test_a_slot_that_is_vacant_has_neither_process_nor_jobs(board: Scoreboard) -> None:
    board.occupy(1, "1-abc")
    board.set_pid(1, 4242, 99)
    board.row_writer(1, 0).start("j", 1, 5, 6, 7)
    board.count_exit(1, "timeout")
    board.vacate(1)
    slot = board.slot(1)
    assert (slot.pid, slot.state, sum(slot.exits), board.busy_rows(1)) == (0, EMPTY, 1, [])


def test_a_new_life_empties_its_rows_and_keeps_the_exits(board: Scoreboard) -> None:
    board.occupy(1, "first")
    board.row_writer(1, 2).start("job", 1, 10, 20, 30)
    board.row_writer(2, 0).start("neighbour", 1, 10, 20, 30)
    board.count_exit(1, "killed")
    board.set_state(1, READY, 5)
    board.occupy(1, "second")
    slot = board.slot(1)
    assert (slot.incarnation, slot.pid, slot.state, slot.ready, slot.tick) == ("second", 0, STARTING, 0, 0)
    assert sum(slot.exits) == 1
    assert board.busy_rows(1) == []
    assert [row.job_id for row in board.busy_rows(2)] == ["neighbour"]


def test_a_new_life_forgets_what_was_said_to_and_of_the_one_before(board: Scoreboard) -> None:
    other = Scoreboard.inherited(board.descriptor, Path())
    board.occupy(1, "first")
    board.tell_to_leave(1)
    board.set_ruin(1, "x" * 100, 2)
    board.engine_worked(0, 77)
    assert (other.told_to_leave(1), other.told_to_leave(2), other.engine_worked_at()) == (True, False, 77)
    assert (other.ruin(1), other.ruin(2)) == (KillReason("died", (2,), "x" * 92), None)
    board.set_ruin(2, "leak", None)
    assert other.ruin(2) == KillReason("died", (), "leak")
    board.occupy(1, "second")
    board.occupy(0, "maintenance")
    assert (other.told_to_leave(1), other.ruin(1), other.engine_worked_at()) == (False, None, 0)


def test_rows(board: Scoreboard) -> None:
    one, two = board.row_writer(1, 0), board.row_writer(1, 2)
    one.start("a", 5, 10, 20, 30)
    two.start("ü" * 40, 2**32 - 1, 2**63, 0, 0)
    two.on_cpu(True)
    assert board.busy_rows(1) == [
        RowState(0, "a", 5, 10, 20, 30, False),
        RowState(2, "ü" * 32, 2**32 - 1, 2**63, 0, 0, True),
    ]
    two.on_cpu(False)
    one.clear()
    assert [(row.row, row.on_cpu) for row in board.busy_rows(1)] == [(2, False)]
    one.start("b", 6, 1, 2, 3)
    assert [row.job_id for row in board.busy_rows(1)] == ["b", "ü" * 32]
    assert board.busy_rows(0) == board.busy_rows(2) == []


def test_a_reader_never_sees_half_a_row(board: Scoreboard) -> None:
    """Another process writes without pause. Without the sequence, hundreds of these reads are torn."""
    pid = os.fork()
    if pid == 0:
        writer, number = board.row_writer(1, 0), 0
        while True:
            number += 1
            writer.start(f"{number:060}", number, number, number, number)
    try:
        seen = set()
        end = time.monotonic() + 10
        while len(seen) < 3000 and time.monotonic() < end:
            for row in board.busy_rows(1):
                if not row.whole:
                    continue  # its writer had lost the processor for long: the next look reads it again
                assert int(row.job_id) == row.delivery == row.started == row.soft == row.hard
                seen.add(row.delivery)
        assert len(seen) >= 100
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_a_writer_killed_in_the_middle_is_no_endless_loop(board: Scoreboard) -> None:
    board.row_writer(2, 0).start("a", 5, 10, 20, 30)
    rows = layout.HEADER_SIZE + 3 * layout.SLOT_SIZE + 3 * layout.ROW_SIZE
    struct.pack_into("<Q", board._memory, rows, 7)  # odd: a write that never ended
    assert [(row.job_id, row.whole) for row in board.busy_rows(2)] == [("a", False)]


def test_names_of_full_length(tmp_path: Path) -> None:
    """Regression: slot names were cut at 64 bytes, so two queues of long names shared one on the board, and the probe
    of a class with a name of more than 48 bytes failed for ever."""
    queue, app = "q" * 100, "App" * 40
    long = Scoreboard.create(tmp_path / "long.board", [(f"{queue}/0", 1), (f"{queue}/1", 1)], app=app)
    assert [slot.name for slot in long.all_slots()] == [f"{queue}/0", f"{queue}/1"]
    assert long.app == app
    assert long.is_of(app)
    assert not long.is_of(app[:-1])
    longer = Scoreboard.create(tmp_path / "longer.board", [("a/0", 1)], app="X" * 300)
    assert longer.is_of("X" * 300)


# --- kill reasons ---------------------------------------------------------------------------------------------------


def test_kill_reasons(board: Scoreboard) -> None:
    board.write_kill_reason("planned", PLANNED)
    board.write_kill_reason("all", TIMEOUT)
    board.write_kill_reason("some", TIMEOUT, [0, 17, 300])
    board.write_kill_reason("many", TIMEOUT, range(19))
    board.write_kill_reason("none", TIMEOUT, [])
    board.write_death("died", "signal SIGSEGV")
    board.write_death("ruined", "no descriptors", [2])
    other = Scoreboard.open(board.path)
    assert other.kill_reason("planned") == KillReason("planned")
    assert other.kill_reason("all") == other.kill_reason("many") == KillReason("timeout")
    assert other.kill_reason("some") == KillReason("timeout", (0, 17, 300))
    assert other.kill_reason("none") == KillReason("timeout", ())
    assert other.kill_reason("died") == KillReason("died", detail="signal SIGSEGV")
    assert other.kill_reason("ruined") == KillReason("died", (2,), "no descriptors")
    assert other.kill_reason("somebody else") is other.kill_reason("") is other.kill_reason("som") is None


def test_the_table_holds_the_last_256(board: Scoreboard) -> None:
    for number in range(300):
        board.write_kill_reason(f"1-{number:016x}", PLANNED)
    known = [number for number in range(300) if board.kill_reason(f"1-{number:016x}")]
    assert known == list(range(44, 300))


def test_a_long_detail_is_cut(board: Scoreboard) -> None:
    board.write_death("a", "x" * 100)
    assert board.kill_reason("a") == KillReason("died", detail="x" * 96)


@pytest.mark.parametrize(
    ("kill_reason", "row", "charged"),
    [
        (KillReason("died"), 3, True),
        (KillReason("died", (3,)), 3, True),
        (KillReason("died", ()), 3, False),
        (KillReason("planned"), 3, False),
        (KillReason("timeout"), 3, True),
        (KillReason("timeout", (3,)), 3, True),
        (KillReason("timeout", (1, 2)), 3, False),
        (KillReason("timeout", ()), 3, False),
    ],
)
def test_who_pays(kill_reason: KillReason, row: int, charged: bool) -> None:
    assert kill_reason.charges(row) is charged


# --- files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"x",
        b"WBOARD1\n",
        bytes(200_000),
        b"WBOARD1\n" + b"\xff" * 200_000,
        b"WBOARD1\n" + struct.pack("<II", 1, 1) + bytes(120),
        os.urandom(30_000),
    ],
)
def test_garbage_is_no_board(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(ValueError, match="is no scoreboard"):
        Scoreboard.open(tmp_path / "x")


def test_truncated_or_of_another_version(board: Scoreboard, tmp_path: Path) -> None:
    whole = board.path.read_bytes()
    for content in (whole[:-1], whole + b"\0", b"WBOARD1\n" + whole[8:]):
        (tmp_path / "x").write_bytes(content)
        with pytest.raises(ValueError, match="no scoreboard of this version"):
            Scoreboard.open(tmp_path / "x")


def test_no_file_and_a_planted_link(board: Scoreboard, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(board.path)
    for name in ("missing", "link", "."):
        with pytest.raises(OSError, match=r"missing|link|Is a directory"):
            Scoreboard.open(tmp_path / name)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: os.truncate(path, 0),
    "half": lambda path: os.truncate(path, 4096),
    "zeros": lambda path: path.write_bytes(bytes(4096)),
    "deleted": os.unlink,
    "linked": lambda path: os.link(path, path.with_name("backup")),
    "a pipe": lambda path: (path.unlink(), os.mkfifo(path)),
    "a link": lambda path: (path.rename(path.with_name("backup")), path.symlink_to("backup")),
    "longer": lambda path: os.truncate(path, 1 << 20),
}


@pytest.mark.parametrize("how", DAMAGE)
def test_what_happens_to_the_copy_hurts_nobody_and_it_is_made_anew(how: str, board: Scoreboard, tmp_path: Path) -> None:
    """Regression: a board that was cut off, or made immutable, ended the supervisor with SIGBUS."""
    path = tmp_path / "0.board"
    DAMAGE[how](path)
    board.row_writer(1, 0).start("j", 1, 10, 20, 30)
    board.write_kill_reason("life", TIMEOUT, [0])
    found = Scoreboard.open(path)
    assert (found.kill_reason("life"), len(found.busy_rows(1))) == (KillReason("timeout", (0,)), 1)
    if how in ("linked", "a link"):  # a backup is a picture of its time
        assert Scoreboard.open(tmp_path / "backup").kill_reason("life") is None


@pytest.mark.parametrize("how", ["another tree's", "a directory", "immutable"])
def test_a_copy_that_cannot_be_made_is_left_alone(how: str, board: Scoreboard, tmp_path: Path) -> None:
    path = tmp_path / "0.board"
    if how == "immutable":
        if subprocess.run(["chattr", "+i", path], capture_output=True).returncode:
            pytest.skip("no immutable files here")
    else:
        path.unlink()
        path.mkdir() if how == "a directory" else Scoreboard.create(path, SLOTS, app="Other")
    before = path.stat()
    try:
        board.write_kill_reason("life", TIMEOUT)
        board.set_pid(1, 4242, 99)
    finally:
        subprocess.run(["chattr", "-i", path], capture_output=True)
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert (board.slot(1).pid, board.kill_reason("life")) == (4242, KillReason("timeout"))
    assert sorted(os.listdir(tmp_path)) == ["0.board"]


def test_nobody_can_cut_off_what_the_processes_share(board: Scoreboard) -> None:
    with pytest.raises(PermissionError):
        os.truncate(f"/proc/self/fd/{board.descriptor}", 0)


def test_a_board_replaces_the_one_before_it(board: Scoreboard) -> None:
    """The old mapping stays valid for who holds it."""
    board.write_kill_reason("old", PLANNED)
    new = Scoreboard.create(board.path, SLOTS[:1], app="Relay")
    assert Scoreboard.open(board.path).slots == new.slots == 1
    assert board.kill_reason("old") == KillReason("planned")
    assert new.kill_reason("old") is None


def test_the_supervisor_is_known_by_pid_and_start_time(board: Scoreboard) -> None:
    assert process_start(os.getpid()) > 0
    assert process_start(0) == process_start(2**22 + 1) == 0
    struct.pack_into("<Q", board._memory, 32, process_start(os.getpid()) + 1)  # the pid was reused
    assert not board.supervised()


def test_a_dead_supervisor(tmp_path: Path) -> None:
    pid = os.fork()
    if pid == 0:
        Scoreboard.create(tmp_path / "b", SLOTS, app="x")
        os._exit(0)
    os.waitpid(pid, 0)
    assert Scoreboard.open(tmp_path / "b").supervisor == pid
    assert not Scoreboard.open(tmp_path / "b").supervised()


@pytest.mark.parametrize(
    ("drain", "seconds", "expected"),
    [(25.0, 2.0, 2.0), (25.0, 1.0, 1.0), (1.0, 2.0, 0.4), (1.0, 1.0, 0.2), (0.0, 2.0, 0.0)],
)
def test_stages_of_a_drain(drain: float, seconds: float, expected: float) -> None:
    assert before_deadline(drain, seconds) == pytest.approx(expected)
