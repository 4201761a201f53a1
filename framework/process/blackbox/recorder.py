"""The recorder of black boxes, in the supervisor: it keeps what is known of a process before a kill and after a death.

Nothing here waits for a child longer than `dump.WITHIN`, and nothing raises: a kill comes first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from resource import struct_rusage
from typing import Any, TypeVar

from framework.model.black_box import BlackBox
from framework.process.blackbox.dump import Stacks
from framework.process.blackbox.frames import Frame, innermost, of_handler, of_notes, shown, threads_of
from framework.process.blackbox.notes import Notes, Pages
from framework.process.blackbox.store import Store
from framework.process.scoreboard import RowState, Scoreboard

MOST_JOBS = 32  # jobs of one process that are recorded
_NOTHING = BlackBox()
T = TypeVar("T")


class Recorder:
    """The recorder of one tree.

    Args:
        board, pages, stacks, store: of the tree.
    """

    def __init__(self, board: Scoreboard, pages: Pages, stacks: Stacks, store: Store) -> None:
        self._board = board
        self._pages = pages
        self._stacks = stacks
        self._store = store
        self._kept: dict[str, dict[str, Any]] = {}  # by incarnation, the entry of a process that is being killed
        self._events = memory_events()

    def clear(self, index: int) -> None:
        """Forget what a slot's last process has written, before the next one starts."""
        self._pages.of(index).clear()
        self.forget(index)

    def ask(self, index: int, pid: int) -> None:
        """Ask a process that will be killed soon for its stacks."""
        _tried(lambda: self._stacks.ask(index, pid), None)

    def forget(self, index: int) -> None:
        """Forget the stacks of a process that was asked: it is not killed."""
        _tried(lambda: self._stacks.take(index), "")

    def wait(self, processes: Sequence[tuple[int, int]]) -> None:
        """Wait for a moment for the stacks of processes that are killed now, given as (slot, pid)."""
        for index, pid in processes:
            self.ask(index, pid)
        _tried(lambda: self._stacks.wait(processes), None)

    def keep(self, index: int, incarnation: str, charged: Sequence[int] | None) -> BlackBox:
        """Keep what is known of a process right after its kill.

        Args:
            charged: the rows whose jobs are to blame; None: all that run.

        Returns:
            the black box of the first job, or of the idle process, for the log.
        """
        return _tried(lambda: self._keep(index, incarnation, charged), _NOTHING)

    def _keep(self, index: int, incarnation: str, charged: Sequence[int] | None) -> BlackBox:
        threads, notes = threads_of(self._stacks.take(index)), self._pages.of(index)
        busy = [row for row in self._board.busy_rows(index) if not row.settling]
        rows = [row for row in busy if charged is None or row.row in charged]
        boxes = {_name(row.job_id, row.delivery): _box(row, threads, notes) for row in rows[:MOST_JOBS]}
        if rows:
            self._kept[incarnation] = {"jobs": {name: box.of_job() for name, box in boxes.items()}}
            self._store.write(incarnation, {"final": False, **self._kept[incarnation]})
        return next(iter(boxes.values()), None) or _of_frames(_main(threads))

    def close(self, index: int, incarnation: str, busy: Sequence[RowState], usage: struct_rusage) -> None:
        """Complete the black box of a process that has ended with jobs in it. `busy`: its rows when it ended."""
        _tried(lambda: self._close(index, incarnation, busy, usage), None)

    def _close(self, index: int, incarnation: str, busy: Sequence[RowState], usage: struct_rusage) -> None:
        entry, events = self._kept.pop(incarnation, None), memory_events()
        before, self._events = self._events, events
        if entry is None:
            rows = [row for row in busy if not row.settling][:MOST_JOBS]
            if not rows:
                return
            notes = self._pages.of(index)
            jobs = {_name(row.job_id, row.delivery): _box(row, {}, notes).of_job() for row in rows}
            grown = {name: count - before.get(name, 0) for name, count in events.items()}
            entry = {"jobs": jobs, "memory_events": {name: count for name, count in grown.items() if count > 0}}
        entry |= {"peak_memory": usage.ru_maxrss * 1024, "cpu_time": round(usage.ru_utime + usage.ru_stime, 6)}
        self._store.write(incarnation, {"final": True, **entry})


def box_of(entry: dict[str, Any], job_id: str, delivery: int) -> BlackBox | None:
    """Return the black box of one job from the entry of its process; None: the entry does not have it."""
    found = entry["jobs"].get(_name(job_id, delivery))
    if found is None:
        return None
    return BlackBox.of_plain({**entry, **found})


def _name(job_id: str, delivery: int) -> str:
    return f"{delivery} {job_id.encode('utf-8', 'replace')[:64].decode('utf-8', 'ignore')}"  # a row cuts the id there


def _box(row: RowState, threads: dict[int, list[Frame]], notes: Notes) -> BlackBox:
    """Return what is known of a job while it runs: a thread of its own, suspended coroutines, or the main thread."""
    ident = notes.ident(row.row)
    noted = of_notes(notes.frames_of(row.row, row.job_id, row.delivery))
    dumped = of_handler(threads.get(ident, []) if ident else _main(threads))
    # Of a suspended coroutine the main thread shows only the loop. Without an answer in time, older notes are better
    # than nothing.
    suspended = bool(noted) and any(frame.function == "_run_once" for frame in _main(threads))
    frames = noted if not dumped or (suspended and not (ident or row.on_cpu)) else dumped
    box = _of_frames(frames)
    lines = notes.lines_of(row.job_id, row.delivery)
    return BlackBox(box.function, box.file, box.line, box.stack, lines)


def _of_frames(frames: Sequence[Frame]) -> BlackBox:
    if not frames:
        return _NOTHING
    frame = innermost(frames)
    return BlackBox(frame.function, frame.file, frame.line, shown(frames))


def _main(threads: dict[int, list[Frame]]) -> list[Frame]:
    return list(threads.values())[-1] if threads else []


def memory_events() -> dict[str, int]:
    """Return the counts in `memory.events` of this process's cgroup; empty where there is no cgroup v2."""
    try:
        paths = [line[3:] for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::")]
        text = Path(f"/sys/fs/cgroup{paths[0].rstrip('/')}/memory.events").read_text()
        return {name: int(count) for name, count in (line.split() for line in text.splitlines())}
    except (OSError, ValueError, IndexError):
        return {}


def _tried(call: Callable[[], T], otherwise: T) -> T:
    """Return what a call returns, or something else if it fails, whatever a dying process has left in the memory."""
    try:
        return call()
    except Exception:
        return otherwise
