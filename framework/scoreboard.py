"""What every process of a tree does at this moment, in a shared file: who runs which job until when.

The run record (in the engine) is the truth of what had started; this says whom to kill when, and why somebody died.
One writer per field: a slot's process writes its slot and rows, the supervisor writes headers, exits and verdicts.
Times are CLOCK_MONOTONIC in nanoseconds, the same for all processes of a host; 0 = none.

What others read at any moment is stored through a cast view: one aligned word, old or new. `struct.pack_into` is unfit
for that: it fills its place with zeros first, and a reader in between sees a loop that has not turned since boot.
"""

from __future__ import annotations

import mmap
import os
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

MAGIC = b"WBOARD2\n"
MAINTENANCE: Final = "maintenance"  # slots that run no jobs
EXPORTER: Final = "exporter"
EXIT_REASONS = (
    "drained", "recycled", "crashed", "killed", "timeout", "failed_to_start", "out_of_memory", "stuck", "ruined",
)  # fmt: skip
STATES = ("empty", "starting", "ready", "leaving", "gone")
EMPTY, STARTING, READY, LEAVING, GONE = range(5)

# magic, slots, rows, supervisor pid, verdicts written, deadline, supervisor's start, app, pid namespace; then the time
# for which the tree stood still
_HEADER = struct.Struct("<8sIIIIQQ48sQ")
# name, incarnation, pid, state, pid's start, tick, ready, first row, rows, used, jobs
_SLOT = struct.Struct("<64s40sIIQQQIIII")
_EXITS = struct.Struct("<9I")
# delivery, busy, on_cpu, settling, started, soft, hard, job id; before them a sequence of 8 bytes
_ROW = struct.Struct("<IBBBxQQQ64s")
_VERDICT = struct.Struct("<40sBB36s2x96s")  # incarnation, kind, number of guilty rows, the rows, a detail
_HEADER_SIZE, _SLOT_SIZE, _ROW_SIZE, _VERDICT_SIZE = 128, 304, 112, 176
_PID_OFFSET, _STATE_OFFSET, _START_OFFSET, _TICK_OFFSET, _READY_OFFSET = 104, 108, 112, 120, 128
_USED_OFFSET, _JOBS_OFFSET, _TOLD_OFFSET, _EXITS_OFFSET, _ENGINE_OFFSET = 144, 148, 152, 160, 200
_RUIN_OFFSET, _CAUSE = 208, slice(212, 304)  # 0 = not ruined, 1 = nobody is charged, else the charged row + 2
_WRITTEN_OFFSET, _DEADLINE_OFFSET, _STILL_OFFSET = 20, 24, 96
_VERDICTS, _MOST_GUILTY = 256, 18
_QUICK_TRIES, _MOST_TRIES = 20, 150  # to read a row whole; a writer may lose the processor for a tenth of a second
PLANNED, TIMEOUT, DIED = 1, 2, 3
_VERDICT_NAMES = {PLANNED: "planned", TIMEOUT: "timeout", DIED: "died"}


@dataclass(frozen=True, slots=True)
class SlotState:
    """A slot as last written; times in monotonic ns."""

    index: int
    name: str
    incarnation: str
    pid: int
    pid_start: int
    state: int
    tick: int
    ready: int
    rows: int
    used: int
    jobs: int
    exits: tuple[int, ...]

    @property
    def is_worker(self) -> bool:
        """It runs jobs: neither maintenance nor the exporter."""
        return self.name not in (MAINTENANCE, EXPORTER)


