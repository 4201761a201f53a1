"""The layout of a scoreboard: where each field is, and the records that are read from it."""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from typing import Final

MAGIC = b"WBOARD5\n"
MAINTENANCE: Final = "maintenance"  # slots that run no jobs
EXPORTER: Final = "exporter"
HOOKS: Final = "hooks"
EXIT_REASONS = (  # the first and the last were added later; the others keep their positions
    "drain_timeout", "drained", "recycled", "crashed", "killed", "timeout", "failed_to_start", "out_of_memory", "stuck",
    "ruined", "failed_to_close",
)  # fmt: skip
STATES = ("empty", "starting", "ready", "leaving", "gone")
EMPTY, STARTING, READY, LEAVING, GONE = range(5)

Memory = mmap.mmap | bytearray  # the board itself, or the content of a copy
NAME = 128  # bytes of an app's or slot's name (a queue of 100 characters and the number of its process)
# magic, slots, rows, supervisor pid, kill reasons written, deadline, supervisor's start, app, pid namespace; after them
# the time for which the tree stood still, and a number that no other tree has
HEADER = struct.Struct(f"<8sIIIIQQ{NAME}sQ")
# name, incarnation, pid, state, pid's start, tick, ready, first row, rows, used, jobs
SLOT = struct.Struct(f"<{NAME}s40sIIQQQIIII")
EXITS = struct.Struct("<11I")
# delivery, busy, on_cpu, settling, started, soft, hard, job id, queue; before them a sequence number of 8 bytes, after
# them the thread that runs the jobs of this row, 4 bytes
ROW = struct.Struct("<IBBBxQQQ64s100s")
BUSY_OFFSET, CPU_OFFSET, SETTLING_OFFSET = 12, 13, 14  # from the sequence number
KILL_REASON = struct.Struct("<40sBB36s2x96s")  # incarnation, kind, number of charged rows, the rows, a detail
HEADER_SIZE, SLOT_SIZE, ROW_SIZE, KILL_REASON_SIZE = 208, 368, 208, 176
PID_OFFSET, STATE_OFFSET, START_OFFSET, TICK_OFFSET, READY_OFFSET = 168, 172, 176, 184, 192
USED_OFFSET, JOBS_OFFSET, TOLD_OFFSET, EXITS_OFFSET, ENGINE_OFFSET = 208, 212, 216, 220, 264
RUIN_OFFSET, CAUSE = 272, slice(276, 368)  # 0 = not ruined, 1 = no row is charged, otherwise the charged row + 2
WRITTEN_OFFSET, DEADLINE_OFFSET, STILL_OFFSET, TREE = 20, 24, 176, slice(184, 192)
KILL_REASONS, MOST_CHARGED = 256, 18
PLANNED, TIMEOUT, DIED = 1, 2, 3
KILL_REASON_NAMES = {PLANNED: "planned", TIMEOUT: "timeout", DIED: "died"}


@dataclass(frozen=True, slots=True)
class SlotState:
    """One slot as it was last written; times are in monotonic ns."""

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
        """Return whether it runs jobs: it is not maintenance, the exporter, or hooks."""
        return self.name not in (MAINTENANCE, EXPORTER, HOOKS)


@dataclass(frozen=True, slots=True)
class RowState:
    """A running job, as its row on the board says.

    `soft` and `hard` are its deadlines in monotonic ns, 0: none; `on_cpu`: its code runs now; `settling`: its handler
    has ended, and its outcome is being settled; `whole`: the row was not read during a write; `thread`: the kernel's
    number of the thread that runs it, 0: the row has no thread of its own; `queue`: the queue from which it was
    claimed.
    """

    row: int
    job_id: str
    delivery: int
    started: int
    soft: int
    hard: int
    on_cpu: bool
    settling: bool = False
    whole: bool = True
    thread: int = 0
    queue: str = ""


@dataclass(frozen=True, slots=True)
class KillReason:
    """The reason why an incarnation ended.

    Attributes:
        kind: `planned` or `timeout`: the supervisor killed it; `died`: it died by itself, or another process killed it.
        charged: unless the kill was planned, the rows that are charged; None: all that had started.
        detail: for `died`, how it died, for example `signal SIGSEGV`.
    """

    kind: str
    charged: tuple[int, ...] | None = None
    detail: str = ""

    def charges(self, row: int) -> bool:
        """Return whether the job of this row is charged."""
        return self.kind != "planned" and (self.charged is None or row in self.charged)


def text(value: str, size: int) -> bytes:
    return value.encode("utf-8", "replace")[:size]


def string(value: bytes) -> str:
    return value.rstrip(b"\0").decode("utf-8", "replace")


def before_deadline(drain: float, seconds: float) -> float:
    """Return how long before the drain deadline a stage begins: `seconds`, or less if the drain itself is short."""
    return min(seconds, drain * 0.2 * seconds)
