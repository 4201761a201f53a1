"""Starts and ends of children: the supervisor starts its children, reaps them, and decides when to start them again."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from itertools import count

from framework.model.events import ProcessExited, ProcessStarted
from framework.process import orphans
from framework.process.scoreboard import GONE, LEAVING, PLANNED, RowState, before_deadline, process_start
from framework.process.signals import poke
from framework.process.supervisor import children, platform
from framework.process.supervisor.child import Child, describe_exit, exit_reason
from framework.process.supervisor.children import REFUSED, ChildInfo, ChildSpec
from framework.process.supervisor.drain import Drain
from framework.process.supervisor.policy import Budget
from framework.process.supervisor.tree import Tree

LAST_BACKOFF = 1.0  # seconds; abandoned leases wait for the children that leave last
_FAILURES = ("crashed", "killed", "out_of_memory", "stuck", "failed_to_start", "failed_to_close", "ruined")
_OUTSIDE_BUDGET = ("failed_to_start", "failed_to_close")


class Restarts:
    """The part of the supervisor that starts every child of a tree again.

    Args:
        start: starts a child and returns its pid.
        waker: descriptor; a byte written to it wakes the supervisor.
        poke: (reader, writer) of the pipe that tells a child that another child died.
    """

    def __init__(
        self, tree: Tree, drain: Drain, start: Callable[[ChildSpec, ChildInfo], int], waker: int, poke: tuple[int, int]
    ) -> None:
        self._tree = tree
        self._drain = drain
        self._start_child = start
        self._waker = waker
        self._poke_reader, self._poke = poke
        self._budget = Budget(tree.options.restart_budget, tree.options.restart_window)
        self._renewing: list[tuple[Child, str]] = []  # children to renew, each with the incarnation that must end
        self._oom_kills = platform.oom_kills()
        self._name = orphans.tree_of(tree.board)
        self._births = count(1)
        self._ended: set[int] = set()  # orphan processes that were killed at the last look and may not be reaped yet

    # --- births -----------------------------------------------------------------------------------------------------

    def start_due(self, now: float) -> None:
        """Start every child whose time has come."""
        # Those that leave last start first: they rescue what an earlier tree of this service left behind.
        for child in [*self._tree.last, *self._tree.workers]:
            if child.pid is None and (due_at := child.due_at) is not None and due_at <= now:
                self._start(child, now)

    def _start(self, child: Child, now: float) -> None:
        tree, spec = self._tree, child.spec
        incarnation = f"{spec.index:x}-{secrets.token_hex(8)}"
        mark = orphans.mark_of(self._name, next(self._births))
        info = ChildInfo(spec.name, spec.index, incarnation, os.getpid(), self._waker, self._poke_reader, mark)
        tree.board.occupy(spec.index, incarnation)
        if tree.recorder is not None:
            tree.recorder.clear(spec.index)
        try:
            pid = self._start_child(spec, info)
        except OSError as error:  # no memory, too many processes
            child.start_at = now + max(1.0, child.backoff.delay(uptime=0.0, failed=True))
            tree.note(f"{spec.name} cannot be started: {error}", "error")
            return
        tree.board.set_pid(spec.index, pid, process_start(pid))
        child.begin(pid, info, now)
        tree.emit(ProcessStarted(spec.name, pid))

    def renew(self) -> None:
        """Replace the workers that live now, one by one."""
        self._renewing = [(child, child.incarnation) for child in self._tree.workers if child.pid is not None]

    def renew_next(self, now: float) -> None:
        """Tell the next process to leave once the replacement of the previous one is ready."""
        if self._tree.draining:
            self._renewing = []
        while self._renewing:
            child, old = self._renewing[0]
            if not child.ready or child.pid is None:
                return
            if child.incarnation == old:
                self._tell_to_leave(child, now)
                return
            self._renewing.pop(0)

    def _tell_to_leave(self, child: Child, now: float) -> None:
        if child.pid is None or child.leaving:
            return
        drain = self._tree.options.drain
        child.leaving = True
        if drain is not None:
            child.kill_at = now + drain - before_deadline(drain, 1.0)
        self._tree.terminate(child)

    # --- deaths -----------------------------------------------------------------------------------------------------

    def reap(self, now: float) -> None:
        """Record every child that has ended, and kill what it left behind."""
        died = False
        while (pid := children.next_dead()) is not None:
            child = next((child for child in self._tree.children if child.pid == pid), None)
            busy = self._tree.board.busy_rows(child.spec.index) if child else []
            code, usage = children.reap(pid)
            if child is not None:
                if self._tree.recorder is not None:  # before the board says how it died, which a rescuer waits for
                    self._tree.recorder.close(child.spec.index, child.incarnation, busy, usage)
                self._record_end(child, pid, code, busy, now)
                poke(self._poke)
            died = True
        if died:  # also for an orphan process, whose own children are adopted now
            self._end_orphans()

    def _end_orphans(self) -> None:
        """Kill the adopted orphan processes of dead children. Those of living children are left to these children."""
        living = [child for child in self._tree.children if child.pid is not None]
        adopted = platform.children() - {child.pid for child in living if child.pid is not None}
        found = orphans.orphans_of(self._name, adopted, {child.mark for child in living})
        orphans.end(self._name, found)
        if found - self._ended:
            text = f"killed {len(found)} processes that a dead worker left behind: {sorted(found)}"
            self._tree.note(text, "warning")
        self._ended = found

    def end_all_orphans(self) -> None:
        """Kill everything that the children left behind, once all of them are dead."""
        orphans.kill(self._name)

    def _record_end(self, child: Child, pid: int, code: int, busy: list[RowState], now: float) -> None:
        tree = self._tree
        slot = tree.board.slot(child.spec.index)
        child.ready = child.ready or bool(slot.ready)
        reason, detail, charged = self._write_down(child, code, busy, left=slot.state in (LEAVING, GONE))
        expected = reason in ("drained", "recycled", "timeout") or (child.leaving and child.killed != "")
        failed = reason in _FAILURES and not expected
        # The end of a process during a job is charged to the job: it must not stop the service, nor delay the slot's
        # other jobs.
        counts = failed and reason not in _OUTSIDE_BUDGET and not charged
        # A process that leaves repeatedly without a job done (something sends it SIGTERM) also backs off.
        in_vain = failed or (reason == "recycled" and slot.jobs == 0)
        slows = in_vain and (reason == "ruined" or not busy)
        child.vain = child.vain + 1 if failed and not busy and (tree.draining or not child.ready) else 0
        delay: float = child.backoff.delay(uptime=now - child.born_at, failed=slows)
        if child.spec.last and not child.spec.on_demand:
            delay = min(delay, LAST_BACKOFF)
        child.end()
        # A child that leaves last and died early has work left: it settles the jobs of the others.
        early = child.spec.last and child.killed in ("", "timeout") and reason != "drained"
        child.start_at = now + delay if early or not tree.draining else None
        again = child.due_at is not None
        if child.spec.on_demand:
            tree.board.vacate(child.spec.index)
        tree.emit(ProcessExited(child.spec.name, pid, reason, code, delay if again else None, detail))
        child.spec.ended(reason, detail)
        if counts and child.spec.vital and not tree.draining and self._budget.exceeded(now):
            tree.exit_code = 3 if code == REFUSED else 4
            tree.note(
                f"more than {tree.options.restart_budget} processes died while idle or before they were ready within "
                f"{tree.options.restart_window:g} s: giving up; last: {child.spec.name}, {detail}",
                "error",
            )
            self._drain.begin("restart budget exceeded")

    def _write_down(self, child: Child, code: int, busy: list[RowState], *, left: bool) -> tuple[str, str, bool]:
        """Write on the board how a child died; return (reason, detail, whether a job is charged with its death).

        Args:
            left: the board says that the process had decided to leave.
        """
        tree, index = self._tree, child.spec.index
        kills = platform.oom_kills()
        reason = exit_reason(child, code, draining=tree.draining, left=left, out_of_memory=kills > self._oom_kills)
        self._oom_kills = kills
        detail, charged = describe_exit(code), bool(busy) and child.ready
        ruin = tree.board.ruin(index)
        if ruin is not None:
            reason, detail, charged = "ruined", ruin.detail, ruin.charged != ()
            tree.board.write_death(child.incarnation, detail, ruin.charged)
        elif child.planned(code):
            tree.board.write_kill_reason(child.incarnation, PLANNED)
        elif not child.killed:
            tree.board.write_death(child.incarnation, "out of memory" if reason == "out_of_memory" else detail)
        tree.board.count_exit(index, reason)
        return reason, detail, charged