@dataclass(frozen=True, slots=True)
class RowState:
    """A running job; `soft` and `hard` are its deadlines in monotonic ns, 0 = none; `on_cpu`: its code runs now;
    `settling`: its handler has ended, and the engine is being told."""

    row: int
    job_id: str
    delivery: int
    started: int
    soft: int
    hard: int
    on_cpu: bool
    settling: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why an incarnation ended.

    Attributes:
        kind: `planned` or `timeout`: the supervisor killed it; `died`: by itself, or by somebody else.
        guilty: unless it was planned, the rows that are charged; None = all that had started.
        detail: for `died`, how: `signal SIGSEGV`.
    """

    kind: str
    guilty: tuple[int, ...] | None = None
    detail: str = ""

    def charges(self, row: int) -> bool:
        """Whether the job of this row pays for the kill."""
        return self.kind != "planned" and (self.guilty is None or row in self.guilty)


def before_deadline(drain: float, seconds: float) -> float:
    """How long before the drain deadline a stage begins: `seconds`, less when the drain itself is short."""
    return min(seconds, drain * 0.2 * seconds)


class Scoreboard:
    """The shared file, mapped. Create it once per supervisor; children inherit the mapping or open it by path."""

    def __init__(self, path: Path, memory: mmap.mmap) -> None:
        self.path = path
        self._memory = memory
        self._words = memoryview(memory).cast("I")
        self._quads = memoryview(memory).cast("Q")
        _, self.slots, self.rows, *_ = _HEADER.unpack_from(memory, 0)
        self._rows_at = _HEADER_SIZE + self.slots * _SLOT_SIZE
        self._verdicts_at = self._rows_at + self.rows * _ROW_SIZE

    @classmethod
    def create(cls, path: Path, slots: Sequence[tuple[str, int]], *, app: str) -> Scoreboard:
        """A new board for slots of (name, rows). Its blocks are allocated now: a sparse map on a full disk is SIGBUS.

        Raises OSError: no space.
        """
        size = _size(slots)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            _allocate(descriptor, size)
            memory = mmap.mmap(descriptor, size)
        except OSError:
            os.unlink(temporary)
            raise
        finally:
            os.close(descriptor)
        _begin(memory, slots, app)
        os.rename(temporary, path)
        return cls(path, memory)

    @classmethod
    def in_memory(cls, slots: Sequence[tuple[str, int]], *, app: str) -> Scoreboard:
        """A new board without a file: only the processes of the tree see it, as long as this process lives."""
        descriptor, size = os.memfd_create("board"), _size(slots)
        os.ftruncate(descriptor, size)
        memory = mmap.mmap(descriptor, size)
        _begin(memory, slots, app)
        return cls(Path(f"/proc/{os.getpid()}/fd/{descriptor}"), memory)

    @classmethod
    def open(cls, path: Path) -> Scoreboard:
        """An existing board. Raises ValueError: not one; OSError."""
        in_memory = path.parts[:2] == ("/", "proc")
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | (0 if in_memory else os.O_NOFOLLOW))
        try:
            size = os.fstat(descriptor).st_size
            if size < _HEADER_SIZE:
                raise ValueError(f"{path} is no scoreboard")
            memory = mmap.mmap(descriptor, size)
        finally:
            os.close(descriptor)
        magic, slots, rows, *_ = _HEADER.unpack_from(memory, 0)
        expected = _HEADER_SIZE + slots * _SLOT_SIZE + rows * _ROW_SIZE + _VERDICTS * _VERDICT_SIZE
        if magic != MAGIC or size != expected:
            raise ValueError(f"{path} is no scoreboard of this version")
        return cls(path, memory)

    # --- the tree ---------------------------------------------------------------------------------------------------

    @property
    def supervisor(self) -> int:
        """Pid of the supervisor that made it."""
        return int(_HEADER.unpack_from(self._memory, 0)[3])

    def supervised(self) -> bool:
        """Whether that supervisor lives."""
        _, _, _, pid, _, _, start, _, _ = _HEADER.unpack_from(self._memory, 0)
        return bool(pid) and process_start(pid) == start

    def within_sight(self) -> bool:
        """Whether its pids mean to us what they meant to its writer: containers that share a store have their own."""
        return int(_HEADER.unpack_from(self._memory, 0)[8]) == pid_namespace()

    @property
    def app(self) -> str:
        """Name of the app that runs."""
        return _string(_HEADER.unpack_from(self._memory, 0)[7])

    @property
    def deadline(self) -> int:
        """The drain deadline in monotonic ns, 0 while nothing drains."""
        return self._quads[_DEADLINE_OFFSET // 8]

    @deadline.setter
    def deadline(self, value: int) -> None:
        self._quads[_DEADLINE_OFFSET // 8] = value

    @property
    def stood_still(self) -> float:
        """Seconds for which the whole tree has stood still since its start: every deadline is later by them.

        Written by the supervisor, by maintenance once that is dead.
        """
        return self._quads[_STILL_OFFSET // 8] / 1e9

    @stood_still.setter
    def stood_still(self, seconds: float) -> None:
        self._quads[_STILL_OFFSET // 8] = int(seconds * 1e9)

    # --- slots ------------------------------------------------------------------------------------------------------

    def _slot_at(self, index: int) -> int:
        return _HEADER_SIZE + index * _SLOT_SIZE

    def occupy(self, index: int, incarnation: str) -> None:
        """By the supervisor before a start: a new life in the slot, its rows empty."""
        at = self._slot_at(index)
        name, _, _, _, _, _, _, first, rows, _, _ = _SLOT.unpack_from(self._memory, at)
        _SLOT.pack_into(self._memory, at, name, _text(incarnation, 40), 0, STARTING, 0, 0, 0, first, rows, 0, 0)
        self._words[(at + _TOLD_OFFSET) // 4] = 0
        self._quads[(at + _ENGINE_OFFSET) // 8] = 0
        self._words[(at + _RUIN_OFFSET) // 4] = 0
        for row in range(first, first + rows):
            offset = self._rows_at + row * _ROW_SIZE
            self._memory[offset : offset + _ROW_SIZE] = bytes(_ROW_SIZE)

    def set_pid(self, index: int, pid: int, pid_start: int) -> None:
        """By the supervisor after a start; `pid_start` tells a reused pid apart (clock ticks since boot)."""
        at = self._slot_at(index)
        self._words[(at + _PID_OFFSET) // 4] = pid
        self._quads[(at + _START_OFFSET) // 8] = pid_start

    def set_state(self, index: int, state: int, now: int) -> None:
        """By the process in the slot."""
        at = self._slot_at(index)
        if state == READY:
            self._quads[(at + _READY_OFFSET) // 8] = now
        self._quads[(at + _TICK_OFFSET) // 8] = now
        self._words[(at + _STATE_OFFSET) // 4] = state

    def tick(self, index: int, now: int, *, used: int = 0, jobs: int = 0) -> None:
        """By the process in the slot: its loop turns."""
        at = self._slot_at(index)
        self._quads[(at + _TICK_OFFSET) // 8] = now
        self._words[(at + _USED_OFFSET) // 4] = used
        self._words[(at + _JOBS_OFFSET) // 4] = jobs

    def slot(self, index: int) -> SlotState:
        """A slot as it is now."""
        at = self._slot_at(index)
        name, incarnation, pid, state, pid_start, *_, rows, used, jobs = _SLOT.unpack_from(self._memory, at)
        tick, ready = (self._quads[(at + offset) // 8] for offset in (_TICK_OFFSET, _READY_OFFSET))
        exits = _EXITS.unpack_from(self._memory, at + _EXITS_OFFSET)
        return SlotState(
            index, _string(name), _string(incarnation), pid, pid_start, state, tick, ready, rows, used, jobs, exits
        )

    def all_slots(self) -> list[SlotState]:
        """All slots as they are now."""
        return [self.slot(index) for index in range(self.slots)]

    def count_exit(self, index: int, reason: str) -> None:
        """By the supervisor: one more end of a process of this slot."""
        at = self._slot_at(index) + _EXITS_OFFSET + 4 * EXIT_REASONS.index(reason)
        self._words[at // 4] += 1

    def tell_to_leave(self, index: int) -> None:
        """Write for the supervisor, before its SIGTERM, that a process shall leave: a handler may take the signal."""
        self._words[(self._slot_at(index) + _TOLD_OFFSET) // 4] = 1

    def told_to_leave(self, index: int) -> bool:
        """Return True once the supervisor has told this process to leave."""
        return bool(self._words[(self._slot_at(index) + _TOLD_OFFSET) // 4])

    def engine_worked(self, index: int, now: int) -> None:
        """Write for maintenance that the engine has just done everything that was asked of it."""
        self._quads[(self._slot_at(index) + _ENGINE_OFFSET) // 8] = now

    def engine_worked_at(self) -> int:
        """Return when the engine last worked in the maintenance process; 0 = never."""
        return max(self._quads[(self._slot_at(index) + _ENGINE_OFFSET) // 8] for index in range(self.slots))

    def set_ruin(self, index: int, cause: str, charged: int | None) -> None:
        """Write for a worker that can do nothing any more why, and the row whose job is charged with it."""
        at = self._slot_at(index)
        self._memory[at + _CAUSE.start : at + _CAUSE.stop] = _text(cause, 92).ljust(92, b"\0")
        self._words[(at + _RUIN_OFFSET) // 4] = 1 if charged is None else charged + 2

    def ruin(self, index: int) -> Verdict | None:
        """Return how the jobs of a worker are resolved that has called itself ruined; None: it has not."""
        at = self._slot_at(index)
        code, cause = self._words[(at + _RUIN_OFFSET) // 4], self._memory[at + _CAUSE.start : at + _CAUSE.stop]
        return Verdict("died", () if code == 1 else (code - 2,), _string(cause)) if code else None

    # --- rows -------------------------------------------------------------------------------------------------------

    def row_writer(self, index: int, row: int) -> RowWriter:
        """For the process in the slot: the place of its concurrent job number `row`."""
        first = _SLOT.unpack_from(self._memory, self._slot_at(index))[7]
        return RowWriter(row, self._memory, self._quads, self._rows_at + (first + row) * _ROW_SIZE)

    def busy_rows(self, index: int) -> list[RowState]:
        """The jobs that run in a slot."""
        first, count = _SLOT.unpack_from(self._memory, self._slot_at(index))[7:9]
        found = []
        for row in range(count):
            state = self._row(row, self._rows_at + (first + row) * _ROW_SIZE)
            if state is not None:
                found.append(state)
        return found

    def _row(self, row: int, at: int) -> RowState | None:
        if not self._memory[at + 12]:  # idle, as most are at most times
            return None
        for tries in range(_MOST_TRIES):
            before = self._quads[at // 8]
            fields = self._memory[at + 8 : at + 8 + _ROW.size]
            if before % 2 == 0 and self._quads[at // 8] == before:
                break
            if tries >= _QUICK_TRIES:
                time.sleep(0.001)  # the writer has lost the processor in the middle of its write
        # A writer killed in the middle leaves an odd sequence: what stands there is the best that is known.
        delivery, busy, on_cpu, settling, started, soft, hard, job_id = _ROW.unpack(fields)
        if not busy:
            return None
        return RowState(row, _string(job_id), delivery, started, soft, hard, bool(on_cpu), bool(settling))

    # --- verdicts ---------------------------------------------------------------------------------------------------

    def write_verdict(self, incarnation: str, kind: int, guilty: Sequence[int] | None = None) -> None:
        """By the supervisor before SIGKILL. A table of 256, the oldest is overwritten."""
        self._write_verdict(incarnation, kind, guilty, "")

    def write_death(self, incarnation: str, detail: str, guilty: Sequence[int] | None = None) -> None:
        """By the supervisor when a process died that it had not killed: what is known of it, at most 96 bytes."""
        self._write_verdict(incarnation, DIED, guilty, detail)

    def _write_verdict(self, incarnation: str, kind: int, guilty: Sequence[int] | None, detail: str) -> None:
        rows = guilty if guilty is not None and len(guilty) <= _MOST_GUILTY else None
        packed, count = struct.pack(f"<{len(rows or ())}H", *(rows or ())), 255 if rows is None else len(rows)
        at = self._verdicts_at + (written := self._words[_WRITTEN_OFFSET // 4]) % _VERDICTS * _VERDICT_SIZE
        _VERDICT.pack_into(self._memory, at, _text(incarnation, 40), kind, count, packed, _text(detail, 96))
        self._words[_WRITTEN_OFFSET // 4] = (written + 1) % 2**32

    def verdict(self, incarnation: str) -> Verdict | None:
        """Why this incarnation ended; None: nobody knows."""
        wanted = _text(incarnation, 40).ljust(40, b"\0")
        for number in range(_VERDICTS):
            at = self._verdicts_at + number * _VERDICT_SIZE
            name, kind, count, rest, detail = _VERDICT.unpack_from(self._memory, at)
            if name == wanted and kind in _VERDICT_NAMES:
                rows = struct.unpack(f"<{_MOST_GUILTY}H", rest)
                return Verdict(_VERDICT_NAMES[kind], None if count == 255 else rows[:count], _string(detail))
        return None


class RowWriter:
    """The place of one concurrent job. Written after the run record, cleared after the settling."""

    __slots__ = ("_at", "_fields", "_memory", "_place", "_quads", "_sequence", "row")

    def __init__(self, row: int, memory: mmap.mmap, quads: memoryview[int], at: int) -> None:
        self.row = row
        self._memory = memory
        self._quads = quads
        self._at = at
        self._place = at // 8  # of the sequence
        self._fields = slice(at + 8, at + 8 + _ROW.size)
        self._sequence = 0

    def start(self, job_id: str, delivery: int, started: int, soft: int, hard: int) -> None:
        """A job runs here from now on; times in monotonic ns, 0 = no deadline."""
        self._sequence += 2
        self._quads[self._place] = self._sequence - 1
        self._memory[self._fields] = _ROW.pack(delivery, 1, 0, 0, started, soft, hard, _text(job_id, 64))
        self._quads[self._place] = self._sequence

    def on_cpu(self, running: bool) -> None:
        """Whether this job's code runs at this moment: names the one that blocks an event loop."""
        self._memory[self._at + 13] = running

    def ended(self) -> None:
        """The handler has ended: what the engine takes from here on is not the job's time."""
        self._memory[self._at + 14] = 1

    def clear(self) -> None:
        """Nothing runs here."""
        self._memory[self._at + 12] = 0


