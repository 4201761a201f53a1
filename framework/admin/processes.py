"""The process trees of this machine on a store and what they run, from the copies of their scoreboards."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from framework.admin.queues import QueueView, last_seen
from framework.model.errors import EngineError
from framework.model.handling import Progress
from framework.process.scoreboard import EMPTY, STATES, RowState, Scoreboard, SlotState
from framework.process.scoreboard.layout import string, text
from framework.process.scoreboard.progress import ProgressReader

LAST_WORDS = 10.0  # seconds
SILENT = 180.0  # seconds without a report after which it is said: an idle queue has its turn about once a minute


@dataclass(frozen=True, slots=True)
class Run:
    """A job that runs. Moments are seconds since the epoch.

    Attributes:
        job_id: the first 64 bytes of its id.
        handler: name of its handler; empty: unknown.
        since: when it started.
        soft, hard: when it is interrupted, and when its process is killed; None: never. The time for which the disk
            stood still since does not count, so both may be later.
        settling: its handler has ended.
        progress: the last report of its handler; None: there is none.
    """

    job_id: str
    queue: str
    handler: str
    delivery: int
    since: float
    soft: float | None
    hard: float | None
    settling: bool
    progress: Progress | None = None

    def is_of(self, job_id: str, queue: str) -> bool:
        """Return whether this is a run of a job that was claimed from a queue."""
        return self.queue == queue and string(text(job_id, 64)) == self.job_id


@dataclass(frozen=True, slots=True)
class Usage:
    """The memory and the processor time of a process.

    Attributes:
        started: when it was started, in seconds since the epoch.
        memory, peak: resident bytes, now and at most. cpu: processor seconds of all its threads.
    """

    memory: int
    peak: int
    cpu: float
    started: float


@dataclass(frozen=True, slots=True)
class Process:
    """A slot of a tree.

    Attributes:
        slot: its name, as `deliveries/0`.
        pid: 0: no process runs here.
        state: starting, ready, leaving, or gone.
        memory: its resident bytes; None: unknown.
        limit: jobs that it runs at once.
        ended: attempts that have ended in it since it started, for whatever reason.
    """

    slot: str
    pid: int
    state: str
    memory: int | None
    limit: int
    runs: Sequence[Run]
    ended: int = 0


@dataclass(frozen=True, slots=True)
class Tree:
    """A supervisor with its processes.

    Attributes:
        app: the service's class.
        supervisor: its pid.
        alive: whether the supervisor lives; None: it is in another container.
        reported: when its board was renewed last, in seconds since the epoch.
        deadline: when its drain ends; None: it does not drain.
        processes: in the order of the slots. Those of a dead tree are what the board last said.
    """

    app: str
    supervisor: int
    alive: bool | None
    reported: float
    deadline: float | None
    processes: Sequence[Process]


def trees(root: Path | None, handlers: Mapping[str, str] | None = None) -> tuple[list[Tree], list[str]]:
    """Return the trees whose boards lie in a directory, and one line for each board that cannot be read.

    Args:
        root: an engine's `local_dir`; None: there is none.
        handlers: names of handlers by queue, where a service was asked.

    Raises EngineError: the directory cannot be looked at.
    """
    found, problems = [], []
    for path in _boards(root):
        try:
            board, changed = Scoreboard.open(path), path.stat().st_mtime
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            problems.append(f"{path} cannot be read: {error}")
            continue
        found.append(_tree(board, changed, handlers or {}))
    return found, problems


def _boards(root: Path | None) -> list[Path]:
    if root is None:
        return []
    run = root / "run"
    try:
        return [run / entry for entry in sorted(os.listdir(run)) if entry.endswith(".board")]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        why = f"{error.strerror or error} for uid {os.geteuid()}".lower()
        raise EngineError(f"{run}: {why}: run this as the user of the workers") from error


def _tree(board: Scoreboard, changed: float, handlers: Mapping[str, str]) -> Tree:
    alive = board.supervised() if board.within_sight() else None
    slots = [slot for slot in board.all_slots() if slot.state != EMPTY]
    reports = ProgressReader(board)
    processes = [_process(board, slot, handlers, reports, seen=alive is True) for slot in slots]
    deadline = _moment(board.deadline) if board.deadline else None
    return Tree(board.app, board.supervisor, alive, changed, deadline, processes)


def _process(
    board: Scoreboard, slot: SlotState, handlers: Mapping[str, str], reports: ProgressReader, *, seen: bool
) -> Process:
    runs = [_run(row, handlers, reports.of(slot.index, row)) for row in board.busy_rows(slot.index)]
    memory = _resident(slot.pid) if seen and slot.pid else None
    return Process(slot.name, slot.pid, STATES[slot.state], memory, slot.rows, runs, slot.jobs)


def _run(row: RowState, handlers: Mapping[str, str], progress: Progress | None) -> Run:
    soft, hard = (None if not at else _moment(at) for at in (row.soft, row.hard))
    handler, since = handlers.get(row.queue, ""), _moment(row.started)
    return Run(row.job_id, row.queue, handler, row.delivery, since, soft, hard, row.settling, progress)


def _moment(monotonic: int) -> float:
    """Return a monotonic time in ns as seconds since the epoch."""
    return time.time() - (time.monotonic_ns() - monotonic) / 1e9


def usage(process: Process) -> Usage | None:
    """Return what a process uses; None: it cannot be seen from here."""
    if not process.pid or process.memory is None:
        return None
    try:
        with open(f"/proc/{process.pid}/stat", "rb") as stat, open(f"/proc/{process.pid}/status", "rb") as status:
            fields = stat.read().rpartition(b")")[2].split()
            peak = next(line for line in status if line.startswith(b"VmHWM:"))
    except (OSError, StopIteration):
        return None
    tick = os.sysconf("SC_CLK_TCK")
    cpu, since_boot = (int(fields[11]) + int(fields[12])) / tick, int(fields[19]) / tick
    started = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + since_boot
    return Usage(process.memory, int(peak.split()[1]) * 1024, cpu, started)


def _resident(pid: int) -> int | None:
    try:
        with open(f"/proc/{pid}/statm", "rb") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None


def silence(found: Sequence[QueueView], trees: Sequence[Tree]) -> tuple[bool, float | None]:
    """Return whether it must be said that no service reports, and when the last one did; None: it is not known."""
    if any(tree.alive for tree in trees):
        return False, None
    board, told = max((tree.reported for tree in trees), default=None), last_seen(found)
    seen = max((at for at in (told, board) if at is not None), default=None)
    # Not where one on another machine has reported since: a tree's last report may come a moment after its last board.
    ended = board is not None and all(tree.alive is False for tree in trees) and (told or 0.0) < board + LAST_WORDS
    return ended or seen is None or time.time() - seen > SILENT, seen
