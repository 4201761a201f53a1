"""The scoreboard in shared memory: what every process of a tree does now, and which job it runs until when.

The run record decides what had started; the board says which process to kill when, and why a process died. Each field
has one writer: a slot's process writes its slot and rows, the supervisor writes headers, exits and kill reasons. Times
are CLOCK_MONOTONIC in nanoseconds, the same for all processes of a host; 0: none.

Fields that others read at any moment are stored through a cast view as one aligned word, so a reader sees the old or
the new value. `struct.pack_into` cannot be used: it first fills the field with zeros, and a reader at that moment sees
a loop that has not turned since boot.
"""

from __future__ import annotations

import errno
import mmap
import os
import secrets
import stat
import struct
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from framework.process.nameless import shared_memory
from framework.process.scoreboard.layout import (
    BUSY_OFFSET,
    CAUSE,
    DEADLINE_OFFSET,
    DIED,
    EMPTY,
    ENGINE_OFFSET,
    EXIT_REASONS,
    EXITS,
    EXITS_OFFSET,
    HEADER,
    HEADER_SIZE,
    JOBS_OFFSET,
    KILL_REASON,
    KILL_REASON_NAMES,
    KILL_REASON_SIZE,
    KILL_REASONS,
    MAGIC,
    MOST_CHARGED,
    NAME,
    PID_OFFSET,
    READY,
    READY_OFFSET,
    ROW_SIZE,
    RUIN_OFFSET,
    SLOT,
    SLOT_SIZE,
    START_OFFSET,
    STARTING,
    STATE_OFFSET,
    STILL_OFFSET,
    TICK_OFFSET,
    TOLD_OFFSET,
    TREE,
    USED_OFFSET,
    WRITTEN_OFFSET,
    KillReason,
    Memory,
    RowState,
    SlotState,
    string,
    text,
)
from framework.process.scoreboard.processes import pid_namespace, process_start
from framework.process.scoreboard.rows import RowWriter, read_row


