"""The drain of a tree: the workers leave first, then the last children one after another, under one deadline."""

from __future__ import annotations

import time

from framework.model.events import Draining
from framework.process.scoreboard import PLANNED, before_deadline
from framework.process.supervisor import children
from framework.process.supervisor.child import Child
from framework.process.supervisor.notify import Notifier
from framework.process.supervisor.tree import Tree

LEAST_GRACE = 0.1  # seconds that each child that leaves last gets at least
MOST_FAILURES = 3  # failed starts in a row after which a child that leaves last is not started again in a drain
LAST_GRACE = 0.5  # seconds after the drain deadline for the children that leave last
LONGEST = 30.0  # seconds that a child on demand gets at the end of a drain without a deadline


class Drain:
    """The part of the supervisor that stops the children of a tree in order."""

    def __init__(self, tree: Tree, notifier: Notifier) -> None:
        self._tree = tree
        self._notifier = notifier
        self._on_demand_until: float | None = None

    def begin(self, why: str) -> None:
        """Tell the workers to leave, and set one monotonic deadline for the whole drain."""
        tree, now = self._tree, time.monotonic()
        tree.draining = True
        self._notifier.send("STOPPING=1", f"STATUS=draining: {why}")
        drain = tree.options.drain
        if drain is not None:
            tree.deadline = now + drain
            tree.board.deadline = int(tree.deadline * 1e9)
        tree.emit(Draining(why, drain if drain is not None else 0.0))
        for child in tree.workers:
            child.start_at = None
            if child.pid is not None:
                child.leaving = True
                if tree.deadline is not None and drain is not None:
                    child.kill_at = tree.deadline - before_deadline(drain, 1.0)
                tree.terminate(child)

    def advance(self, now: float) -> bool:
        """Go on to the children that leave last; return True when the last process is gone."""
        tree = self._tree
        if any(child.pid is not None for child in tree.workers):
            return False
        for child in tree.last:
            if child.pid is not None and not child.leaving:
                child.leaving = True
                child.kill_at = max(self._end_of(child, now), now + LEAST_GRACE)
                tree.terminate(child)
            elif child.pid is None and not self._worth_another_life(child, now):
                child.leaving = True
                child.start_at = None
            if child.pid is not None or child.due_at is not None:
                break  # this child may still need the next one
        return all(child.pid is None and child.due_at is None for child in tree.last)

    def _end_of(self, child: Child, now: float) -> float:
        """Return when a child that leaves last must be gone: one deadline holds for all of them. A child on demand may
        go on without end, and others leave after it: it gets no grace, and always a limit."""
        deadline = self._tree.deadline
        if not child.spec.on_demand:
            return (now if deadline is None else deadline) + LAST_GRACE
        self._on_demand_until = self._on_demand_until or now + LONGEST
        return self._on_demand_until if deadline is None else deadline

    def _worth_another_life(self, child: Child, now: float) -> bool:
        """Return whether a dead child must start again to finish its work. A killed one must, one that fails each time
        must not."""
        if child.due_at is None or child.vain > MOST_FAILURES:
            return False
        deadline = self._end_of(child, now) if child.spec.on_demand else self._tree.deadline
        return deadline is None or now < deadline

    def kill_workers(self, why: str) -> None:
        """Kill the workers at once (their jobs run again elsewhere), and children on demand for good."""
        for child in self._tree.children:
            if child.spec.on_demand:
                child.start_at = None
            if child.pid is not None and not child.killed and (child.spec.on_demand or not child.spec.last):
                self._tree.kill(child, "killed", PLANNED, why)
                self._tree.exit_code = self._tree.exit_code or (0 if child.spec.on_demand else 5)

    def kill_everything(self) -> None:
        """Kill all children that are left, for whatever reason the loop ended."""
        for child in self._tree.children:
            if child.pid is not None:
                self._tree.board.write_kill_reason(child.incarnation, PLANNED)
                children.kill_group(child.pid)
                children.reap(child.pid)
                child.end()
