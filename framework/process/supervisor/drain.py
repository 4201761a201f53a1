"""The end of a tree: the workers leave first, then one after another what leaves last, all under one deadline."""

from __future__ import annotations

import time

from framework.model.events import Draining
from framework.process.scoreboard import PLANNED, before_deadline
from framework.process.supervisor import children
from framework.process.supervisor.notify import Notifier
from framework.process.supervisor.place import Place
from framework.process.supervisor.tree import Tree

LEAST_GRACE = 0.1  # seconds that each of those that leave last has
MOST_FAILURES = 3  # lives in vain after which one that leaves last is not started again in a drain
LAST_GRACE = 0.5  # seconds after the drain deadline for the children that leave last
LONGEST = 30.0  # seconds that a child on demand has at the end of a drain without a deadline


class Drain:
    """Stops the children of a tree in order."""

    def __init__(self, tree: Tree, notifier: Notifier) -> None:
        self._tree = tree
        self._notifier = notifier
        self._on_demand_until: float | None = None

    def begin(self, why: str) -> None:
        """Tells the workers to leave, under one monotonic deadline for everything that follows."""
        tree, now = self._tree, time.monotonic()
        tree.draining = True
        self._notifier.send("STOPPING=1", f"STATUS=draining: {why}")
        drain = tree.options.drain
        if drain is not None:
            tree.deadline = now + drain
            tree.board.deadline = int(tree.deadline * 1e9)
        tree.emit(Draining(why, drain if drain is not None else 0.0))
        for place in tree.workers:
            place.start_at = None
            if place.pid is not None:
                place.leaving = True
                if tree.deadline is not None and drain is not None:
                    place.kill_at = tree.deadline - before_deadline(drain, 1.0)
                tree.terminate(place)

    def advance(self, now: float) -> bool:
        """Goes on to what leaves last; True when the last process is gone."""
        tree = self._tree
        if any(place.pid is not None for place in tree.workers):
            return False
        for place in tree.last:
            if place.pid is not None and not place.leaving:
                place.leaving = True
                place.kill_at = max(self._end_of(place, now), now + LEAST_GRACE)
                tree.terminate(place)
            elif place.pid is None and not self._worth_another_life(place, now):
                place.leaving = True
                place.start_at = None
            if place.pid is not None or place.due_at is not None:
                break  # the next one may still be needed by this one
        return all(place.pid is None and place.due_at is None for place in tree.last)

    def _end_of(self, place: Place, now: float) -> float:
        """Return when one that leaves last must be gone: one deadline for all of them, whenever their turn comes. What
        lives on demand may be at it for ever, and others leave after it: it gets no grace, and a limit in any case."""
        deadline = self._tree.deadline
        if place.spec.wanted is None:
            return (now if deadline is None else deadline) + LAST_GRACE
        self._on_demand_until = self._on_demand_until or now + LONGEST
        return self._on_demand_until if deadline is None else deadline

    def _worth_another_life(self, place: Place, now: float) -> bool:
        """Return whether one that is dead shall finish its work. A killed one may, one that never works not."""
        if place.due_at is None or place.vain > MOST_FAILURES:
            return False
        deadline = self._tree.deadline if place.spec.wanted is None else self._end_of(place, now)
        return deadline is None or now < deadline

    def kill_workers(self, why: str) -> None:
        """Ends the workers at once, whose jobs run again elsewhere, and what lives on demand, for good."""
        for place in self._tree.places:
            on_demand = place.spec.wanted is not None
            if on_demand:
                place.start_at = None
            if place.pid is not None and not place.killed and (on_demand or not place.spec.last):
                self._tree.kill(place, "killed", PLANNED, why)
                self._tree.exit_code = self._tree.exit_code or (0 if on_demand else 5)

    def kill_everything(self) -> None:
        """Leaves no child behind, whatever made the loop end."""
        for place in self._tree.places:
            if place.pid is not None:
                self._tree.board.write_kill_reason(place.incarnation, PLANNED)
                children.kill_group(place.pid)
                children.reap(place.pid)
                place.end()