def _size(slots: Sequence[tuple[str, int]]) -> int:
    rows = sum(count for _, count in slots)
    return _HEADER_SIZE + len(slots) * _SLOT_SIZE + rows * _ROW_SIZE + _VERDICTS * _VERDICT_SIZE


def _begin(memory: mmap.mmap, slots: Sequence[tuple[str, int]], app: str) -> None:
    """Writes the header and the empty slots."""
    pid, rows = os.getpid(), sum(count for _, count in slots)
    head = (MAGIC, len(slots), rows, pid, 0, 0, process_start(pid), _text(app, 48), pid_namespace())
    _HEADER.pack_into(memory, 0, *head)
    first = 0
    for index, (name, count) in enumerate(slots):
        at = _HEADER_SIZE + index * _SLOT_SIZE
        _SLOT.pack_into(memory, at, _text(name, 64), b"", 0, EMPTY, 0, 0, 0, first, count, 0, 0)
        first += count


def _allocate(descriptor: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
    else:  # macOS: write it out instead
        os.pwrite(descriptor, bytes(size), 0)


def _text(value: str, size: int) -> bytes:
    return value.encode("utf-8", "replace")[:size]


def _string(value: bytes) -> str:
    return value.rstrip(b"\0").decode("utf-8", "replace")


def pid_namespace() -> int:
    """Which pid namespace this process is in; 0 where there is none."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0


def process_start(pid: int) -> int:
    """Start of a process in clock ticks since boot: with the pid it names one life; 0 = gone, or nobody can say."""
    try:
        with open(f"/proc/{pid}/stat", errors="replace") as stat:
            # The command before the last parenthesis may hold any character.
            return int(stat.read().rpartition(")")[2].split()[19])
    except (OSError, IndexError):
        return 0
