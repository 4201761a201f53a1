"""The supervisor's look at the board: it notices which child became ready, and kills children past a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from framework.model.events import ProcessBecameReady
from framework.process.scoreboard import (
    DIED,
    GONE,
    LEAVING,
    PLANNED,
    READY,
    TIMEOUT,
    RowState,
    SlotState,
    before_deadline,
)
from framework.process.standstill import Standstill
from framework.process.supervisor.child import Child
from framework.process.supervisor.drain import Drain
from framework.process.supervisor.notify import Notifier
from framework.process.supervisor.platform import image, waits_for_disk, waits_for_lock
from framework.process.supervisor.tree import Kill, Tree

STUCK_AFTER = 30.0  # seconds without a turn after which an idle child counts as stuck
STANDS_STILL = 2_000_000_000  # ns without a turn after which a job is assumed to block its process
EXECUTED = "another program was executed in its place"
# Seconds before a kill at which the process is asked where it stands: on a busy machine it answers late. If the time
# between soft and hard timeout is short, half of that.
ASK_AHEAD = 0.25
SILENCE = 1.5  # seconds within which at least one child turns: an idle worker once a second, maintenance twice


class Watch:
    """The part of the supervisor that enforces the deadlines of the children and of their jobs.

    Attributes:
        hard_at: monotonic seconds of the next hard deadline of a running job.
        quiet: at the last look all children were ready, none was leaving, and no job was running.
    """

    def __init__(self, tree: Tree, drain: Drain, notifier: Notifier) -> None:
        self._tree = tree
        self._drain = drain
        self._notifier = notifier
        self._began = time.monotonic()
        self._announced = False
        self._ever_ready = False
        self._silent_since: float | None = None  # monotonic seconds; set while all children wait for the disk
        self._kills: list[Kill] = []
        self.hard_at = float("inf")
        self.quiet = False

    def look(self, now: float) -> None:
        """Read the board once, and act on it."""
        tree = self._tree
        self.hard_at = float("inf")
        living = [child for child in tree.children if child.pid is not None and not child.killed]
        slots = [tree.board.slot(child.spec.index) for child in living]
        self._listen(living, slots, now)
        self.quiet = self._silent_since is None and all(slot.state == READY for slot in slots)
        self._kills = []
        for child, slot in zip(living, slots, strict=True):
            if not child.ready and slot.ready:
                self._became_ready(child, slot)
            if self._silent_since is None:
                self._enforce(child, slot, now)
            elif child.kill_at is not None and now >= child.kill_at:
                self._end_late(child, slot)
        tree.kill_hung(self._kills)
        if not self._announced and all(child.ready for child in tree.children if child.spec.vital):
            self._announced = True
            self._notifier.send("READY=1", f"STATUS={len(tree.workers)} workers ready")
        self._check_first_ready(now)

    def _listen(self, living: Sequence[Child], slots: Sequence[SlotState], now: float) -> None:
        """Find out whether the disk stands still for all. Then no child turns, and one waits for the disk in the
        kernel, where a kill has no effect. No job is charged for that time; only a drain does not wait for it."""
        still = self._tree.still
        beats = [slot.tick / 1e9 for slot in slots if slot.state == READY]
        silent = bool(beats) and still.elapsed(max(beats), now) > SILENCE
        if silent and any(waits_for_disk(child.pid) for child in living if child.pid is not None):
            self._silent_since = self._silent_since or max(beats)
        elif self._silent_since is not None:
            still.add(self._silent_since, now)
            self._tree.board.stood_still = still.total
            self._tree.note(f"the disk stood still for {now - self._silent_since:.1f} s: deadlines are later by that")
            self._silent_since = None

    def _became_ready(self, child: Child, slot: SlotState) -> None:
        child.ready, child.image = True, image(child.pid or 0)
        self._ever_ready = self._ever_ready or not child.spec.last
        assert child.pid is not None
        self._tree.board.try_to_publish()
        self._tree.emit(ProcessBecameReady(child.spec.name, child.pid, slot.ready / 1e9 - child.born_at))

    def _enforce(self, child: Child, slot: SlotState, now: float) -> None:
        options, still = self._tree.options, self._tree.still
        # A job whose handler has ended has no deadline any more: the remaining time is the engine's.
        rows = self._tree.board.busy_rows(child.spec.index)
        busy = [row for row in rows if not row.settling]
        self.quiet = self.quiet and not rows
        running = name_holder(child.pid or 0, [later(row, still, now) for row in busy], int(now * 1e9), slot.tick)
        charged = overdue(running, int(now * 1e9), slot.tick)
        ahead = min([ASK_AHEAD, *((row.hard - row.soft) / 2e9 for row in running if row.hard)])
        coming = (at for row in running for at in (row.hard / 1e9 - ahead, row.hard / 1e9) if at > now)
        self._ask(child, overdue(running, int((now + ahead) * 1e9), slot.tick) is not None)
        self.hard_at = min(self.hard_at, *coming, float("inf"))
        if charged is not None:
            jobs = "1 job" if len(charged) == 1 else f"{len(charged)} jobs"
            self._kill(child, "timeout", TIMEOUT, f"{jobs} past the hard timeout", charged)
        elif child.kill_at is not None and now >= child.kill_at:
            self._end_late(child, slot)
        elif self._is_another_program(child, slot, now):
            self._kill(child, "crashed", DIED, EXECUTED)
        elif not child.ready and still.elapsed(child.born_at, now) > options.ready_within:
            self._kill(child, "failed_to_start", PLANNED, f"not ready within {options.ready_within:g} s")
        elif slot.state in (LEAVING, GONE) and not busy and child.kill_at is None and options.drain is not None:
            child.kill_at = now + options.drain  # it leaves by itself, and its lifespan may hang
        elif self._is_stuck(child, slot, now) and not busy:
            self._kill(child, "stuck", PLANNED, f"idle, and its loop has not turned for {STUCK_AFTER:g} s")

    def _ask(self, child: Child, soon: bool) -> None:
        """Ask a process for its stacks that will be killed soon; forget them if it will not be killed any more."""
        recorder = self._tree.recorder
        if recorder is None or child.pid is None or soon == child.asked or child.spec.on_demand:
            return
        child.asked = soon
        if soon:
            recorder.ask(child.spec.index, child.pid)
        else:
            recorder.forget(child.spec.index)

    def _is_another_program(self, child: Child, slot: SlotState, now: float) -> bool:
        """Return whether a job has replaced its worker by another program (`os.execv`). The worker's jobs are rescued
        at once, because their owner is gone, but the program would keep the slot until the last of their deadlines."""
        silent = self._tree.still.elapsed(slot.tick / 1e9, now) > SILENCE
        known = child.ready and child.image != 0  # a spawned child that is not ready has no final image yet
        return known and silent and image(child.pid or 0) not in (0, child.image)

    def _is_stuck(self, child: Child, slot: SlotState, now: float) -> bool:
        silent = self._tree.still.elapsed(slot.tick / 1e9, now) > STUCK_AFTER
        return child.ready and slot.state == READY and silent and not waits_for_disk(child.pid or 0)

    def _end_late(self, child: Child, slot: SlotState) -> None:
        """Kill a child that was told to leave and is late. A child that has settled everything and only sends its
        telemetry may go on until the deadline, and does not make the drain a failed one: a failing collector does not
        justify exit code 5."""
        tree, settled = self._tree, slot.state == GONE
        if settled and not (child.flushing or child.spec.last):
            child.flushing = True
            child.kill_at = (child.kill_at or 0.0) + before_deadline(tree.options.drain or 0.0, 1.0)
            return
        if tree.draining and not settled and child.spec.vital:
            tree.exit_code = tree.exit_code or 5
        self._kill(child, "drain_timeout", PLANNED, "told to leave, and did not in time")

    def _kill(self, child: Child, reason: str, kind: int, why: str, charged: Sequence[int] | None = None) -> None:
        """Kill a child at the end of this look, with all others that must be killed now."""
        self._kills.append(Kill(child, reason, kind, why, charged))

    def _check_first_ready(self, now: float) -> None:
        tree = self._tree
        if self._ever_ready or tree.draining or tree.still.elapsed(self._began, now) <= tree.options.ready_within:
            return
        if tree.workers:
            tree.exit_code = 1
            tree.note(f"no worker became ready within {tree.options.ready_within:g} s: giving up", "error")
            self._drain.begin("never ready")


def later(row: RowState, still: Standstill, now: float) -> RowState:
    """Return the row with its deadline moved by the standstill since its start."""
    gap = still.between(row.started / 1e9, now)
    return replace(row, hard=row.hard + int(gap * 1e9)) if gap and row.hard else row


def name_holder(
    pid: int,
    busy: list[RowState],
    now: int,
    tick: int,
    *,
    waits: Callable[[int, int], bool | None] = waits_for_lock,
) -> list[RowState]:
    """Return the rows, with `on_cpu` set on the late ones whose thread keeps the interpreter from all others.

    Such a process does not turn: its main thread waits for the interpreter. A late job whose thread does not wait holds
    the interpreter, or hangs in a call that does not need it.
    """
    if len(busy) < 2 or now - tick <= STANDS_STILL or not any(row.thread and 0 < row.hard <= now for row in busy):
        return busy
    if not waits(pid, pid):
        return busy
    return [replace(row, on_cpu=waits(pid, row.thread) is False) if row.thread else row for row in busy]


def overdue(busy: Sequence[RowState], now: int, tick: int) -> list[int] | None:
    """Return the rows to charge if the process must be killed now; None: it must not, or not yet.

    Other jobs keep the time up to their own deadlines: the process is killed when every running job is past its hard
    deadline. If one job's code blocks the event loop, the others cannot use that time: the process is killed at the
    hard deadline of that job, and only that job is charged. A row that was read during a write is ignored until the
    next turn.
    """
    late = [row for row in busy if row.whole and row.hard and now >= row.hard]
    if not late:
        return None
    blocking = [row for row in late if row.on_cpu]
    if blocking and len(busy) > 1 and now - tick > STANDS_STILL:
        return [row.row for row in blocking]
    return [row.row for row in late] if len(late) == len(busy) else None