class Scoreboard:
    """The mapped scoreboard. Create it once per supervisor; children inherit the mapping or its descriptor.

    No damage to a file can affect the processes that use it. The file is a copy for other trees, probes, and the
    process that takes over when this tree has died. `publish` renews the copy, and so does every kill reason.

    Attributes:
        path: path of the copy; None: there is none.
        descriptor: of the memory; -1 on a board that `open` has read.
    """

    def __init__(self, path: Path | None, memory: Memory, descriptor: int = -1) -> None:
        self.path = path
        self.descriptor = descriptor
        self._memory = memory
        self._words = memoryview(memory).cast("I")
        self._quads = memoryview(memory).cast("Q")
        # Returns nanoseconds; a fast way to `stood_still`, which every job reads.
        self.still_ns: Callable[[], int] = partial(self._quads.__getitem__, STILL_OFFSET // 8)
        _, self.slots, self.rows, *_ = HEADER.unpack_from(memory, 0)
        self._rows_at = HEADER_SIZE + self.slots * SLOT_SIZE
        self._kill_reasons_at = self._rows_at + self.rows * ROW_SIZE

    @classmethod
    def create(cls, path: Path, slots: Sequence[tuple[str, int]], *, app: str) -> Scoreboard:
        """Return a new board for slots of (name, rows), with its copy. Raises OSError: there is no room."""
        board = cls.in_memory(slots, app=app, path=path)
        board.put()
        return board

    @classmethod
    def in_memory(cls, slots: Sequence[tuple[str, int]], *, app: str, path: Path | None = None) -> Scoreboard:
        """Return a new board that only the processes of the tree see until it is published."""
        descriptor, memory = shared_memory("board", _size(slots))
        _begin(memory, slots, app)
        return cls(path, memory, descriptor)

    @classmethod
    def inherited(cls, descriptor: int, path: Path) -> Scoreboard:
        """Return the board of this tree in a process that was not forked."""
        return cls(path, mmap.mmap(descriptor, os.fstat(descriptor).st_size), descriptor)

    @classmethod
    def open(cls, path: Path) -> Scoreboard:
        """Return what a copy says at this moment; a kill reason written to it goes to the file. Raises ValueError,
        OSError."""
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
        try:
            head = os.pread(descriptor, HEADER_SIZE, 0)
            if len(head) < HEADER_SIZE:
                raise ValueError(f"{path} is no scoreboard")
            magic, slots, rows, *_ = HEADER.unpack_from(head, 0)
            size = HEADER_SIZE + slots * SLOT_SIZE + rows * ROW_SIZE + KILL_REASONS * KILL_REASON_SIZE
            if magic != MAGIC or os.fstat(descriptor).st_size != size:
                raise ValueError(f"{path} is no scoreboard of this version")
            memory = bytearray(os.pread(descriptor, size, 0))
        finally:
            os.close(descriptor)
        if len(memory) != size:  # the file was just shortened
            raise ValueError(f"{path} is no scoreboard")
        return cls(path, memory)

    # --- the copy ---------------------------------------------------------------------------------------------------

    def publish(self) -> None:
        """Renew the copy; replace it if it is gone or has other links. A copy of another tree is left alone, because
        our directory may have been moved. Raises OSError."""
        if self.path is not None and not self._renewed(self.path):
            self.put()

    def _renewed(self, path: Path) -> bool:
        """Return False if there is no copy that can be renewed."""
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ELOOP):
                return False
            raise
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
                return False
            head = os.pread(descriptor, HEADER_SIZE, 0)
            if not head.startswith(MAGIC) or head[TREE] == self._memory[TREE]:
                _write(descriptor, self._memory)
                if found.st_size > len(self._memory):
                    os.ftruncate(descriptor, len(self._memory))
            return True
        finally:
            os.close(descriptor)

    def put(self) -> None:
        """Replace the copy, or whatever is at its path, by a new one. Raises OSError."""
        assert self.path is not None
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            _write(descriptor, self._memory)
            os.rename(temporary, self.path)
        except OSError:
            os.unlink(temporary)
            raise
        finally:
            os.close(descriptor)

    def try_to_publish(self) -> None:
        """Publish if possible: a full or immutable disk stops no process."""
        with suppress(OSError):
            self.publish()

    # --- the tree ---------------------------------------------------------------------------------------------------

    @property
    def supervisor(self) -> int:
        """Return the pid of the supervisor that created the board."""
        return int(HEADER.unpack_from(self._memory, 0)[3])

    @property
    def tree(self) -> int:
        """Return a number that no other tree has. Pids alone repeat, between containers even at the same clock tick."""
        return self._quads[TREE.start // 8]

    def supervised(self) -> bool:
        """Return whether that supervisor is alive."""
        _, _, _, pid, _, _, start, _, _ = HEADER.unpack_from(self._memory, 0)
        return bool(pid) and process_start(pid) == start

    def within_sight(self) -> bool:
        """Return whether the board's pids are in our pid namespace: containers that share a store have their own."""
        return int(HEADER.unpack_from(self._memory, 0)[8]) == pid_namespace()

    @property
    def app(self) -> str:
        """Return the name of the app that runs."""
        return string(HEADER.unpack_from(self._memory, 0)[7])

    def is_of(self, app: str) -> bool:
        """Return whether an app of this name runs. Only the beginning of a name counts that is too long."""
        return self.app == string(text(app, NAME))

    @property
    def deadline(self) -> int:
        """Return the drain deadline in monotonic ns; 0: no drain."""
        return self._quads[DEADLINE_OFFSET // 8]

    @deadline.setter
    def deadline(self, value: int) -> None:
        self._quads[DEADLINE_OFFSET // 8] = value

    @property
    def stood_still(self) -> float:
        """Return the seconds for which the whole tree has stood still since its start; every deadline moves by them.

        The supervisor writes them, or maintenance once the supervisor is dead.
        """
        return self.still_ns() / 1e9

    @stood_still.setter
    def stood_still(self, seconds: float) -> None:
        self._quads[STILL_OFFSET // 8] = int(seconds * 1e9)

    # --- slots ------------------------------------------------------------------------------------------------------

    def _slot_at(self, index: int) -> int:
        return HEADER_SIZE + index * SLOT_SIZE

    def occupy(self, index: int, incarnation: str) -> None:
        """Begin a new life in the slot, with empty rows. The supervisor calls this before a start."""
        at = self._slot_at(index)
        name, _, _, _, _, _, _, first, rows, _, _ = SLOT.unpack_from(self._memory, at)
        SLOT.pack_into(self._memory, at, name, text(incarnation, 40), 0, STARTING, 0, 0, 0, first, rows, 0, 0)
        self._words[(at + TOLD_OFFSET) // 4] = 0
        self._quads[(at + ENGINE_OFFSET) // 8] = 0
        self._words[(at + RUIN_OFFSET) // 4] = 0
        self._empty(first, rows)

    def _empty(self, first: int, rows: int) -> None:
        start, end = (self._rows_at + row * ROW_SIZE for row in (first, first + rows))
        self._memory[start:end] = bytes(end - start)

    def vacate(self, index: int) -> None:
        """Mark a slot as empty on purpose. The supervisor calls this."""
        at = self._slot_at(index)
        self._words[(at + STATE_OFFSET) // 4] = EMPTY
        self._empty(*SLOT.unpack_from(self._memory, at)[7:9])
        self.set_pid(index, 0, 0)

    def set_pid(self, index: int, pid: int, pid_start: int) -> None:
        """Write the pid after a start. The supervisor calls this; `pid_start` (clock ticks since boot) detects a reused
        pid."""
        at = self._slot_at(index)
        self._words[(at + PID_OFFSET) // 4] = pid
        self._quads[(at + START_OFFSET) // 8] = pid_start
        self.try_to_publish()

    def set_state(self, index: int, state: int, now: int) -> None:
        """Write the state of a slot. The process in the slot calls this."""
        at = self._slot_at(index)
        if state == READY:
            self._quads[(at + READY_OFFSET) // 8] = now
        self._quads[(at + TICK_OFFSET) // 8] = now
        self._words[(at + STATE_OFFSET) // 4] = state

    def tick(self, index: int, now: int, *, used: int = 0, jobs: int = 0) -> None:
        """Record that the loop turns. The process in the slot calls this."""
        at = self._slot_at(index)
        self._quads[(at + TICK_OFFSET) // 8] = now
        self._words[(at + USED_OFFSET) // 4] = used
        self._words[(at + JOBS_OFFSET) // 4] = jobs

    def slot(self, index: int) -> SlotState:
        """Return a slot as it is now."""
        at = self._slot_at(index)
        name, incarnation, pid, state, pid_start, *_, rows, used, jobs = SLOT.unpack_from(self._memory, at)
        tick, ready = (self._quads[(at + offset) // 8] for offset in (TICK_OFFSET, READY_OFFSET))
        exits = EXITS.unpack_from(self._memory, at + EXITS_OFFSET)
        return SlotState(
            index, string(name), string(incarnation), pid, pid_start, state, tick, ready, rows, used, jobs, exits
        )

    def all_slots(self) -> list[SlotState]:
        """Return all slots as they are now."""
        return [self.slot(index) for index in range(self.slots)]

    def count_exit(self, index: int, reason: str) -> None:
        """Count an end of a process of this slot, for the supervisor."""
        at = self._slot_at(index) + EXITS_OFFSET + 4 * EXIT_REASONS.index(reason)
        self._words[at // 4] += 1

    def tell_to_leave(self, index: int) -> None:
        """Record that a process must leave. The supervisor calls this before its SIGTERM, because a handler may take
        the signal."""
        self._words[(self._slot_at(index) + TOLD_OFFSET) // 4] = 1

    def told_to_leave(self, index: int) -> bool:
        """Return whether the supervisor has told this process to leave."""
        return bool(self._words[(self._slot_at(index) + TOLD_OFFSET) // 4])

    def engine_worked(self, index: int, now: int) -> None:
        """Record, for maintenance, that the engine has just done everything that it was asked to do."""
        self._quads[(self._slot_at(index) + ENGINE_OFFSET) // 8] = now

    def engine_worked_at(self) -> int:
        """Return when the engine last worked in the maintenance process; 0: never."""
        return max(self._quads[(self._slot_at(index) + ENGINE_OFFSET) // 8] for index in range(self.slots))

    def set_ruin(self, index: int, cause: str, charged: int | None) -> None:
        """Record why a worker cannot do anything any more, and the row whose job is charged with that. The worker calls
        this."""
        at = self._slot_at(index)
        self._memory[at + CAUSE.start : at + CAUSE.stop] = text(cause, 92).ljust(92, b"\0")
        self._words[(at + RUIN_OFFSET) // 4] = 1 if charged is None else charged + 2

    def ruin(self, index: int) -> KillReason | None:
        """Return how the jobs of a ruined worker are resolved; None: it is not ruined."""
        at = self._slot_at(index)
        code, cause = self._words[(at + RUIN_OFFSET) // 4], bytes(self._memory[at + CAUSE.start : at + CAUSE.stop])
        return KillReason("died", () if code == 1 else (code - 2,), string(cause)) if code else None

    # --- rows -------------------------------------------------------------------------------------------------------

    def row_writer(self, index: int, row: int) -> RowWriter:
        """Return the writer of row number `row` of a slot, for the slot's process."""
        first = SLOT.unpack_from(self._memory, self._slot_at(index))[7]
        return RowWriter(row, self._memory, self._quads, self._rows_at + (first + row) * ROW_SIZE)

    def busy_rows(self, index: int) -> list[RowState]:
        """Return the jobs that run in a slot."""
        first, count = SLOT.unpack_from(self._memory, self._slot_at(index))[7:9]
        start = self._rows_at + first * ROW_SIZE
        flags = self._memory[start + BUSY_OFFSET : start + count * ROW_SIZE : ROW_SIZE]
        busy = (row for row, flag in enumerate(flags) if flag)
        found = (read_row(self._memory, self._quads, row, start + row * ROW_SIZE) for row in busy)
        return [state for state in found if state is not None]

    # --- kill reasons -----------------------------------------------------------------------------------------------

    def write_kill_reason(self, incarnation: str, kind: int, charged: Sequence[int] | None = None) -> None:
        """Record why the supervisor is about to send SIGKILL. Of more than 256 records, the oldest is replaced."""
        self._write_kill_reason(incarnation, kind, charged, "")

    def write_death(self, incarnation: str, detail: str, charged: Sequence[int] | None = None) -> None:
        """Record how a process died that the supervisor had not killed, in at most 96 bytes."""
        self._write_kill_reason(incarnation, DIED, charged, detail)

    def _write_kill_reason(self, incarnation: str, kind: int, charged: Sequence[int] | None, detail: str) -> None:
        rows = charged if charged is not None and len(charged) <= MOST_CHARGED else None
        packed, count = struct.pack(f"<{len(rows or ())}H", *(rows or ())), 255 if rows is None else len(rows)
        at = self._kill_reasons_at + (written := self._words[WRITTEN_OFFSET // 4]) % KILL_REASONS * KILL_REASON_SIZE
        KILL_REASON.pack_into(self._memory, at, text(incarnation, 40), kind, count, packed, text(detail, 96))
        self._words[WRITTEN_OFFSET // 4] = (written + 1) % 2**32
        self.try_to_publish()  # the rescuer of another tree must also find it

    def kill_reason(self, incarnation: str) -> KillReason | None:
        """Return why this incarnation ended; None: unknown."""
        wanted = text(incarnation, 40).ljust(40, b"\0")
        for number in range(KILL_REASONS):
            at = self._kill_reasons_at + number * KILL_REASON_SIZE
            name, kind, count, rest, detail = KILL_REASON.unpack_from(self._memory, at)
            if name == wanted and kind in KILL_REASON_NAMES:
                rows = struct.unpack(f"<{MOST_CHARGED}H", rest)
                return KillReason(KILL_REASON_NAMES[kind], None if count == 255 else rows[:count], string(detail))
        return None


def _size(slots: Sequence[tuple[str, int]]) -> int:
    rows = sum(count for _, count in slots)
    return HEADER_SIZE + len(slots) * SLOT_SIZE + rows * ROW_SIZE + KILL_REASONS * KILL_REASON_SIZE


def _begin(memory: Memory, slots: Sequence[tuple[str, int]], app: str) -> None:
    """Write the header and the empty slots."""
    pid, rows = os.getpid(), sum(count for _, count in slots)
    head = (MAGIC, len(slots), rows, pid, 0, 0, process_start(pid), text(app, NAME), pid_namespace())
    HEADER.pack_into(memory, 0, *head)
    struct.pack_into("<Q", memory, TREE.start, secrets.randbits(63) | 1)
    first = 0
    for index, (name, count) in enumerate(slots):
        at = HEADER_SIZE + index * SLOT_SIZE
        SLOT.pack_into(memory, at, text(name, NAME), b"", 0, EMPTY, 0, 0, 0, first, count, 0, 0)
        first += count


def _write(descriptor: int, memory: Memory) -> None:
    """Write the whole memory in one call: the kernel reads it with the file locked, so the last write is the newest."""
    if os.pwrite(descriptor, memory, 0) < len(memory):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
